"""Every yaml of `configs/` composes and builds what it names; misspelt keys are refused; parts swap by override."""

import re
from inspect import signature
from pathlib import Path

import pytest
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from tests.helpers.experiments import lanes
from tests.helpers.yaml_keys import leaves

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml"))
NAMES = [name for name in NAMES if not name.startswith("local/")]
GROUPED = [name for name in NAMES if "/" in name]
WHOLE = ("experiment", "preset", "debug", "hparams_search")
"""Groups whose files change the whole configuration instead of filling one slot."""

NOT_BUILT = {
    "hydra/default": "settings of Hydra itself",
    "hydra/job_logging/warnings": "settings of Hydra itself",
    "paths/default": "paths, no object",
    "trainer/gpu": "needs an accelerator",
    "trainer/ddp": "needs accelerators",
    "trainer/fsdp": "needs accelerators",
    "logger/wandb": "needs an optional package; built in callbacks/test_loggers.py",
    "logger/mlflow": "needs an optional package; built in callbacks/test_loggers.py",
    "logger/trackio": "needs an optional package; built in callbacks/test_loggers.py",
    "data/facts": "needs what scripts/make_facts.py makes; used in tests/real",
    "data/retriever/bm25": "needs a corpus; built in retrievers/test_retrievers.py",
    "data/retriever/dense": "needs a corpus and an encoder; built in retrievers/test_retrievers.py",
    "model/policy/pretrained": "needs a model; built in test_own_model_and_data.py",
    "model/policy/pretrained_lora": "needs a model; built in test_own_model_and_data.py",
}
LARGE = {
    name
    for name in NAMES
    if name.startswith("experiment/") and any(word in name for word in ("qwen", "pretrained", "small"))
}
"""Their models must be fetched; built at small width in dry_run/test_dry_run.py."""
INCOMPLETE = {
    **{f"data/engine/weight_sync/{name}": "data/engine=vllm" for name in ("lora", "reload", "ipc", "nccl")},
    "data/retriever/bm25": "data.retriever.corpus_path=corpus.jsonl",
    "data/retriever/dense": "data.retriever.model=encoder data.retriever.corpus_path=corpus.jsonl",
    "data/environment/collections": "data/tasks=embedded_credit",
    "model/policy/pretrained": "model.policy.path=model",
    "model/policy/pretrained_lora": "model.policy.path=model",
    "model/aggregation/token_sum_norm": "model.aggregation.max_length=384",
    "data/tasks/question_files": "data/retriever=http",
    "data/tasks/benchmarks": "data/retriever=http",
    "data/tasks/arithmetic": "data/retriever=http",
    "debug/shapes": "experiment=a2tgpo_qwen3_4b_lora",
}
"""Files with mandatory values, and overrides that give them."""

PATH = "model.policy.path=model"
MODEL_SLOTS = ["policy", "reference", "signal", "outcome", "normalizer", "accumulator", "combiner", "credit"]
MODEL_SLOTS += ["ratio", "clipper", "surrogate", "aggregation", "correction", "optimizer", "scheduler"]
DATA_SLOTS = ["tasks", "environment", "dialect", "retriever", "engine", "reward", "shaping", "branching"]
SLOTS = [f"model/{slot}" for slot in MODEL_SLOTS] + [f"data/{slot}" for slot in DATA_SLOTS]

KEYS = [
    ("model/signal=information_gain", ("gain", "baseline", "aliases")),
    ("model/normalizer=turn_group", ("resolution",)),
    ("model/normalizer=prompt_group", ("resolution",)),
    ("model/normalizer=batch", ("resolution",)),
    ("model/accumulator=variance_rescaled", ("gamma",)),
    ("model/accumulator=discounted", ("gamma",)),
    ("model/combiner=additive", ("alpha",)),
    ("model/clipper=adaptive_turn", ("beta", "eps_low", "eps_high")),
    ("model/clipper=fixed", ("eps_low", "eps_high")),
]
"""Keys that users' own configurations rely on."""


def choose(name):
    """Overrides that select the file `name` in its group."""
    group, _, choice = name.rpartition("/")
    return [f"{group}={choice}", *INCOMPLETE.get(name, "").split()]


def names_in(*groups):
    return [name for name in GROUPED if name.rpartition("/")[0] in groups]


def plain(node):
    return OmegaConf.to_container(node, resolve=True)


def contains(node, part):
    """Is `part` somewhere inside the nested dicts of `node`?"""
    return node == part or (isinstance(node, dict) and any(contains(value, part) for value in node.values()))


def nodes(node):
    """The dicts inside `node` that name what they build."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from nodes(value)


@pytest.mark.parametrize("name", NAMES)
def test_no_value_stands_in_yaml_and_code(name):
    for node in nodes(OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"), resolve=False)):
        if node["_target_"].startswith("a2tgpo."):
            parameters = signature(get_object(node["_target_"])).parameters
            twice = {key for key in node if key in parameters and parameters[key].default == node[key]}
            assert not twice, f"{node['_target_']}: {twice} have the same default in the code"


def test_exceptions_name_files_that_exist():
    assert set(NOT_BUILT) | set(INCOMPLETE) <= set(NAMES)
    assert {name.split("/")[0] for name in GROUPED} >= {"model", "data", "trainer", "callbacks", "logger", *WHOLE}


@pytest.mark.parametrize("entry_point", ["train", "eval", "check", "credit"])
def test_entry_point_composes_by_itself(composed, entry_point):
    config = composed(config_name=entry_point)
    assert config.task_name == entry_point
    assert plain(config.model.module)["_target_"] == "a2tgpo.training.module.A2TGPOModule"


@pytest.mark.parametrize("name", lanes(GROUPED))
def test_yaml_composes_and_builds(composed, policy_dir, name):
    config = composed(*choose(name), f"paths.policy_dir={policy_dir}")
    if name in NOT_BUILT or name in LARGE:
        return
    group = name.rpartition("/")[0]
    if group in WHOLE:
        for part in (config.data, config.model, config.trainer, config.callbacks, config.logger):
            assert instantiate(part, _convert_="all") is not None
    else:
        node = OmegaConf.select(config, group.replace("/", "."))
        assert instantiate(node, _convert_="all") is not None
    if group in SLOTS:  # the part that was chosen is the part that is used
        part = plain(OmegaConf.select(config, group.replace("/", ".")))
        assert part["_target_"] == OmegaConf.load(CONFIGS / f"{name}.yaml")._target_
        assert contains(plain(config[group.split("/")[0]].module), part)


@pytest.mark.parametrize("name", lanes(names_in("experiment")))
def test_experiment_serves_evaluation_too(composed, policy_dir, name):
    config = composed(*choose(name), f"paths.policy_dir={policy_dir}", config_name="eval")
    instantiate(config.data.module, _convert_="all")
    if name in LARGE:
        return
    instantiate(config.model.policy, _convert_="all")


@pytest.mark.parametrize("name", names_in("hparams_search"))
def test_search_varies_keys_that_exist(composed, name):
    params = OmegaConf.load(CONFIGS / f"{name}.yaml").hydra.sweeper.params
    for key, values in params.items():
        value = str(values).split(",")[-1]
        config = composed("experiment=a2tgpo", *choose(name), f"{key}={value}")
        assert str(OmegaConf.select(config, key)) == value


@pytest.mark.parametrize(("choice", "keys"), KEYS)
def test_fixed_keys_reach_the_learner(composed, choice, keys):
    slot = choice.split("=")[0].replace("/", ".")
    config = composed(choice)
    for key in keys:
        OmegaConf.update(config, f"{slot}.{key}", "marked")
        assert contains(plain(config.model.module), plain(OmegaConf.select(config, slot)))
        assert OmegaConf.select(config, f"{slot}.{key}") == "marked"


METHOD = {f"model.{part}" for part in MODEL_SLOTS[2:13]} | {"model.method", "model.credit", "model.module.kl_coef"}
"""Where methods differ."""


@pytest.mark.parametrize("name", [name for name in names_in("experiment") if name.startswith("experiment/grpo")])
def test_grpo_differs_from_its_twin_in_the_method_alone(composed, name):
    twin = name.partition("/")[2].replace("grpo", "a2tgpo")
    ours, theirs = (
        dict(leaves(plain_part(composed(f"experiment={e}", PATH)), "")) for e in (name.partition("/")[2], twin)
    )
    different = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    allowed = (*METHOD, *(["model.reference"] if name.endswith("pretrained") else []))  # its KL needs one
    assert different and not [key for key in different if not key.startswith(allowed)]
    instantiate(composed(f"experiment={name.partition('/')[2]}", PATH).model.method, _convert_="all")


def plain_part(config):
    """Without the wiring, which says all again, and the name of the experiment."""
    whole = OmegaConf.to_container(config, resolve=False)
    del whole["callbacks"]["summary"]
    return whole


def test_every_slot_has_a_file():
    assert {name.rpartition("/")[0] for name in names_in(*SLOTS)} == set(SLOTS)


@pytest.mark.parametrize(
    "override",
    [
        "sed=1",
        "trainer.max_epoch=1",
        "data.module.groupsize=4",
        "model.normaliser.resolution=0.1",
        "model.clipper.betta=0.1",
        "callbacks.rollout_files.evry=1",
        "model/normaliser=turn_group",
    ],
)
def test_misspelt_key_is_refused(composed, override):
    key = re.split("[.=/]", override.split("=")[0])[-1]
    with pytest.raises(HydraException, match=key):
        composed(override)


@pytest.mark.parametrize(
    ("override", "node"),
    [("+model.clipper.betta=1", "model.clipper"), ("+trainer.max_epoch=1", "trainer")],
)
def test_added_key_that_nobody_takes_is_refused(composed, override, node):
    config = composed(override)
    with pytest.raises(InstantiationException, match=f"'{override.rpartition('.')[2].split('=')[0]}'"):
        instantiate(OmegaConf.select(config, node))


def test_a_new_strategy_is_one_file_and_one_yaml(composed, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "class Doubled:\n    compares_trajectories = False\n\n"
        "    def __call__(self, r, mask, groups, noise=None):\n        return 2 * r\n"
    )
    folder = tmp_path / "configs" / "model" / "normalizer"
    folder.mkdir(parents=True)
    (folder / "doubled.yaml").write_text("_target_: mine.Doubled\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = composed(f"hydra.searchpath=[file://{tmp_path}/configs]", "model/normalizer=doubled")
    assert instantiate(config.model.credit).normalizer(3.0, None, None) == 6.0

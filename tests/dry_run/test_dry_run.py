"""The dry run of the large experiments, and the arithmetic it prints."""

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from peft import LoraConfig
from rich.console import Console
from transformers import Gemma3TextConfig, Qwen2Config

from a2tgpo.callbacks.sizing_report import SizingReport
from a2tgpo.dry_run.footprint import GIB, Hardware, Plan, memory, peak, seconds, tokens
from a2tgpo.dry_run.toy_models import load_shrunk, parameter_counts, real_config, small_config
from tests.helpers import shipped
from tests.helpers.model_zoo import ARCHITECTURES, build
from tests.helpers.tiny_runs import SHIPPED

TABLE = Path(__file__).parents[2] / "docs" / "models_and_data.md"
CONFIGS = Path(__file__).parents[2] / "configs"
LARGE = sorted(path.stem for path in (CONFIGS / "experiment").glob("*qwen*.yaml"))
SIZES = {"qwen3_4b": 4_022_468_096, "qwen3_8b": 8_190_735_360, "qwen2_5_7b": 7_615_616_512}
SIZES |= {"qwen3_14b": 14_768_307_200}
"""Parameters of the published weights."""

ARCHITECTURE = Qwen2Config(
    num_hidden_layers=2, hidden_size=8, num_attention_heads=4, num_key_value_heads=2, vocab_size=10
)
PLAN = Plan(
    prompts=3,
    group_size=4,
    prompt_tokens=5,
    response_tokens=7,
    max_sessions=6,
    micro_batch_tokens=20,
    models_scored=2,
    reference_copy=True,
    weight_bytes=4,
    compute_bytes=2,
    gradient_checkpointing=True,
    shards=1,
    coded_moments=False,
)


def architecture(name):
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / "architecture" / f"{name}.yaml"))


def real(name):
    return real_config(None, architecture(name))


@pytest.mark.parametrize("name", SIZES)
def test_an_architecture_has_as_many_parameters_as_the_published_weights(name):
    assert parameter_counts(real(name), None) == (SIZES[name], SIZES[name])


def test_an_adapter_is_all_that_is_trained():
    # Qwen3-4B, rank 1: in + out features of q, k, v, o, gate, up and down, times 36 layers.
    per_layer = (2560 + 4096) + 2 * (2560 + 1024) + (4096 + 2560) + 2 * (2560 + 9728) + (9728 + 2560)
    total, trained = parameter_counts(real("qwen3_4b"), LoraConfig(r=1, target_modules="all-linear"))
    assert (total - trained, trained) == (SIZES["qwen3_4b"], 36 * per_layer)


def test_memory_by_hand():
    used = memory(ARCHITECTURE, 100, 100, PLAN)
    assert used == {
        "weights": 400,
        "cast": 200,
        "reference": 400,
        "gradients": 400,
        "optimizer": 800,
        "rollout": 2 * 6 * 12 * (2 * 2 * 2 * 2 * 2),  # sessions × positions × (k, v × layers × heads × size 2 × bytes)
        "update": (2 + 34) * 20 * 8 * 2 + 5 * 20 * 10 * 4 + 10 * 8 * 4,
    }
    assert peak(used) == 400 + 200 + 400 + 400 + 800 + max(used["rollout"], used["update"])


def test_coded_moments_by_hand():
    coded = replace(PLAN, coded_moments=True)
    assert memory(ARCHITECTURE, 1000, 1000, coded)["optimizer"] == 160 * 8 + 840 * (2 + 8 / 256)  # ends are 2 × 10 × 8
    assert memory(ARCHITECTURE, 1000, 64, coded)["optimizer"] == 64 * (2 + 8 / 256)  # an adapter


def test_memory_of_shards_by_hand():
    whole, used = memory(ARCHITECTURE, 200, 200, PLAN), memory(ARCHITECTURE, 200, 200, replace(PLAN, shards=4))
    ends = 10 * 8 * 2  # embedding and head
    assert {name: whole[name] - used[name] for name in used} == {
        "weights": 600,
        "cast": 400,
        "reference": 600,
        "gradients": 600,
        "optimizer": 1200,
        "rollout": -(40 * 2 + ends * 4),
        "update": -(20 * (2 * 2 + 4) + ends * (4 + 4)),  # of two layers
    }


def test_more_tokens_take_activations_and_no_more_logits():
    sizes = real("qwen3_4b"), SIZES["qwen3_4b"], SIZES["qwen3_4b"]
    few, many = (memory(*sizes, replace(PLAN, micro_batch_tokens=n))["update"] for n in (8192, 16384))
    assert many - few == (36 + 34) * 8192 * 2560 * 2


@pytest.mark.parametrize("name", ["qwen3_4b", "qwen3_8b", "qwen3_14b"])
@pytest.mark.parametrize("what", ["all weights", "all weights, `model/optimizer=adamw_8bit`", "LoRA"])
def test_the_table_of_what_fits_is_that_of_the_counts(name, what, composed):
    lora = LoraConfig(r=16, target_modules="all-linear") if what == "LoRA" else None
    parameters = parameter_counts(real(name), lora)
    config = composed("experiment=a2tgpo_qwen3_4b_lora" if lora else "experiment=a2tgpo_qwen3_4b")
    settings = config.data.module
    plan = replace(
        PLAN,
        prompt_tokens=settings.max_prompt_tokens,
        response_tokens=settings.max_response_tokens,
        max_sessions=8,
        micro_batch_tokens=config.model.module.micro_batch_tokens,
        reference_copy=False,
        weight_bytes=2 if lora else 4,
        coded_moments="8bit" in what,
    )
    title = name.replace("qwen", "Qwen").replace("_", "-").replace("b", "B")
    (row,) = (line for line in TABLE.read_text().splitlines() if line.startswith(f"| {title}, {what} |"))
    for cell, cards in zip(row.split("|")[2:-1], (1, 2, 4, 8), strict=True):
        gib = peak(memory(real(name), *parameters, replace(plan, shards=cards))) / GIB
        assert cell.strip() == (f"**{gib:.1f}**" if gib <= 0.9 * 80 else f"{gib:.1f}")


def test_tokens_and_seconds_by_hand():
    assert tokens(PLAN) == {"rollout": 3 * 5 + 12 * 7, "scoring": 2 * 12 * 12, "update": 12 * 12}
    spent = seconds(100, PLAN, Hardware("x", devices=2, memory_gib=1, tflops=1e-9))
    assert spent == pytest.approx({"rollout": 2 * 99 / 20, "scoring": 2 * 288 / 20, "update": 8 * 144 / 20}, abs=1e-12)


@pytest.mark.parametrize(("gib", "verdict"), [(100, "fits"), (80, "does not fit")])
def test_the_verdict_follows_the_memory(gib, verdict):
    screen = StringIO()
    report = SizingReport(None, architecture("qwen3_4b"), Hardware("card", 1, gib, 1.0), None, True, None)
    report.print_report(PLAN, Console(width=120, file=screen))
    text = screen.getvalue()
    assert f"\n{verdict}" in text
    assert f"{SIZES['qwen3_4b'] * 4 / GIB:.1f}" in text


@pytest.mark.parametrize("name", ["a2tgpo", "a2tgpo_pretrained"])
def test_an_experiment_without_an_architecture_is_told_to_choose_one(composed, name):
    config = composed(f"experiment={name}", "debug=shapes")
    with pytest.raises(InstantiationException) as refused:
        instantiate(config.model.module, _convert_="all")
    said = "model.policy.path, model/architecture: none is given; expected one of them for debug=shapes"
    assert str(refused.value.__cause__) == said


def dry_run(composed, *overrides):
    config = composed(*overrides, "debug=shapes")
    data = instantiate(config.data.module, _convert_="all")
    learner = instantiate(config.model.module, _convert_="all")
    callbacks = [instantiate(config.callbacks.sizing, _convert_="all")]
    settings = {"enable_checkpointing": False, "limit_val_batches": 0}
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=False, **settings)
    trainer.fit(learner, data)
    return trainer, learner, data


@pytest.mark.parametrize("name", LARGE)
def test_a_large_experiment_runs_one_whole_iteration_at_small_width(composed, capsys, name):
    trainer, learner, data = dry_run(composed, f"experiment={name}")
    assert trainer.global_step == 2 and len(learner.trajectories) == 16
    assert learner.metrics["update/first_step_max_log_ratio"] <= (1e-5 if "lora" not in name else 0.05)
    (report,) = (callback for callback in trainer.callbacks if isinstance(callback, SizingReport))
    parameters, trained, plan = report.parameters, report.trained, report.plan(data.real, learner, False)
    assert plan.gradient_checkpointing
    gib = peak(memory(report.real, parameters, trained, plan)) / GIB
    row = re.search(rf"\| `{name}` \| ([\d.]+) B, ([\d.]+) B \| ([\d.]+) \|", TABLE.read_text())
    assert [float(number) for number in row.groups()] == pytest.approx([parameters / 1e9, trained / 1e9, gib], abs=0.05)
    printed = capsys.readouterr().out
    assert "parameters" in printed and "seconds at least" in printed
    assert (data.real["max_prompt_tokens"], data.real["max_response_tokens"]) == (2000, 6192)


OWN = {
    "files and a server": ("data.tasks.train=a.jsonl", "data.tasks.test=[b.parquet]", "data.retriever.url=http://x:1"),
    "a corpus": (
        "data/retriever=bm25",
        "data.retriever.corpus_path=corpus.jsonl",
        "data.environment.tools.search.topk=2",
    ),
    "a server that samples": ("data/engine=vllm", "data.engine.url=http://x:1", "data.engine.patience=1"),
    "a calculator": ("data=calculator", "data.tasks.max_steps=2", "data/dialect=tool_calls"),
    "cards": ("trainer=ddp", "trainer.strategy.timeout.hours=1", "model.policy.dtype=float32"),
}

SHORT = "data.module.max_prompt_tokens=700"


@pytest.mark.parametrize("experiment", ["a2tgpo_small", pytest.param("grpo_pretrained", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", OWN)
def test_it_can_be_appended_to_a_command_about_one_s_own_model_and_data(composed, tmp_path, experiment, name):
    path = build("qwen3", tmp_path / "model")
    (path / "model.safetensors").unlink()  # nothing but the configuration is read
    own = (f"experiment={experiment}", f"model.policy.path={path}", "data.module.group_size=3", SHORT, *OWN[name])
    trainer, learner, data = dry_run(composed, *own)
    assert trainer.global_step == 2 and data.real["group_size"] == 3 and len(learner.trajectories) == 16
    (report,) = (callback for callback in trainer.callbacks if isinstance(callback, SizingReport))
    assert (
        not report.gradient_checkpointing
        and report.real.hidden_size == 32
        and learner.policy.model.config.hidden_size == 64
    )


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_model_of_any_kind_is_made_small(tmp_path, kind):
    path = str(build(kind, tmp_path / kind))
    given = shipped.settings("model/policy/pretrained") | {
        "architecture": None,
        "tokenizer": str(SHIPPED),
        "path": path,
    }
    policy, found = load_shrunk(**given), real_config(path, None)
    assert policy.model.config.model_type == found.model_type
    assert set(getattr(policy.model.config, "layer_types", None) or ()) == set(
        getattr(found, "layer_types", None) or ()
    )


def test_a_layer_of_each_kind_is_kept():
    kinds = (["sliding_attention"] * 5 + ["full_attention"]) * 4
    small = small_config(Gemma3TextConfig(num_hidden_layers=24, layer_types=kinds))
    assert small.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]
    assert small.num_hidden_layers == 3


def test_a_folder_without_a_configuration_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=rf"^model.policy.path={tmp_path}: .*expected a folder or a hub id with a config"
    ):
        real_config(str(tmp_path), None)


def test_the_paper_s_settings_are_carried(composed):
    config = composed("experiment=a2tgpo_qwen3_4b")
    model, data = config.model, config.data
    assert (data.module.prompts_per_iteration, data.module.group_size, data.module.mini_batch_prompts) == (64, 16, 8)
    assert (data.environment.max_calls, data.environment.tools.search.topk) == (6, 3)
    assert (model.clipper.eps_low, model.clipper.eps_high, model.clipper.beta) == (3e-3, 4e-3, 0.3)
    assert (model.optimizer.lr, model.optimizer.weight_decay, model.module.max_grad_norm) == (1e-6, 0.01, 1.0)
    assert (model.accumulator.gamma, model.combiner.alpha, model.module.kl_coef) == (1.0, 1.0, 0.0)
    assert (model.signal.gain, model.normalizer.resolution) == ("prob", "auto")
    assert model.normalizer._target_ == "a2tgpo.method.normalizers.turn_group.TurnGroup"


def test_an_architecture_that_a_cache_does_not_serve_is_refused(composed):
    rwkv = ("model.architecture.model_type=rwkv", "model.policy.attn_implementation=eager")
    with pytest.raises(InstantiationException) as error:
        instantiate(composed("experiment=a2tgpo_qwen3_4b", "debug=shapes", *rwkv).model.policy, _convert_="all")
    assert "model.architecture.model_type=rwkv: a rwkv model does not run from a cache" in str(error.value.__cause__)

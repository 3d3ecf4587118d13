"""Bad input ends with one clear line that says what is wrong, where, and what was expected; and with exit code 1."""

from dataclasses import dataclass, replace

import lightning
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import error_lines
import eval as eval_entry_point
import launch
import train as train_entry_point
from a2tgpo.embedded.tasks import EmbeddedTasks, WorldPassages
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.tasks.question_sources import open_sources
from tests.helpers.tiny_runs import SMALL, finish, start


class TasksWithoutAnswers(EmbeddedTasks):
    """The embedded questions with nothing accepted."""

    def split(self, split):
        return [replace(task, answers=()) for task, _ in zip(super().split(split), range(8), strict=False)]


@dataclass(frozen=True)
class AlwaysSearch:
    """Six searches and an answer, in every trajectory."""

    def __call__(self, key):
        return ["<search> Varo</search>"] * 6 + ["<answer> Varo</answer>"]


@dataclass(frozen=True)
class EmptyHanded:
    """A retriever that never finds anything."""

    passages: WorldPassages

    def search(self, query, topk, corpus=""):
        return []


@dataclass(frozen=True)
class NoPassages:
    """A collection without passages."""

    size: object

    def __call__(self, corpus):
        return []


SEARCHING = (
    *("~data.engine.max_sessions", "~data.engine.deterministic"),
    "data.engine._target_=a2tgpo.engines.scripted.ScriptedEngine",
    "+data.engine.script._target_=tests.test_bad_input.AlwaysSearch",
)
PATIENT = "data.environment.max_tool_failures=9"

TRAIN = {
    "value that others take over": (["data.module.max_sessions=0"], "error: data.module.max_sessions=0: expected an "),
    "unknown experiment": (
        ["experiment=nope"],
        "Could not find 'experiment/nope' Available options in 'experiment'",
    ),
    "null of a group": (["logger=null"], "logger=null: expected a choice of its group, or logger=none"),
    "unknown strategy": (["model/normalizer=nope"], "Could not find 'model/normalizer/nope' Available options in"),
    "misspelt key": (["model.clipper.betta=0.1"], "Could not override 'model.clipper.betta'"),
    "key nobody takes": (["+model.clipper.betta=0.1"], "got an unexpected keyword argument 'betta'"),
    "broken override": (["experiment"], "Error parsing override 'experiment' missing EQUAL"),
    "key and group mixed": (
        ["data.dialect/examples=none"],
        "Error parsing override 'data.dialect/examples=none' mismatch",
    ),
    "missing value": (
        ["model/aggregation=token_sum_norm"],
        "model.aggregation.max_length: no value; expected model.aggregation.max_length=…",
    ),
    "two missing values": (
        ["model/policy=pretrained", "data/retriever=bm25"],
        "data.retriever.corpus_path: no value; expected data.retriever.corpus_path=… and model.policy.path=…",
    ),
    "no part": (["model.clipper=null"], "model.clipper=null: expected a part, which model/clipper=… chooses"),
    "checkpoint taken away": (["~callbacks.checkpoint"], "callbacks.checkpoint=null: expected a part"),
    "no seed": (["~seed"], "seed=null: expected an integer >= 0"),
    "no experiment": (["~experiment"], "callbacks.summary.experiment=null: expected an experiment, such as"),
    "no run directory": (["hydra.run.dir="], "hydra.run.dir: no value; expected a directory"),
    "argument nobody takes": (
        ["+model.optimizer.foo=1"],
        "model.optimizer: AdamW.__init__() got an unexpected keyword",
    ),
    "unknown schedule": (["model.scheduler.name=foo"], "model.scheduler: foo is not a valid SchedulerType"),
    "part of a rollout set": (
        ["+trainer.limit_train_batches=1"],
        "trainer.limit_train_batches=1: expected 1.0, or part",
    ),
    "unknown figure": (
        ["callbacks.checkpoint.monitor=val/foo"],
        "callbacks.checkpoint.monitor=val/foo: expected one of",
    ),
    "the other resolution": (["model.outcome.resolution=-1"], "model.outcome.resolution=-1: expected a number >= 0"),
    "parts that do not fit": (
        ["data/tasks=arithmetic"],
        "data.retriever.passages.size: Interpolation key 'data.tasks.size'",
    ),
    "no question files": (
        ["data=search_qa", "data.tasks.test=x.jsonl"],
        "data.tasks.train: no value; expected data.tasks.train=… and data.tasks.val=…",
    ),
    "tag of a tool": (
        ["data.dialect.answer_tag=search"],
        "['search'] taken, where results are in 'result' and answers in",
    ),
    "tag of a thought": (
        ["data.dialect.answer_tag=think"],
        "data.dialect.answer_tag='think': expected another tag than",
    ),
    "too many people": (["data.tasks.size.person=50"], "data.tasks.size.person=50: expected <= 49, the names of"),
    "group of one": (
        ["data.module.group_size=1"],
        "data.module.group_size=1: expected at least 2, because the credit",
    ),
    "no forks": (
        ["experiment=fork_credit", "data.module.continuations=0"],
        "data.module.continuations=0: expected at least 1, because model/credit",
    ),
    "no group": (["data.module.group_size=0"], "data.module.group_size=0: expected an integer >= 1"),
    "beta": (["model.clipper.beta=1.0"], "model.clipper.beta=1.0: expected a number >= 0 and < 1"),
    "eps": (["model.clipper.eps_low=0"], "model.clipper.eps_low=0: expected a number or inf > 0"),
    "gamma": (["model.accumulator.gamma=1.5"], "model.accumulator.gamma=1.5: expected a number > 0 and <= 1"),
    "mini-batch": (
        ["data.module.mini_batch_prompts=3"],
        "data.module.mini_batch_prompts=3: expected a divisor of data.module.prompts_per_iteration=4",
    ),
    "no training questions": (
        ["data.tasks.train_questions=0"],
        "data.tasks.train_questions=0: expected an integer >= 1",
    ),
    "no validation questions": (
        ["data.tasks.val_questions=0"],
        "data.tasks.val_questions=0: expected an integer >= 1",
    ),
    "question without answer": (
        ["data.tasks._target_=tests.test_bad_input.TasksWithoutAnswers"],
        "it has no accepted answer, so its turns have no information gain; expected an answer, or model/signal=none",
    ),
    "long prompt": (["data.module.max_prompt_tokens=3"], "tasks with a longer prompt: 12; the longest, "),
    "retriever that finds nothing": (
        [*SEARCHING, "data.retriever._target_=tests.test_bad_input.EmptyHanded"],
        "data.environment.tools.search: none of its last 24 calls brought a result; expected some to. The last: ",
    ),
    "empty corpus": (
        [
            *SEARCHING,
            "data.environment.max_tool_failures=9",
            "data.retriever.passages._target_=tests.test_bad_input.NoPassages",
        ],
        "holds no passages; expected at least one",
    ),
    "missing policy": (
        ["paths.policy_dir=/nowhere"],
        "policy.path=/nowhere: no such folder; expected a Hugging Face model folder",
    ),
    "missing checkpoint": (
        ["ckpt_path=/nowhere/x/last.ckpt"],
        "ckpt_path=/nowhere/x/last.ckpt: no such file",
    ),
    "checkpoint of another architecture": (["ckpt_path={other}"], "checkpoint of another architecture; "),
    "no checkpoint": (["ckpt_path={text}"], "not a checkpoint; expected one written by src/train.py"),
    "empty checkpoint": (["ckpt_path={empty}"], "not a checkpoint; expected one written by src/train.py"),
    "cut checkpoint": (["ckpt_path={cut}"], "not a checkpoint; expected one written by src/train.py"),
    "log_dir is a file": (["paths.log_dir={text}"], ": Not a directory"),
}
EVAL = {
    "missing checkpoint": (["ckpt_path=/nowhere.ckpt"], "ckpt_path=/nowhere.ckpt: no such file; expected a checkpoint"),
    "checkpoint of another architecture": (["ckpt_path={other}"], "checkpoint of another architecture; "),
    "no checkpoint": (["ckpt_path={text}"], "not a checkpoint; expected one written by src/train.py"),
    "device": (["device=cuda:7"], "device=cuda:7: not available here; expected cpu or a present accelerator"),
    "no device at all": (
        ["device=quantum"],
        "device=quantum: not available here; expected cpu or",
    ),
    "split": (["split=tset"], "split='tset': expected train, val or test"),
    "no questions": (["data.tasks.test_questions=0"], "data.tasks.test_questions=0: expected an integer >= 1"),
    "no samples": (["samples=0"], "samples=0: expected an integer >= 1"),
}


@pytest.fixture
def files(composed, policy_dir, tmp_path):
    """In the directory of a run: a checkpoint of another architecture, and files that are no checkpoints."""
    folder = tmp_path / "run" / "checkpoints"
    paths = {name: folder / f"{name}.ckpt" for name in ("other", "empty", "cut")} | {"text": folder / "notes.txt"}
    folder.mkdir(parents=True)
    state = {"state_dict": {"model.other": torch.zeros(2)}, "pytorch-lightning_version": lightning.__version__}
    state["optimizer_states"] = []
    torch.save(state, paths["other"])
    paths["cut"].write_bytes(paths["other"].read_bytes()[:-100])
    paths["empty"].write_bytes(b"")
    paths["text"].write_text("not a checkpoint")
    config = composed("experiment=a2tgpo", *SMALL, f"paths.policy_dir={policy_dir}")
    OmegaConf.save(config, tmp_path / "run" / "config.yaml", resolve=True)
    return paths


@pytest.fixture
def last_words(request, policy_dir, tmp_path, monkeypatch, capsys):
    """`last_words(entry_point, overrides)`: the last line on stderr of a call that must end with exit code 1."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)

    def call(entry_point, overrides):
        named = any("{" in override for override in overrides)
        filled = [override.format(**request.getfixturevalue("files") if named else {}) for override in overrides]
        paths = [f"paths.policy_dir={policy_dir}", "hydra/job_logging=none", "hydra/hydra_logging=none"]
        paths += [] if any("log_dir" in override for override in filled) else [f"paths.log_dir={tmp_path}"]
        experiment = [] if any("experiment" in override for override in filled) else ["experiment=a2tgpo"]
        command = ["x.py", *experiment, *paths, *filled]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as stopped:
            launch.launch(entry_point)
        assert stopped.value.code == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    return call


@pytest.mark.parametrize("name", TRAIN)
def test_training_refuses_in_one_line(last_words, name):
    overrides, message = TRAIN[name]
    said = last_words(train_entry_point.main, [*SMALL, *overrides])
    assert said.startswith("error: ") and message in said


@pytest.mark.parametrize("name", EVAL)
def test_evaluation_refuses_in_one_line(last_words, name):
    overrides, message = EVAL[name]
    said = last_words(eval_entry_point.main, overrides)
    assert said.startswith("error: ") and message in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_accelerator_is_refused_in_one_line(last_words):
    said = last_words(train_entry_point.main, ["trainer.accelerator=gpu"])
    assert said == "error: trainer.accelerator=gpu: no GPU is visible; expected one, or trainer=default for the CPU"


def test_the_trace_is_shown_to_those_who_ask(composed, policy_dir, monkeypatch):
    monkeypatch.setattr(error_lines, "_SHOW_TRACE", True)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    config = composed("data.tasks.train_questions=0", *SMALL, f"paths.policy_dir={policy_dir}")
    with pytest.raises(ValueError, match=r"data\.tasks\.train_questions=0: expected"):
        train_entry_point.train(config)


def test_failed_resumption_leaves_the_earlier_summary_alone(last_words, files):
    summary = files["other"].parents[1] / "summary.json"
    summary.write_text('{"val/success/best": 0.5}')
    assert "another architecture" in last_words(train_entry_point.main, [*SMALL, "ckpt_path={other}"])
    assert summary.read_text() == '{"val/success/best": 0.5}'


@pytest.mark.parametrize(
    ("script", "override", "message"),
    [
        ("train.py", "experiment=nope", "error: In 'train': Could not find 'experiment/nope' Available options in "),
        pytest.param("eval.py", "split=tset", "error: split='tset': expected train, val", marks=pytest.mark.slow),
    ],
)
def test_a_process_says_nothing_but_the_one_line(policy_dir, tmp_path, script, override, message):
    process = start(script, override, f"paths.policy_dir={policy_dir}", f"paths.log_dir={tmp_path}")
    output, errors = finish(process, 100)
    assert process.returncode == 1 and output == ""
    assert errors.startswith(message) and errors.count("\n") == 1


def test_an_existing_file_of_another_kind_is_not_called_missing(tmp_path):
    (tmp_path / "q.txt").write_text("question,answer")
    with pytest.raises(ValueError, match=r"^data\.tasks\.train=.*q\.txt: a file of another kind; expected one that"):
        next(open_sources("data.tasks.train", str(tmp_path / "q.txt"), Split.TRAIN, None))


def test_a_tag_of_a_tool_is_given_without_a_plus(composed):
    config = composed("data.dialect.call_tags={search:query}")
    assert instantiate(config.data.dialect).call_tags == {"search": "query"}


def test_splits_are_named_by_their_value():
    assert [Split(name) for name in ("train", "val", "test")] == list(Split)

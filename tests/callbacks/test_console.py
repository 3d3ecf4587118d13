"""What a person sees: a bar with phases on a terminal, plain lines elsewhere, one table at the end."""

import io
import re
import shlex
import signal
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Callback
from omegaconf import OmegaConf
from rich.console import Console

import train
from a2tgpo.callbacks.progress import TrainingProgress
from a2tgpo.callbacks.report import next_commands, print_report
from a2tgpo.system.signals import Interrupted
from launch import spelt_out
from tests.helpers.tiny_runs import ROOT, SHIPPED, SMALL

CHOICES = {"data": "default", "model/policy": "tiny", "model/outcome": "z"}
"""What a run that chooses nothing has chosen."""


@pytest.fixture
def config(composed, policy_dir):
    return composed("experiment=a2tgpo", *SMALL, f"paths.policy_dir={policy_dir}", "callbacks.progress.every=2")


def test_plain_lines_where_there_is_no_terminal(config, capsys):
    config.paths.policy_dir = str(SHIPPED)
    train.train(config)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    begin = ["start: validation of the initial policy …", "start: val success 0.500"]
    assert lines[:3] == [f"run directory: {config.paths.output_dir}", *begin]
    iterations = [line for line in lines if re.match(r"\d+/3  ", line)]
    assert [line.split()[0] for line in iterations] == ["2/3", "3/3"]  # every second one, and the last
    form = r"(\d)/3  train 0\.\d{3}  val 0\.\d{3} at \1  reward [+-]\d\.\d\d  turns \d\.\d  clip \d\.\d%  \d+ s"
    parts = [line.partition("  nothing learned: ") for line in iterations]
    assert all(re.fullmatch(form, line) and len(line) < 80 for line, *_ in parts)
    assert not any("\x1b" in line for line in lines)


def test_lines_say_how_far_each_phase_is_where_it_takes_long(config, capsys, monkeypatch):
    monkeypatch.setattr("a2tgpo.system.progress.SECONDS", 0.0)
    train.train(config)
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\w+(/3)?: ", line)]
    for phase, total in (("rollout", 8), ("update", 2)):
        unit = {"rollout": "episodes", "update": "optimizer steps"}[phase]
        told = [line for line in lines if line.startswith(f"2/3: {phase}")]
        assert told[-total:] == [f"2/3: {phase} {done} of {total} {unit}" for done in range(1, total + 1)]
    assert re.fullmatch(r"1/3: scoring (\d+) of \1 micro-batches", [li for li in lines if "1/3: scoring" in li][-1])
    assert "start: validation 4 of 4 episodes" in lines and "end: validation 4 of 4 episodes" in lines


def test_a_resumed_run_says_so_and_how_old_its_validation_is(config, capsys):
    config.trainer.max_epochs, config.trainer.check_val_every_n_epoch = 1, 1
    train.train(config)
    capsys.readouterr()
    config.ckpt_path = f"{config.paths.output_dir}/checkpoints/last.ckpt"
    config.trainer.max_epochs, config.trainer.check_val_every_n_epoch = 3, 2
    train.train(config)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0] == f"resumed after 1 of 3 iterations, from {config.ckpt_path}"
    assert [line.split()[0] for line in lines[1:3]] == ["2/3", "3/3"] and all("at 2" in line for line in lines[1:3])


def test_report_names_the_figures_and_the_run_directory(config, capsys, tmp_path):
    train.train(config)
    capsys.readouterr()
    overrides = ["experiment=a2tgpo", "data=search_qa", "model/policy=pretrained", "model.policy.path=mine", "seed=3"]
    print_report(tmp_path, overrides, CHOICES | {"data": "search_qa", "model/policy": "pretrained"})
    report = capsys.readouterr().out
    assert "success of a2tgpo, seed 0" in report and f"run directory: {tmp_path}" in report
    assert [word for word in ("start", "best", "final", "test (best)") if word not in report] == []
    assert report.count("0.000") == 4
    assert report.count(f" like={tmp_path}") == 3 and report.count(" experiment=grpo\n") == 1
    assert "seed=3" not in report
    assert report.splitlines()[-1] == f"every turn: {tmp_path / 'view.html'}"


EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml"))
OWN = ("data.tasks.train=a b.jsonl", "data.tasks.val=v.jsonl", "data.tasks.test=[v.jsonl,'w, x.jsonl']")
OWN += ("data/retriever=bm25", "data.retriever.corpus_path=c.jsonl", "data.environment.tools.search.topk=3")
SUGGESTED = {name: ((f"experiment={name}", "seed=1"), 2 if "qwen" in name else 3) for name in EXPERIMENTS}
"""What a run was told, and how many commands it leads to; from each experiment once."""
for name in EXPERIMENTS:
    if any(word in name for word in ("pretrained", "small", "qwen")):
        needed = ("model.policy.path=my model", *OWN, "trainer=default", "trainer.max_epochs=3", "threads=2")
        SUGGESTED[f"{name}, own"] = ((f"experiment={name}", *needed), 2 if "qwen" in name else 3)
SLOW = SUGGESTED.keys() - {"a2tgpo", "a2tgpo_small, own", "a2tgpo_qwen2_5_7b"}
SUGGESTED |= {
    "no experiment named": (("model.optimizer.lr=0.1",), 3),
    "grpo, another task": (("experiment=grpo", "data=calculator", "+model.clipper.note='a b'"), 3),
    "parts swapped": (
        ("experiment=a2tgpo", "model/outcome=centre", "model.clipper.beta=0", "model/policy=tiny_lora"),
        3,
    ),
    "preset": (("experiment=a2tgpo", "preset=credit"), 3),
    "own method": (
        ("experiment=a2tgpo_small", "model.clipper.beta=0", "model/signal=none", "model.module.kl_coef=0", *OWN),
        3,
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in SUGGESTED]
)
def test_every_command_of_the_report_is_short_and_composes(composed, tmp_path, monkeypatch, name):
    overrides, expected = SUGGESTED[name]
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "a run's, (1st)"
    choices = told(composed, run, overrides)
    commands = next_commands(choices["experiment"], overrides, choices, run, "best")
    assert len(commands) == expected
    for title, command in commands.items():
        assert len(command) < 200
        python, script, *words = shlex.split(command)
        config = composed(*spelt_out(words), config_name=Path(script).stem)
        assert python == "python" and (ROOT / script).is_file()
        best = str(run.relative_to(tmp_path) / "checkpoints" / "best.ckpt")
        assert config.ckpt_path == (best if script == "src/eval.py" else None)
        if "own" in name:
            assert config.data.tasks.train == "a b.jsonl" and config.data.tasks.test[1] == "w, x.jsonl"
        if name == "preset":
            assert config.data.tasks.placement.collections == 4
        if title == "another method":
            instantiate(config.model.method, _convert_="all")


def told(composed, run, overrides):
    """Leave what a run with these overrides would; returns its choices of groups."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        hydra = compose("train", overrides=list(overrides), return_hydra_config=True).hydra
    choices = OmegaConf.to_container(hydra.runtime.choices)
    kept = {"runtime": {"choices": choices}, "overrides": {"task": list(overrides)}}
    (run / ".hydra").mkdir(parents=True)
    OmegaConf.save({"hydra": kept}, run / ".hydra" / "hydra.yaml")
    return choices


LIKE = {
    "all of it": ((), ("data=calculator", "model/signal=none", "model.clipper.beta=0")),
    "another value": (("model.clipper.beta=1",), ("data=calculator", "model/signal=none")),
    "another choice": (("data=search_qa", "model/clipper=fixed"), ("model/signal=none",)),
    "the same experiment": (
        ("experiment=a2tgpo",),
        ("data=calculator", "model/signal=none", "model.clipper.beta=0"),
    ),
    "another experiment": (("experiment=grpo",), ("data=calculator",)),
}


@pytest.mark.parametrize("name", LIKE)
def test_a_run_is_like_another_but_for_what_it_is_told(composed, tmp_path, name):
    given, expected = LIKE[name]
    earlier = ("data=calculator", "model/signal=none", "model.clipper.beta=0", "seed=3", "logger=csv", "ckpt_path=x")
    told(composed, tmp_path / "run", earlier)
    experiment = () if given and given[0].startswith("experiment=") else ("experiment=a2tgpo",)
    assert spelt_out(["-m", f"like={tmp_path}/run", *given]) == ["-m", *experiment, *expected, *given]


def test_a_run_like_none_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=rf"^like={tmp_path}: there is no .*hydra.yaml; expected the directory of a run"
    ):
        spelt_out([f"like={tmp_path}"])


def test_report_of_a_run_without_validation_speaks_of_its_last_checkpoint(config, capsys, tmp_path):
    config.trainer.check_val_every_n_epoch = 10
    train.train(config)
    capsys.readouterr()
    print_report(tmp_path, [], CHOICES)
    report = capsys.readouterr().out
    assert "test (last)" in report and f"{tmp_path}/checkpoints/last.ckpt" in report and "best.ckpt" not in report


@pytest.mark.parametrize("saved", [False, True])
def test_advice_names_a_checkpoint_that_is_there(config, tmp_path, saved):
    progress, screen = TrainingProgress(every=1), io.StringIO()
    progress.console = Console(file=screen)
    trainer = instantiate(config.trainer, default_root_dir=tmp_path / "a run", logger=False)
    if saved:
        last = tmp_path / "a run" / "checkpoints" / "last.ckpt"
        last.parent.mkdir(parents=True)
        last.touch()
    progress.on_exception(trainer, None, Interrupted(signal.SIGTERM))
    said = " ".join(screen.getvalue().split("\n"))
    if saved:
        assert shlex.split(said)[-1] == f"ckpt_path='{last}'"
    else:
        assert said.strip() == "interrupted by SIGTERM after 0 iterations; there is no checkpoint yet"


class PhaseSpy(Callback):
    """Notes the phase that the bar shows while a batch is trained on, and the phases that were begun."""

    def __init__(self, progress):
        self.progress, self.shown, self.begun, self.far = progress, set(), [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        task = self.progress.bar.tasks[0]
        self.shown.add((task.fields["phase"], task.completed, task.total))
        self.far.append(task.fields["far"])

    def on_train_start(self, trainer, pl_module):
        show = pl_module.phases.on_start

        def spy(phase):
            show(phase)
            self.begun.append((phase, self.progress.bar.tasks[0].fields["phase"]))

        pl_module.phases.on_start = spy


def test_bar_shows_phases_and_iterations_on_a_terminal(config):
    progress, screen = TrainingProgress(every=1), io.StringIO()
    progress.console = Console(file=screen, force_terminal=True, width=160)
    spy = PhaseSpy(progress)
    data, learner = (instantiate(part.module, _convert_="all") for part in (config.data, config.model))
    trainer = instantiate(config.trainer, callbacks=[progress, spy], logger=False, enable_checkpointing=False)
    trainer.fit(learner, data)
    assert 0 < screen.getvalue().index("starting") < screen.getvalue().index("1/3  train")
    assert spy.shown == {("update", done, 3) for done in range(3)}
    assert spy.far == ["1/2", "2/2"] * 3
    assert {begun for begun, _ in spy.begun} == {"rollout", "scoring", "update", "validation"}
    assert all(begun == shown for begun, shown in spy.begun)
    assert "3/3  train 0.000  " in screen.getvalue()
    assert progress.bar is None  # stopped: the terminal is tidy


def test_bar_is_tidied_up_after_an_error(config):
    class Fall(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            raise RuntimeError("fell")

    progress, screen = TrainingProgress(every=1), io.StringIO()
    progress.console = Console(file=screen, force_terminal=True, width=160)
    data, learner = (instantiate(part.module, _convert_="all") for part in (config.data, config.model))
    trainer = instantiate(config.trainer, callbacks=[progress, Fall()], logger=False, enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="fell"):
        trainer.fit(learner, data)
    assert progress.bar is None and screen.getvalue().endswith("\x1b[?25h")  # the cursor is back

"""What the entry points keep of a run, who may write there, and what a resume may change."""

import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

import launch
import run_directories
from tests.helpers.tiny_runs import ROOT, SMALL, finish, start


@pytest.fixture
def started(composed, tmp_path):
    """The kept configuration of a run of `experiment=a2tgpo` that has ended."""
    with run_directories.run_directory(composed("experiment=a2tgpo")) as directory:
        pass
    return directory / "config.yaml"


@pytest.fixture
def resume(composed, started):
    """`resume(…)`: go on with that run under these overrides."""

    def enter(*overrides):
        with run_directories.run_directory(composed(*overrides, f"ckpt_path={started.parent}/checkpoints/last.ckpt")):
            pass

    return enter


def test_the_resolved_configuration_is_kept(started):
    kept = OmegaConf.load(started)
    assert kept.model.credit.normalizer.resolution == kept.model.normalizer.resolution == 1e-4


def test_a_resume_may_train_longer_and_elsewhere(resume, started, tmp_path):
    before = started.read_text()
    changes = ["trainer.max_epochs=90", f"paths.policy_dir={tmp_path}"]
    changes += ["model.module.micro_batch_tokens=2048", "data.module.max_sessions=8", "data.environment.tool_timeout=1"]
    changes += ["data.module.max_prompt_tokens=600"]
    resume("experiment=a2tgpo", *changes)
    assert started.read_text() == before


def test_a_resume_of_another_length_says_what_becomes_of_the_learning_rate(resume, caplog):
    resume("experiment=a2tgpo", "trainer.max_epochs=80")
    assert caplog.messages == []
    resume("experiment=a2tgpo", "trainer.max_epochs=90")
    (line,) = caplog.messages
    assert line.startswith("trainer.max_epochs=90: the run was started with 80; a scheduled learning rate")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("experiment=grpo", "model.aggregation|model.accumulator|model.clipper"),
        ("seed=7", "data.module.seed=7"),
        ("model.clipper.beta=0.1", "model.clipper.beta=0.1"),
        ("data.module.group_size=4", "data.module.group_size=4"),
    ],
)
def test_a_resume_with_another_method_or_seed_is_refused(resume, override, key):
    overrides = [override] if override.startswith("experiment") else ["experiment=a2tgpo", override]
    with pytest.raises(ValueError, match=key) as error:
        resume(*overrides)
    assert "the same experiment and overrides" in str(error.value)


@pytest.mark.parametrize("content", ["a: [", "- 1\n", "data: ${nothing}"])
def test_a_broken_configuration_is_named(resume, started, content):
    started.write_text(content)
    with pytest.raises(ValueError, match="expected the configuration of a run") as error:
        resume("experiment=a2tgpo")
    assert str(error.value).startswith(f"{started}: ")


# ---- who writes to a run directory -----------------------------------------------------------------------------------


def test_a_new_run_does_not_take_the_directory_of_another(composed, started):
    before = started.read_text()
    with (
        pytest.raises(ValueError, match="holds a run already; expected a new directory"),
        run_directories.run_directory(composed("experiment=grpo")),
    ):
        pass
    assert started.read_text() == before


def test_a_run_goes_on_where_it_is(composed, started, tmp_path):
    elsewhere = ("experiment=a2tgpo", f"paths.output_dir={tmp_path}/new")
    with (
        pytest.raises(ValueError, match=rf"^hydra\.run\.dir={tmp_path}/new: a run that goes on stays where it is; exp"),
        run_directories.run_directory(composed(*elsewhere, f"ckpt_path={started.parent}/checkpoints/last.ckpt")),
    ):
        pass
    assert not (tmp_path / "new").exists()


def test_two_processes_do_not_write_to_one_run_directory(resume, started):
    code = (
        "import sys; from pathlib import Path; from a2tgpo.system.files import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": os.environ | {"PYTHONPATH": str(ROOT / "src")}}
    with subprocess.Popen([sys.executable, "-c", code, str(started)], **pipes) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match="another process is writing to this run directory; expected it to have"):
            resume("experiment=a2tgpo")
        other.kill()  # the system lets go
    resume("experiment=a2tgpo")


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_other_ranks_leave_the_directory_to_the_first(composed, started, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    before = started.read_text()
    with run_directories.run_directory(composed("experiment=grpo")) as directory:
        assert directory == started.parent
    assert started.read_text() == before


def test_a_checkpoint_elsewhere_is_refused(started, tmp_path):
    lonely = tmp_path / "far" / "away" / "mine.ckpt"
    lonely.parent.mkdir(parents=True)
    lonely.write_bytes(b"")
    with pytest.raises(ValueError, match="expected the checkpoint in the run directory it was written to") as error:
        run_directories.run_dir(str(lonely), "train", str(tmp_path))
    assert f"there is no {tmp_path}/far/config.yaml" in str(error.value)
    inside = started.parent / "checkpoints" / "last.ckpt"
    inside.parent.mkdir()
    inside.write_bytes(b"")
    assert run_directories.run_dir(str(inside), "train", str(tmp_path)) == str(started.parent)


def test_paths_are_kept_whole(composed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("qwen", "train.jsonl", "part1.jsonl"):
        (tmp_path / name).mkdir()
    config = composed(
        "experiment=a2tgpo_pretrained",
        "model.policy.path=qwen",
        "data.tasks.train=train.jsonl",
        "data.tasks.val=[part*.jsonl,owner/name@val]",
        "data.tasks.test=owner/name",
    )
    run_directories.make_paths_absolute(config)
    assert (
        config.model.module.policy.path == f"{tmp_path}/qwen" and config.data.tasks.train == f"{tmp_path}/train.jsonl"
    )
    assert config.data.tasks.val == [f"{tmp_path}/part*.jsonl", "owner/name@val"]
    assert config.data.tasks.test == "owner/name"


@pytest.mark.parametrize("override", ["+trainer.max_steps=3", "+trainer.max_time=00:00:01:00"])
def test_a_limit_inside_an_iteration_is_refused(composed, override):
    key = override.lstrip("+").partition("=")[0]
    with pytest.raises(ValueError, match=f"^{key}=.*expected trainer.max_epochs"):
        launch.require_whole_iterations(composed("experiment=a2tgpo", override))


def test_sweeps_that_start_in_the_same_second_have_directories_of_their_own():
    hydra = OmegaConf.load(ROOT / "configs" / "hydra" / "default.yaml")
    sweep = OmegaConf.to_container(hydra, resolve=False)["sweep"]["dir"]
    assert "${now:%Y-%m-%d_%H-%M-%S-%f}" in sweep


@pytest.mark.slow
def test_one_bad_job_does_not_end_a_sweep(policy_dir, tmp_path):
    paths = (f"paths.policy_dir={policy_dir}", f"paths.log_dir={tmp_path}/logs")
    process = start("train.py", "-m", "experiment=a2tgpo", *SMALL, "model.clipper.beta=1.5,0.3", *paths)
    _, errors = finish(process, timeout=120)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1] == "error: model.clipper.beta=1.5: expected a number >= 0 and < 1"
    (summary,) = (tmp_path / "logs").glob("train/multiruns/*/1/summary.json")
    assert "test/success" in summary.read_text()

"""`python src/credit.py`, as a user calls it."""

import json
from pathlib import Path

import pytest

from credit import of_run
from tests.helpers.tiny_runs import finish, start

BRIEF = ("trainer.max_epochs=1", "data.module.val_tasks=4", "data.module.test_tasks=4", "data.module.group_size=2")
FEW = ("questions=2", "samples=2", "continuations=4", "batch_prompts=1")


def test_a_run_stands_for_its_overrides_its_last_checkpoint_and_forks_of_it():
    said = of_run(["run=logs/train/runs/RUN", "model.combiner.alpha=0"])
    last = str(Path("logs/train/runs/RUN/checkpoints/last.ckpt"))
    expected = ["like=logs/train/runs/RUN", f"ckpt_path={last}", "frozen=null"]
    assert said == [*expected, "run=logs/train/runs/RUN", "model.combiner.alpha=0"]
    assert of_run(["seed=1"]) == ["seed=1"]


def called(*overrides):
    process = start("credit.py", *overrides)
    out, err = finish(process, timeout=280)
    return process.returncode, out, err


@pytest.mark.slow
def test_forks_of_a_run_are_played_kept_and_judged_again(tmp_path):
    process = start("train.py", "experiment=grpo", *BRIEF, f"hydra.run.dir={tmp_path / 'run'}")
    _, err = finish(process, timeout=280)
    assert process.returncode == 0, err
    kept = f"save={tmp_path / 'forks.npz'}"
    code, out, err = called(f"run={tmp_path / 'run'}", *FEW, kept, f"hydra.run.dir={tmp_path / 'first'}")
    assert code == 0 and out.startswith("run: prompts 2, trajectories 4, turns "), err
    lines = [json.loads(line) for line in (tmp_path / "run" / "forks" / "000001-rank0.jsonl").open()]
    assert len(lines) == 4 and all(len(line["oracle_advantage"]) == len(line["turns"]) for line in lines)
    assert out.splitlines()[-1].startswith("each turn beside the forks: ")
    code, out, err = called(
        f"frozen={tmp_path / 'forks.npz'}", "batch_prompts=1", f"hydra.run.dir={tmp_path / 'second'}", "experiment=grpo"
    )
    assert code == 0 and out.startswith("forks: "), err
    first, second = (json.loads((tmp_path / name / "credit.json").read_text()) for name in ("first", "second"))
    ours, theirs = (report["credits"]["grpo"]["whitened cosine"] for report in (first["run"], second["forks"]))
    assert ours["value"] == pytest.approx(theirs["value"], abs=5e-3)  # gradients were kept in half precision
    picture, table = ((tmp_path / "second" / name).read_text() for name in ("credit.svg", "credit.md"))
    assert picture.startswith("<svg") and " | GRPO | " in table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("frozen=nowhere.npz", "error: nowhere.npz: No such file or directory"),
        ("continuations=2", "error: continuations=2: expected an integer >= 4"),
        ("run=nowhere", "error: like=nowhere: there is no nowhere/.hydra/hydra.yaml"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, override, message):
    code, _, err = called(override, f"hydra.run.dir={tmp_path}")
    assert code == 1 and err.startswith(message) and err.count("\n") == 1, err


@pytest.mark.slow
def test_a_credit_made_of_forks_is_the_control_of_that_name(tmp_path):
    code, _, err = called("model/credit=fork_value", f"hydra.run.dir={tmp_path}")
    assert code == 0, err
    for report in json.loads((tmp_path / "credit.json").read_text()).values():
        credits = report["credits"]
        assert credits["a2tgpo model/credit=fork_value"] == credits["half of the forks"]

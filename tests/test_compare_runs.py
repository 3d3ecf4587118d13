"""scripts/compare_runs.py pools runs that differ in their seed alone, and names the file it cannot read."""

import importlib.util
import json
import subprocess
import sys

import pytest

from a2tgpo.callbacks.summary import method_overrides
from tests.helpers.tiny_runs import ROOT

FIGURES = {
    "val/success/start": 0.1,
    "val/success/best": 0.5,
    "val/success/final": 0.4,
    "test/success": 0.3,
    "update/clip_fraction": 0.0,
    "seconds/total": 60.0,
}


@pytest.fixture(scope="module")
def compare_runs():
    spec = importlib.util.spec_from_file_location("compare_runs", ROOT / "scripts" / "compare_runs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def leave(tmp_path):
    """`leave(name, overrides, seed)`: the directory of a finished run."""

    def write(name, overrides, seed, experiment="a2tgpo", **figures):
        directory = tmp_path / name
        directory.mkdir()
        summary = {"experiment": experiment, "seed": seed, "overrides": overrides, **FIGURES, **figures}
        (directory / "summary.json").write_text(json.dumps(summary))
        (directory / "metrics.csv").write_text("iteration,train/success,val/success\n0,,0.1\n1,0.2,0.5\n")
        return directory

    return write


def test_runs_are_pooled_by_experiment_and_overrides(compare_runs, leave):
    runs = [leave(f"none{seed}", "model/normalizer=none", seed) for seed in (0, 1)]
    runs += [leave("batch", "model/normalizer=batch", 0), leave("plain", "", 0), leave("grpo", "", 0, "grpo")]
    loaded = compare_runs.load(runs)
    assert {method: len(members) for method, members in loaded.items()} == {
        "a2tgpo": 1,
        "a2tgpo model/normalizer=batch": 1,
        "a2tgpo model/normalizer=none": 2,
        "grpo": 1,
    }
    assert "| a2tgpo model/normalizer=none | 0, 1 |" in compare_runs.table(loaded)


def test_equal_seeds_of_one_method_are_refused(compare_runs, leave):
    with pytest.raises(ValueError, match=r"^a2tgpo model/x=y: 2 runs with seed 3; expected one of each seed"):
        compare_runs.load([leave(name, "model/x=y", 3) for name in ("a", "b")])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", "{", "expected JSON"),
        ("summary.json", '{"test/success": 1}', "experiment is missing; expected the summary of a run"),
        ("metrics.csv", "iteration,val/success\n0\n", "expected the table of a run"),
        ("rollouts/1.jsonl", '{"gain": [1.0]}\n', "expected a trajectory a line"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(compare_runs, leave, file, content, message):
    path = leave("a", "", 0) / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        compare_runs.load([path.parents[1] if "/" in file else path.parent])
    assert str(error.value).startswith(f"{path}: ")


def test_texts_with_unusual_line_ends_are_one_line(compare_runs, leave):
    directory = leave("a", "", 0)
    (directory / "rollouts").mkdir()
    line = json.dumps({"text": "a\u2028b\x85c", "gain": [1.0, 3.0], "has_gain": [True, True]}, ensure_ascii=False)
    (directory / "rollouts" / "1.jsonl").write_text(f"{line}\n", encoding="utf-8")
    (run,) = compare_runs.load([directory])["a2tgpo"]
    assert run["last_turn"] == 0.75


def test_seed_and_places_say_nothing_about_the_method():
    overrides = ["seed=3", "model/x=y", "paths.log_dir=/a", "experiment=a2tgpo", "logger=csv", "~callbacks.histograms"]
    assert method_overrides([*overrides, "data.z=1", "ckpt_path=a", "hydra.run.dir=b"]) == "data.z=1 model/x=y"


@pytest.mark.slow
def test_command_says_what_is_wrong_in_one_line(leave):
    runs = [str(leave(name, "", 0)) for name in ("a", "b")]
    command = [sys.executable, str(ROOT / "scripts" / "compare_runs.py"), *runs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr == "error: a2tgpo: 2 runs with seed 0; expected one of each seed\n"

"""Finished runs are pooled where they differ in their seed alone, and a file that cannot be read is named."""

import pytest

from a2tgpo.evaluation.runs import band, by_seed, find_runs, read_runs, smooth
from a2tgpo.system.overrides import method_overrides
from tests.helpers.tiny_runs import leave_run


def test_runs_are_pooled_by_experiment_and_overrides(tmp_path):
    runs = [leave_run(tmp_path / f"none{seed}", seed, "model/normalizer=none") for seed in (1, 0)]
    runs += [leave_run(tmp_path / "batch", 0, "model/normalizer=batch"), leave_run(tmp_path / "plain", 0)]
    read = read_runs([*runs, leave_run(tmp_path / "grpo", 0, experiment="grpo")])
    assert {method: len(members) for method, members in read.items()} == {
        "a2tgpo": 1,
        "a2tgpo model/normalizer=batch": 1,
        "a2tgpo model/normalizer=none": 2,
        "grpo": 1,
    }
    assert [run.summary["seed"] for run in read["a2tgpo model/normalizer=none"]] == [0, 1]


def test_runs_are_found_however_deep(tmp_path):
    places = ("train/runs/now", "train/multiruns/now/0", "evidence/mixed/grpo/3")
    runs = [leave_run(tmp_path / place, seed) for seed, place in enumerate(places)]
    assert set(find_runs(tmp_path)) == {*runs}
    assert by_seed(read_runs(find_runs(tmp_path))["a2tgpo"], "test/success") == {0: 0.3, 1: 0.3, 2: 0.3}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no metrics.csv in it; expected runs of src/train.py"):
        find_runs(tmp_path / "empty")


def test_a_run_that_did_not_end_is_left_out_and_told(tmp_path, capsys):
    directory = leave_run(tmp_path / "a", 0)
    (directory / "summary.json").write_text('{"experiment": "a2tgpo"}')
    assert read_runs([directory]) == {}
    assert capsys.readouterr().out == f"skipped {directory}: no finished run\n"


def test_equal_seeds_of_one_method_are_refused(tmp_path):
    first, second = (leave_run(tmp_path / name, 3, "model/x=y") for name in ("a", "b"))
    with pytest.raises(ValueError) as error:
        read_runs([first, second])
    assert str(error.value) == f"{second}: a2tgpo model/x=y with seed 3, as {first}; expected one of each seed"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", "{", "expected JSON"),
        ("summary.json", '{"test/success": 1}', "experiment is missing; expected the summary of a run"),
        ("metrics.csv", "iteration,val/success\n0\n", "expected the table of a run"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, file, content, message):
    path = leave_run(tmp_path / "a", 0) / file
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_runs([path.parent])
    assert str(error.value).startswith(f"{path}: ")


def test_curves_by_hand(tmp_path):
    (run,) = read_runs([leave_run(tmp_path / "a", 0)])["a2tgpo"]
    assert run.curve("val/success") == {0: 0.1, 1: 0.5} and run.curve("train/success") == {1: 0.2}
    assert smooth({1: 0.0, 2: 1.0, 8: 1.0, 9: 0.5}) == {1: 0.0, 2: 0.5, 8: 1.0, 9: 0.75}
    assert band([{0: 0.0, 1: 0.25}, {1: 0.75, 2: 1.0}]) == ([1], [0.5], [0.25], [0.75])


def test_seed_and_places_say_nothing_about_the_method():
    overrides = ["seed=3", "model/x=y", "paths.log_dir=/a", "experiment=a2tgpo", "logger=csv", "~callbacks.histograms"]
    assert method_overrides([*overrides, "data.z=1", "ckpt_path=a", "hydra.run.dir=b"]) == "data.z=1 model/x=y"

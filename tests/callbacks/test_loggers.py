"""A run with each logger: numbers reach all of them, histograms and texts those that can take them."""

import csv
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from tests.helpers.tiny_runs import SHIPPED, SMALL

RICH = {f"credit/{name}" for name in ("gain", "normalized_gain", "advantage", "clip_scale")} | {"transcripts", "config"}
SCALARS = {"update/loss", "val/success", "test/success", "seconds/rollout", "train/success"}
FILES = {"checkpoints", "config.yaml", "metrics.csv", "rollouts", "summary.json", "view.html"}
"""What a run leaves whatever its logger."""


@pytest.fixture
def run(composed, tmp_path):
    """`run("csv", …)`: the directory of a finished run of one iteration with that logger."""

    def execute(logger, *overrides):
        paths = (f"paths.policy_dir={SHIPPED}", f"paths.output_dir={tmp_path / 'run'}")
        settings = ("trainer.max_epochs=1", f"logger={logger}", *paths, *overrides)
        train.train(composed("experiment=a2tgpo", *SMALL, *settings))
        assert {path.name for path in (tmp_path / "run").iterdir()} >= FILES
        return tmp_path / "run"

    return execute


def tensorboard_tags(directory):
    tags = EventAccumulator(str(directory)).Reload().Tags()
    texts = {name.removesuffix("/text_summary") for name in tags["tensors"]}
    return set(tags["scalars"]), {*tags["histograms"], *texts}


def csv_columns(directory):
    with (directory / "version_0" / "metrics.csv").open(newline="") as file:
        return {name for row in csv.DictReader(file) for name, value in row.items() if value}


def test_tensorboard_takes_numbers_histograms_and_texts(run):
    scalars, rich = tensorboard_tags(run("tensorboard") / "tensorboard")
    assert scalars >= SCALARS and rich == RICH


def test_csv_takes_numbers_and_the_rest_is_left_out(run):
    columns = csv_columns(run("csv") / "csv")
    assert columns >= SCALARS and not columns & RICH


def test_many_loggers_each_get_what_they_can_take(run):
    directory = run("many")
    scalars, rich = tensorboard_tags(directory / "tensorboard")
    assert scalars >= SCALARS and rich == RICH and csv_columns(directory / "csv") >= SCALARS


def test_without_a_logger_the_files_of_the_callbacks_remain(run):
    directory = run("none")
    assert {path.name for path in directory.iterdir()} == FILES
    assert "val/success/final" in json.loads((directory / "summary.json").read_text())


@pytest.mark.loggers
def test_wandb_takes_numbers_histograms_and_texts(run):
    import wandb

    directory = run("wandb", "logger.offline=true")
    wandb.finish()
    (log,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    content = log.read_bytes()
    assert [name for name in SCALARS | RICH if name.encode() not in content] == []


@pytest.mark.loggers
def test_trackio_takes_numbers_histograms_and_texts(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    import trackio

    run("trackio")
    trackio.finish()
    (logged,) = trackio.Api().runs("a2tgpo")
    assert logged.name == "a2tgpo-0"
    rows = trackio.SQLiteStorage.get_logs("a2tgpo", logged.name)
    assert {name for row in rows for name in row} >= SCALARS | RICH

"""A run with each logger: numbers reach all of them, histograms and texts those that can take them, and each says which
run it is."""

import csv
import json
import time

import pytest
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from run_directories import config_hash
from tests.helpers.tiny_runs import SHIPPED, SMALL

HISTOGRAMS = {f"credit/{name}" for name in ("gain", "normalized_gain", "advantage", "clip_scale")}
TEXTS = {"transcripts", "config"}
RICH = HISTOGRAMS | TEXTS
SCALARS = {"update/loss", "val/success", "test/success", "seconds/rollout", "train/success"}
FILES = {"checkpoints", "config.yaml", "metrics.csv", "rollouts", "summary.json", "view.html"}
"""What a run leaves whatever its logger."""


@pytest.fixture
def run(composed, tmp_path):
    """`run("logger=csv", …)`: the directory of a finished run of one iteration with that logger."""

    def execute(logger, *overrides, name="run"):
        directory = tmp_path / name
        paths = (f"paths.policy_dir={SHIPPED}", f"paths.output_dir={directory}", f"paths.log_dir={tmp_path}")
        train.train(composed("experiment=a2tgpo", *SMALL, "trainer.max_epochs=1", logger, *paths, *overrides))
        assert {path.name for path in directory.iterdir()} >= FILES
        return directory

    return execute


def told(directory):
    """What every logger is told of the run, by the files that have it in any case."""
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["config_hash"] == OmegaConf.load(directory / "config.yaml").callbacks.summary.config_hash
    return {key: summary[key] for key in ("experiment", "seed", "config_hash")}


def tensorboard_tags(directory):
    tags = EventAccumulator(str(directory)).Reload().Tags()
    texts = {name.removesuffix("/text_summary") for name in tags["tensors"]}
    return set(tags["scalars"]), {*tags["histograms"], *texts}


def csv_columns(directory):
    with (directory / "version_0" / "metrics.csv").open(newline="") as file:
        return {name for row in csv.DictReader(file) for name, value in row.items() if value}


def test_tensorboard_takes_numbers_histograms_and_texts(run):
    directory = run("logger=tensorboard")
    scalars, rich = tensorboard_tags(directory / "tensorboard")
    assert scalars >= SCALARS and rich == RICH
    assert OmegaConf.load(directory / "tensorboard" / "hparams.yaml") == told(directory)


def test_csv_takes_numbers_and_the_rest_is_left_out(run):
    directory = run("logger=csv")
    columns = csv_columns(directory / "csv")
    assert columns >= SCALARS and not columns & RICH
    assert OmegaConf.load(directory / "csv" / "version_0" / "hparams.yaml") == told(directory)


@pytest.mark.parametrize("logger", [pytest.param("logger=many", marks=pytest.mark.slow), "logger=[csv,tensorboard]"])
def test_several_loggers_each_get_what_they_can_take(run, logger):
    directory = run(logger)
    scalars, rich = tensorboard_tags(directory / "tensorboard")
    assert scalars >= SCALARS and rich == RICH and csv_columns(directory / "csv") >= SCALARS


@pytest.mark.parametrize("none", ["logger=none", "~logger"])
def test_without_a_logger_the_files_of_the_callbacks_remain(run, none):
    directory = run(none)
    assert {path.name for path in directory.iterdir()} == FILES
    assert "val/success/final" in json.loads((directory / "summary.json").read_text())


# ---- which composition a run is of -----------------------------------------------------------------------------------


def test_the_hash_does_not_know_seed_place_and_loggers(composed, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    same = ["seed=3", "logger=[csv,wandb]", "paths.root_dir=/b", "threads=2", "callbacks.progress.every=5"]
    as_it_is = ["model.clipper.beta=0.3"]
    hashes = {config_hash(composed("experiment=a2tgpo", *overrides)) for overrides in ([], same, as_it_is)}
    assert len(hashes) == 1 and {len(one) for one in hashes} == {10}
    policies = ("model", f"{tmp_path}/model", "./model")
    own = [("model/policy=pretrained", f"model.policy.path={path}") for path in policies]
    assert len({config_hash(composed("experiment=a2tgpo", *overrides)) for overrides in own}) == 1


def test_the_hash_is_that_of_the_resolved_configuration(composed):
    config = composed("experiment=a2tgpo", "seed=4", "model/signal=noise")
    resolved = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert config_hash(resolved) == config_hash(config)


@pytest.mark.parametrize(
    "override", ["model.clipper.beta=0.2", "experiment=grpo", "data.module.group_size=4", "trainer.max_epochs=9"]
)
def test_the_hash_knows_everything_else(composed, override):
    before = composed("experiment=a2tgpo")
    assert config_hash(composed("experiment=a2tgpo", override)) != config_hash(before)


# ---- loggers that are extras -----------------------------------------------------------------------------------------


def missing_of_wandb(directory, named):
    """Those of `named` that are not in the one run of a directory, once the process that writes it had its time."""
    (log,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 60
    while missing := [name for name in named if name.encode() not in log.read_bytes()]:
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    return missing


@pytest.mark.loggers
def test_wandb_takes_numbers_histograms_and_texts(run):
    directory = run("logger=wandb", "logger.wandb.offline=true")
    named = SCALARS | RICH | {"a2tgpo-0", "train", told(directory)["config_hash"]}
    assert missing_of_wandb(directory, named) == []


@pytest.mark.loggers
def test_wandb_has_a_run_for_each_job_of_a_sweep(run):
    for seed in (0, 1):
        directory = run("logger=wandb", "logger.wandb.offline=true", f"seed={seed}", name=str(seed))
        assert missing_of_wandb(directory, {f"a2tgpo-{seed}"}) == []


@pytest.mark.loggers
def test_trackio_takes_numbers_histograms_and_texts(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    import trackio

    directory = run("logger=trackio")
    trackio.finish()
    (logged,) = trackio.Api().runs("a2tgpo")
    assert logged.name == "a2tgpo-0"
    assert logged.config.items() >= {**told(directory), "_Group": told(directory)["config_hash"]}.items()
    rows = trackio.SQLiteStorage.get_logs("a2tgpo", logged.name)
    assert {name for row in rows for name in row} >= SCALARS | RICH


@pytest.mark.loggers
def test_mlflow_takes_numbers_and_texts_beside_another_logger(run, tmp_path):
    from mlflow import MlflowClient

    directory = run("logger=[mlflow,csv]")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (logged,) = client.search_runs([client.get_experiment_by_name("a2tgpo").experiment_id])
    assert logged.info.run_name == "a2tgpo-0" and logged.info.status == "FINISHED"
    assert logged.data.params == {key: str(value) for key, value in told(directory).items()}
    assert logged.data.tags.items() >= {"task": "train", "config_hash": told(directory)["config_hash"]}.items()
    assert {*logged.data.metrics} >= SCALARS and csv_columns(directory / "csv") >= SCALARS
    assert {file.path for file in client.list_artifacts(logged.info.run_id)} == TEXTS
    assert {path.name for path in tmp_path.iterdir()} == {"run", "mlflow.db", "mlflow"}

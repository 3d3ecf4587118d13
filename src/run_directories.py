"""Where a run lives: its directory, the configuration that is kept there, and what a resume may change of it."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime
from glob import glob
from hashlib import sha256
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from a2tgpo.system.files import held, whole_file
from a2tgpo.system.launches import first_of_launch, launch_name
from a2tgpo.system.overrides import SAME_METHOD
from a2tgpo.system.settings import require

RESUME_MAY_CHANGE = (
    ".path",
    "_path",
    "_dir",
    ".url",
    "timeout",
    ".retries",
    ".patience",
    ".max_concurrent",
    ".max_concurrency",
    ".cache_size",
    ".max_sessions",
    ".micro_batch_tokens",
    ".gradient_checkpointing",
    ".max_prompt_tokens",
)
"""Ends of the keys that a resume may change: where things are, how much is done at once, and a limit that refuses
prompts but cuts none."""
PATHS = (
    ".path",
    "_path",
    "_dir",
    ".demonstrations",
    "data.tasks.train",
    "data.tasks.val",
    "data.tasks.test",
    "data.retriever.model",
)
"""Ends of the keys whose value may be a file or folder, or a list of them."""
CONFIG = "config.yaml"
"""The file of a run directory that holds the resolved configuration."""

_log = logging.getLogger(__name__)


def run_dir(ckpt_path: str | None, task_name: str, log_dir: str) -> str:
    """A resumed run goes on in its own directory, every other gets a new one, the same for all its processes.

    Raises ValueError where there is no checkpoint to go on from, it stands in no run directory, or there is no
    directory of runs.
    """
    require("paths.log_dir", log_dir)
    if ckpt_path is not None and task_name in ("train", "warm_up"):
        if not Path(ckpt_path).is_file():
            raise ValueError(f"ckpt_path={ckpt_path}: no such file; expected a checkpoint written by src/train.py")
        directory = Path(ckpt_path).resolve().parents[1]
        if not (directory / CONFIG).is_file():
            raise ValueError(
                f"ckpt_path={ckpt_path}: there is no {directory / CONFIG}; expected the checkpoint in the run "
                "directory it was written to"
            )
        return str(directory)
    return f"{log_dir}/{task_name}/runs/{launch_name(f'{datetime.now():%Y-%m-%d_%H-%M-%S-%f}')}"


def make_paths_absolute(config: DictConfig) -> None:
    """Files and folders that are there get their whole path, so that the run directory says the same from anywhere."""
    for key, value in _flat(OmegaConf.to_container(config, resolve=False)).items():
        if key.endswith(PATHS):
            OmegaConf.update(config, key, _absolute(value))


def config_hash(_root_: DictConfig) -> str:
    """Equal for runs of one composition: what `SAME_METHOD` names is left out, and every seed.

    What is in a folder of `paths` counts by its place in there, other files and folders by where they are.
    """
    config = deepcopy(_root_)
    OmegaConf.set_struct(config, False)
    for name in ("callbacks", "logger"):  # which speak of the hash themselves
        config.pop(name, None)
    values = OmegaConf.to_container(config, resolve=True)
    told = {
        key: _within(_absolute(value) if key.endswith(PATHS) else value, values["paths"])
        for key, value in _flat(values).items()
        if not key.startswith(SAME_METHOD) and not key.endswith(".seed")
    }
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]


def _absolute(value: object) -> object:
    if isinstance(value, list):
        return [_absolute(one) for one in value]
    return os.path.abspath(value) if isinstance(value, str) and glob(value) else value


def _within(value: object, folders: Mapping[str, str]) -> object:
    """A path in one of `folders` as one that begins with its name, of the deepest."""
    if isinstance(value, list):
        return [_within(one, folders) for one in value]
    if not isinstance(value, str):
        return value
    inside = [(str(folder), name) for name, folder in folders.items() if f"{value}/".startswith(f"{folder}/")]
    folder, name = max(inside, default=("", ""))
    return name + value.removeprefix(folder)


@contextmanager
def run_directory(config: DictConfig) -> Iterator[Path]:
    """The directory of this run, which no other process writes to meanwhile; its configuration is kept there.

    Raises ValueError where it holds another run, or another process is writing to it, or the checkpoint to go on from
    is of another.
    """
    directory = Path(config.paths.output_dir)
    path = directory / CONFIG
    if config.ckpt_path is not None:
        own = Path(config.ckpt_path).resolve().parents[1]
        if directory.resolve() != own:
            raise ValueError(
                f"hydra.run.dir={directory}: a run that goes on stays where it is; expected {own}, or none"
            )
        check_config(config, path)
    if not first_of_launch():
        yield directory
        return
    if config.ckpt_path is None:
        if path.exists():
            raise ValueError(f"{directory}: holds a run already; expected a new directory, or ckpt_path=… to go on")
        with whole_file(path) as file:
            OmegaConf.save(config, file, resolve=True)
    with held(path):
        yield directory


def check_config(config: DictConfig, path: Path) -> None:
    """Hold the configuration of a resumed run against what it was started with; say where it gets longer or shorter.

    Raises ValueError naming the first key of `data`, `model` or `seed` that differs, but for `RESUME_MAY_CHANGE`.
    """
    try:
        kept = OmegaConf.load(path)
        now, then = (_flat(OmegaConf.to_container(c, resolve=True)) for c in (config, kept))
    except (YAMLError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: {error}; expected the configuration of a run") from error
    for key in sorted(now.keys() | then.keys()):
        same_run = key == "seed" or (key.startswith(("data.", "model.")) and not key.endswith(RESUME_MAY_CHANGE))
        if same_run and now.get(key) != then.get(key):
            raise ValueError(
                f"{key}={now.get(key)}: the run of {path.parent} was started with {then.get(key)}; "
                "expected a resume with the same experiment and overrides"
            )
    if first_of_launch() and now["trainer.max_epochs"] != (before := then.get("trainer.max_epochs")):
        _log.warning(
            "trainer.max_epochs=%s: the run was started with %s; a scheduled learning rate follows the new length from "
            "here on",
            now["trainer.max_epochs"],
            before,
        )


def _flat(node: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

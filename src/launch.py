"""What the entry points share: where the configs are, a process that is ready, settings that can work, `like=`."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from a2tgpo.system.entry_points import PACKAGE, home
from a2tgpo.system.launches import first_of_launch
from a2tgpo.system.overrides import taken_over
from a2tgpo.system.settings import require, require_all
from a2tgpo.system.signals import end_with_parent
from error_lines import FULL_ERROR, stop_in_one_line
from run_directories import config_hash, run_dir

CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")

LIKE = "like="
"""Names a run whose overrides hold here too."""


def prepare_process() -> None:
    """Resolvers of the configuration; known warnings of libraries are left out."""
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a resumed run
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*is deprecated")
    OmegaConf.register_new_resolver("project_root", lambda: str(home()), replace=True)
    OmegaConf.register_new_resolver("package_dir", lambda: str(PACKAGE), replace=True)
    OmegaConf.register_new_resolver("config_hash", config_hash, replace=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, use_cache=True, replace=True)


def quiet_libraries() -> None:
    """Libraries speak only when something is wrong: after their import, which sets what they say."""
    from transformers.utils.logging import disable_progress_bar

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # what a model folder lacks is an error of our own
    logging.getLogger("transformers.modeling_utils").addFilter(lambda record: "LOAD REPORT" not in record.getMessage())
    disable_progress_bar()


def require_settings(config: DictConfig, needed: Sequence[str] = (), splits: Sequence[str] = ()) -> None:
    """Raises ValueError naming a key that is `needed` and was taken away, those that have no default and were not set,
    `splits` without question files among them, or the first whose value cannot work."""
    if HydraConfig.initialized() and not HydraConfig.get().run.dir:
        raise ValueError("hydra.run.dir: no value; expected a directory")
    for key in needed:
        require(key, OmegaConf.select(config, key))
    files = {
        key for key in (f"data.tasks.{split}" for split in splits) if OmegaConf.select(config, key, default="") is None
    }
    if missing := sorted(OmegaConf.missing_keys(config) | files):
        raise ValueError(f"{missing[0]}: no value; expected {' and '.join(f'{key}=…' for key in missing)}")
    require_all(_own_values(OmegaConf.to_container(config)))  # first: not who takes a value over is to be named
    require_all(OmegaConf.to_container(config, resolve=True))


def _own_values(node: Mapping[str, Any]) -> dict[str, Any]:
    """`node` without what is taken over from elsewhere."""
    own = {name: value for name, value in node.items() if not (isinstance(value, str) and "${" in value)}
    return {name: _own_values(value) if isinstance(value, Mapping) else value for name, value in own.items()}


def require_whole_iterations(config: DictConfig) -> None:
    """Raises ValueError for a limit of the trainer that would end a run inside an iteration."""
    for key in ("max_steps", "max_time"):
        if config.trainer.get(key) not in (None, -1):
            raise ValueError(
                f"trainer.{key}={config.trainer[key]}: it would end the run inside an iteration, which cannot be taken "
                "up again; expected trainer.max_epochs"
            )


def launch(main: Callable[[], None]) -> None:
    """Run an entry point. Hydra hands over what is wrong with the configuration, so that it becomes one line too."""
    os.environ[FULL_ERROR] = "1"
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal that lacks a letter ends no run
    if not first_of_launch():
        end_with_parent()
    told = threading.excepthook
    threading.excepthook = lambda failure: None if _is_told_again(failure) else told(failure)
    with stop_in_one_line():
        sys.argv[1:] = spelt_out(sys.argv[1:])
        main()


def spelt_out(arguments: Sequence[str]) -> list[str]:
    """The command line with the overrides of the run in directory RUN that hold here too in the place of `like=RUN`.

    Raises ValueError where there is no such run.
    """
    given = [argument for argument in arguments if not argument.startswith(LIKE)]
    words: list[str] = []
    for argument in arguments:
        run = argument.removeprefix(LIKE)
        words += [argument] if run == argument else taken_over(_overrides_of(run), given)
    return words


def _overrides_of(run: str) -> list[str]:
    path = Path(run) / ".hydra" / "hydra.yaml"
    if not path.is_file():
        alone = f", or python src/credit.py traces={run}" if (Path(run) / "rollouts").is_dir() else ""
        raise ValueError(f"{LIKE}{run}: there is no {path}; expected the directory of a run of src/train.py{alone}")
    settings = OmegaConf.load(path).hydra
    experiment = settings.runtime.choices.get("experiment")
    named = [f"experiment={experiment}"] if experiment else []
    return [*named, *(o for o in settings.overrides.task if not o.startswith("experiment="))]


def _is_told_again(failure: threading.ExceptHookArgs) -> bool:
    """What TensorBoard's writing thread dies of, such as a full disk, is raised again in the main thread."""
    return type(failure.thread).__module__.startswith("tensorboard.")

"""What the entry points share: where the project is, where a run lives, and errors in one line."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from glob import glob
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError

from a2tgpo.system.files import held, whole_file
from a2tgpo.system.launches import first_of_launch, launch_name
from a2tgpo.system.overrides import taken_over
from a2tgpo.system.settings import require, require_all
from a2tgpo.system.signals import end_with_parent

ROOT = Path(__file__).resolve().parents[1]

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

LIKE = "like="
"""Names a run whose overrides hold here too."""
CONFIG = "config.yaml"
"""The file of a run directory that holds the resolved configuration."""

_FULL_ERROR = "HYDRA_FULL_ERROR"
_SHOW_TRACE = os.environ.get(_FULL_ERROR) == "1"
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


def prepare_process() -> None:
    """Resolvers `project_root` and `run_dir` for the configuration; known warnings of libraries are left out."""
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a resumed run
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*is deprecated")
    OmegaConf.register_new_resolver("project_root", lambda: str(ROOT), replace=True)
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
    require_all(OmegaConf.to_container(config, resolve=True))


def require_whole_iterations(config: DictConfig) -> None:
    """Raises ValueError for a limit of the trainer that would end a run inside an iteration."""
    for key in ("max_steps", "max_time"):
        if config.trainer.get(key) not in (None, -1):
            raise ValueError(
                f"trainer.{key}={config.trainer[key]}: it would end the run inside an iteration, which cannot be taken "
                "up again; expected trainer.max_epochs"
            )


def make_paths_absolute(config: DictConfig) -> None:
    """Files and folders that are there get their whole path, so that the run directory says the same from anywhere."""
    for key, value in _flat(OmegaConf.to_container(config, resolve=False)).items():
        if key.endswith(PATHS):
            OmegaConf.update(
                config, key, [_absolute(v) for v in value] if isinstance(value, list) else _absolute(value)
            )


def _absolute(value: object) -> object:
    return os.path.abspath(value) if isinstance(value, str) and glob(value) else value


@contextmanager
def run_directory(config: DictConfig) -> Iterator[Path]:
    """The directory of this run, which no other process writes to meanwhile; its configuration is kept there.

    Raises ValueError where it holds another run, or another process is writing to it.
    """
    directory = Path(config.paths.output_dir)
    path = directory / CONFIG
    if config.ckpt_path is not None:
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


def launch(main: Callable[[], None]) -> None:
    """Run an entry point. Hydra hands over what is wrong with the configuration, so that it becomes one line too."""
    os.environ[_FULL_ERROR] = "1"
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal that lacks a letter ends no run
    if not first_of_launch():
        end_with_parent()
    told = threading.excepthook
    threading.excepthook = lambda failure: None if _is_told_again(failure) else told(failure)
    with _stop_in_one_line():
        sys.argv[1:] = spelt_out(sys.argv[1:])
        main()


def spelt_out(arguments: Sequence[str]) -> list[str]:
    """The command line with the overrides of the run in directory RUN that hold here too in the place of `like=RUN`.

    Raises ValueError where there is no such run.
    """
    given = [argument for argument in arguments if not argument.startswith(LIKE)]
    words: list[str] = []
    for argument in arguments:
        words += taken_over(_overrides_of(argument.removeprefix(LIKE)), given) if argument not in given else [argument]
    return words


def _overrides_of(run: str) -> list[str]:
    path = Path(run) / ".hydra" / "hydra.yaml"
    if not path.is_file():
        raise ValueError(f"{LIKE}{run}: there is no {path}; expected the directory of a run of src/train.py")
    settings = OmegaConf.load(path).hydra
    experiment = settings.runtime.choices.get("experiment")
    named = [f"experiment={experiment}"] if experiment else []
    return [*named, *(o for o in settings.overrides.task if not o.startswith("experiment="))]


def _is_told_again(failure: threading.ExceptHookArgs) -> bool:
    """What TensorBoard's writing thread dies of, such as a full disk, is raised again in the main thread."""
    return type(failure.thread).__module__.startswith("tensorboard.")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End with one clear line and exit code 1 on bad input; `HYDRA_FULL_ERROR=1` shows where it was noticed.

    In a sweep the error goes on to Hydra, which runs the other jobs before `launch` reports it.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        yield
        return
    os.environ[_FULL_ERROR] = str(int(_SHOW_TRACE))
    with _stop_in_one_line():
        yield


@contextmanager
def _stop_in_one_line() -> Iterator[None]:
    try:
        yield
    except (
        ValueError,
        FloatingPointError,
        OSError,
        OmegaConfBaseException,
        HydraException,
        *_of_lightning("fabric", "MisconfigurationException"),
    ) as error:
        if _SHOW_TRACE:
            raise
        print(f"error: {' '.join(_tell(error).split())}", file=sys.stderr)
        sys.exit(1)


def _of_lightning(package: str, name: str) -> tuple[type[BaseException], ...]:
    """The exception `name`, once Lightning is there to raise it: its import takes seconds."""
    module = sys.modules.get(f"lightning.{package}.utilities.exceptions")
    return () if module is None else (getattr(module, name),)


def _tell(error: Exception) -> str:
    """What is wrong and where, without what Hydra says of itself."""
    cause = error.__cause__
    while isinstance(error, OSError) and error.filename is None and isinstance(error.__context__, OSError):
        error = error.__context__  # what fails in tidying up after a full disk knows no file
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(cause, ValueError | FileNotFoundError) and "expected" in str(cause):
        return str(cause)  # the project's own messages name the key
    if isinstance(error, InstantiationException) and cause is not None:
        return f"{str(error).rpartition('full_key: ')[2]}: {cause}"
    if isinstance(error, OverrideParseException):  # which does not always name it
        said = str(error).partition("See https://")[0]
        return said if error.override in said else f"Error parsing override '{error.override}' {said}"
    if "Config group override must be" in str(error):  # Hydra does not say of which group
        return f"{' '.join(a for a in sys.argv if a.endswith('=null'))}: expected a choice of its group, or logger=none"
    said, _, key = str(error).partition("full_key: ")
    if isinstance(error, InterpolationKeyError):
        return (
            f"{key.split()[0]}: {said.strip()}; expected parts that fit together, as in data=default or data=calculator"
        )
    if isinstance(error, InterpolationResolutionError):
        return said.partition("while resolving interpolation: ")[2]
    return str(error).partition("Config search path:")[0]

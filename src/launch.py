"""What the entry points share: where the project is, where a run lives, and errors in one line."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers.utils.logging import disable_progress_bar

from a2tgpo.system.distributed import launch_name

ROOT = Path(__file__).resolve().parents[1]
TERMINATED = 143
"""Exit code of a process that SIGTERM ended."""

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
)
RESUME_MAY_CHANGE += (".cache_size", ".max_sessions", ".micro_batch_tokens", ".gradient_checkpointing")
RESUME_MAY_CHANGE += (".max_prompt_tokens",)
"""Ends of the keys that a resume may change: where things are, how much is done at once, and a limit that refuses
prompts but cuts none."""

_FULL_ERROR = "HYDRA_FULL_ERROR"
_SHOW_TRACE = os.environ.get(_FULL_ERROR) == "1"


def run_dir(ckpt_path: str | None, task_name: str, log_dir: str) -> str:
    """A resumed run goes on in its own directory, every other gets a new one, the same for all its processes.

    Raises ValueError where there is no checkpoint to go on from.
    """
    if ckpt_path is not None and task_name == "train":
        if not Path(ckpt_path).is_file():
            raise ValueError(f"ckpt_path={ckpt_path}: no such file; expected a checkpoint written by src/train.py")
        return str(Path(ckpt_path).resolve().parents[1])
    return f"{log_dir}/{task_name}/runs/{launch_name(f'{datetime.now():%Y-%m-%d_%H-%M-%S-%f}')}"


def prepare_process() -> None:
    """Resolvers `project_root` and `run_dir` for the configuration; libraries speak only when something is wrong."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # what a model folder lacks is an error of our own
    logging.getLogger("transformers.modeling_utils").addFilter(lambda record: "LOAD REPORT" not in record.getMessage())
    disable_progress_bar()
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a resumed run
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*is deprecated")
    OmegaConf.register_new_resolver("project_root", lambda: str(ROOT), replace=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, use_cache=True, replace=True)


def require_values(config: DictConfig) -> None:
    """Raises ValueError naming the keys that have no default and were not set."""
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ValueError(f"{missing[0]}: no value; expected {' and '.join(f'{key}=…' for key in missing)}")


def save_or_check_config(config: DictConfig, path: Path) -> None:
    """Write the resolved configuration of a new run; hold a resumed one against what is written there.

    Raises ValueError naming the first key of `data`, `model` or `seed` that differs, but for `RESUME_MAY_CHANGE`.
    """
    if config.ckpt_path is None or not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, path, resolve=True)
        return
    now, then = (_flat(OmegaConf.to_container(c, resolve=True)) for c in (config, OmegaConf.load(path)))
    for key in sorted(now.keys() | then.keys()):
        same_run = key == "seed" or (key.startswith(("data.", "model.")) and not key.endswith(RESUME_MAY_CHANGE))
        if same_run and now.get(key) != then.get(key):
            raise ValueError(
                f"{key}={now.get(key)}: the run of {path.parent} was started with {then.get(key)}; "
                "expected a resume with the same experiment and overrides"
            )


def _flat(node: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def launch(main: Callable[[], None]) -> None:
    """Run an entry point. Hydra hands over what is wrong with the configuration, so that it becomes one line too."""
    os.environ[_FULL_ERROR] = "1"
    with _stop_in_one_line():
        main()


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
        FileNotFoundError,
        MisconfigurationException,
        OmegaConfBaseException,
        HydraException,
    ) as error:
        if _SHOW_TRACE:
            raise
        print(f"error: {' '.join(_tell(error).split())}", file=sys.stderr)
        sys.exit(1)
    except SIGTERMException:
        sys.exit(TERMINATED)


def _tell(error: Exception) -> str:
    """What is wrong and where, without the parts of Hydra's message that only list its search path."""
    cause = error.__cause__
    if isinstance(error, InstantiationException) and isinstance(cause, ValueError | FileNotFoundError):
        return str(cause)  # the project's own messages name the key
    if isinstance(cause, MisconfigurationException) and "No supported gpu backend" in str(cause):
        return "trainer.accelerator=gpu: no GPU is visible; expected one, or trainer=default for the CPU"
    if isinstance(error, InstantiationException) and cause is not None:
        return f"{str(error).rpartition('full_key: ')[2]}: {cause}"
    return str(error).partition("Config search path:")[0]

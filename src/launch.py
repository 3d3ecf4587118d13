"""What the entry points share: where the project is, where a run lives, and errors in one line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

ROOT = Path(__file__).resolve().parents[1]


def run_dir(ckpt_path: str | None, task_name: str, log_dir: str) -> str:
    """A resumed run goes on in its own directory, every other gets a new one."""
    if ckpt_path is not None and task_name == "train":
        return str(Path(ckpt_path).resolve().parents[1])
    return f"{log_dir}/{task_name}/runs/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"


def register_resolvers() -> None:
    """`project_root` and `run_dir`, for the configuration."""
    OmegaConf.register_new_resolver("project_root", lambda: str(ROOT), replace=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, use_cache=True, replace=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End with one clear line and exit code 1 on bad input; `HYDRA_FULL_ERROR=1` shows where it was noticed."""
    try:
        yield
    except (ValueError, FileNotFoundError, MisconfigurationException, OmegaConfBaseException) as error:
        _stop(error)
    except InstantiationException as error:
        _stop(error.__cause__ or error)


def _stop(error: BaseException) -> None:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(1)

"""Errors in one line: what is wrong, where, and what was expected."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException

from a2tgpo.system.entry_points import as_called

FULL_ERROR = "HYDRA_FULL_ERROR"
"""Of the environment: whether Hydra hands errors on as they are, or makes a text of them."""
PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer")
"""What a collective says where another process has ended."""
_SHOW_TRACE = os.environ.get(FULL_ERROR) == "1"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End with one clear line and exit code 1 on bad input; `HYDRA_FULL_ERROR=1` shows where it was noticed.

    In a sweep the error goes on to Hydra, which runs the other jobs before `launch` reports it.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        yield
        return
    os.environ[FULL_ERROR] = str(int(_SHOW_TRACE))
    with stop_in_one_line():
        yield


@contextmanager
def stop_in_one_line() -> Iterator[None]:
    """End with one clear line and exit code 1 on bad input, or with its trace where it was asked for."""
    try:
        yield
    except (
        ValueError,
        FloatingPointError,
        OSError,
        OmegaConfBaseException,
        HydraException,
        *_misconfiguration(),
    ) as error:
        if _SHOW_TRACE:
            raise
        print(f"error: {as_called(' '.join(tell(error).split()))}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if _SHOW_TRACE or not any(words in str(error) for words in PEER_IS_GONE):
            raise
        print("error: another process of the run is gone: it says why, or the system has killed it", file=sys.stderr)
        sys.exit(1)


def _misconfiguration() -> tuple[type[Exception], ...]:
    """That of Lightning, once it is there to be raised: its import takes seconds."""
    module = sys.modules.get("lightning.fabric.utilities.exceptions")
    return () if module is None else (module.MisconfigurationException,)


def tell(error: Exception) -> str:
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

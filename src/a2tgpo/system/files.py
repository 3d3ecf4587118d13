"""Files of a run: written whole or not at all, in UTF-8; and held by one process at a time."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_log = logging.getLogger(__name__)


@contextmanager
def whole_file(path: Path, binary: bool = False) -> Iterator[IO]:
    """A file to write, which takes the place of `path` once it is complete: whoever dies meanwhile leaves the old one.

    Text is UTF-8, line ends are kept. Raises OSError naming `path` where it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") if binary else part.open("w", encoding="utf-8", newline="") as file:
            yield file
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """`values` as indented JSON. Raises OSError naming `path`."""
    with whole_file(path) as file:
        file.write(json.dumps(values, indent=2) + "\n")


def read_json_file(path: Path) -> dict[str, Any]:
    """The object in `path`. Raises ValueError naming the file where it holds none, OSError where there is no file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected JSON") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: {type(values).__name__}; expected a JSON object")
    return values


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the file `path` for this process alone; the system lets go of it when the process dies.

    Raises ValueError where another process holds it. A file system without locks is warned of once.
    """
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{path.parent}: another process is writing to this run directory; expected it to have ended"
            ) from None
        except OSError as error:
            os_says = os.strerror(error.errno)
            _log.warning("%s cannot be locked (%s): nothing keeps two processes from writing there", path, os_says)
        yield

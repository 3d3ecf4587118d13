"""Indexes on disk: built once for a corpus and its settings, complete or not there at all."""

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from a2tgpo.retrievers.corpus import KEY

_log = logging.getLogger(__name__)
_EDGE = 1 << 16
"""Bytes at either end of a file that go into its fingerprint: reading all of a large corpus would take minutes."""


def fingerprint(path: Path) -> str:
    """Changes when the file does: its size, the time of its last change, and its first and last bytes."""
    stat = path.stat()
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns} ".encode())
    with path.open("rb") as file:
        digest.update(file.read(_EDGE))
        file.seek(max(0, stat.st_size - _EDGE))
        digest.update(file.read())
    return digest.hexdigest()


def cached_index(
    corpus_path: Path, cache_dir: Path, settings: Mapping[str, Any], build: Callable[[Path], None]
) -> Path:
    """The directory with the index of this corpus under these settings; `build` fills it where there is none.

    Processes that ask at once wait for the first. A build that fails or is killed leaves nothing that could be read:
    it works in a directory of its own, which gets its name when it is complete.
    """
    if not corpus_path.is_file():
        raise ValueError(f"{KEY}={corpus_path}: no such file; expected JSON lines of {{id, contents}}")
    identity = json.dumps({**settings, "corpus": fingerprint(corpus_path)}, sort_keys=True, indent=2)
    target = cache_dir / f"{corpus_path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _alone(target.with_name(f"{target.name}.lock")):
        if not target.is_dir():
            _log.warning("building the index of %s, once, in %s", corpus_path, target)
            _build(target, identity, build)
    return target


def _build(target: Path, identity: str, build: Callable[[Path], None]) -> None:
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a build that was killed
    unfinished.mkdir()
    build(unfinished)
    (unfinished / "settings.json").write_text(identity)
    unfinished.rename(target)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock file; the system lets go of it when the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

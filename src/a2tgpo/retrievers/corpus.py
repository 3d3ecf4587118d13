"""A corpus of JSON lines that stays on disk: one document a line, found by its byte offset."""

import json
import mmap
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from a2tgpo.interfaces import EmptyCorpus
from a2tgpo.retrievers.passages import read_document

KEY = "data.retriever.corpus_path"
OFFSETS = "offsets.npy"


def write_offsets(path: Path, directory: Path) -> None:
    """Read the whole corpus once and write where each document starts. Blank lines are passed over.

    Raises ValueError naming file, line and field of the first bad document, EmptyCorpus where there is none.
    """
    starts, position = array("q"), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                _check(line, path, number)
                starts.append(position)
            position += len(line)
    if not starts:
        raise EmptyCorpus(f"{KEY}={path}: holds no documents; expected at least one")
    np.save(directory / OFFSETS, np.frombuffer(starts, dtype=np.int64))


def _check(line: bytes, path: Path, number: int) -> None:
    try:
        read_document(json.loads(line))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{KEY}={path}: line {number}: expected one JSON object in UTF-8: {error}") from error
    except ValueError as error:
        raise ValueError(f"{KEY}={path}: line {number}, {error}") from error


class Corpus:
    """The documents of a checked JSON-lines file. Neither they nor their offsets are held in memory."""

    def __init__(self, path: Path, directory: Path) -> None:
        self._starts = np.load(directory / OFFSETS, mmap_mode="r")
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> tuple[str, str]:
        """Id and contents of one document."""
        start = int(self._starts[index])
        end = self._bytes.find(b"\n", start)
        return read_document(json.loads(self._bytes[start : end if end >= 0 else len(self._bytes)]))

    def contents(self) -> Iterator[str]:
        """The contents of every document, in the order of the file."""
        return (self[index][1] for index in range(len(self)))

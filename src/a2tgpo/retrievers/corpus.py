"""A corpus of JSON lines that stays on disk: one document a line, found by its byte offset."""

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from a2tgpo.retrievers.passages import read_document
from a2tgpo.retrievers.protocols import EmptyCorpus
from a2tgpo.system.jsonl import JsonLines, lines, read_json

KEY = "data.retriever.corpus_path"
OFFSETS = "offsets.npy"


def write_offsets(path: Path, directory: Path) -> None:
    """Read the whole corpus once and write where each document starts. Blank lines are passed over.

    Raises ValueError naming file, line and field of the first bad document, EmptyCorpus where there is none.
    """
    starts = array("q")
    for number, start, line in lines(path):
        _check(line, path, number)
        starts.append(start)
    if not starts:
        raise EmptyCorpus(f"{KEY}={path}: holds no documents; expected at least one")
    np.save(directory / OFFSETS, np.frombuffer(starts, dtype=np.int64))


def _check(line: bytes, path: Path, number: int) -> None:
    try:
        record = read_json(line)
    except ValueError as error:
        raise ValueError(f"{KEY}={path}: line {number}: expected one JSON object in UTF-8: {error}") from error
    try:
        read_document(record)
    except ValueError as error:
        raise ValueError(f"{KEY}={path}: line {number}, {error}") from error


class Corpus:
    """The documents of a checked JSON-lines file. Neither they nor their offsets are held in memory."""

    def __init__(self, path: Path, directory: Path) -> None:
        self._records = JsonLines(path, np.load(directory / OFFSETS, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[str, str]:
        """Id and contents of one document."""
        return read_document(self._records[index])

    def contents(self) -> Iterator[str]:
        """The contents of every document, in the order of the file."""
        return (self[index][1] for index in range(len(self)))

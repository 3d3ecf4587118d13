"""JSON: a value from outside, and files of one object a line, which stay on disk when they are read."""

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from a2tgpo.system.files import whole_file


def read_json(data: bytes) -> Any:
    """The value of `data`. Half a surrogate pair, which no tokenizer takes, becomes a question mark.

    Raises ValueError where it is not JSON in UTF-8, or nested too deep to read.
    """
    text = data.decode("utf-8-sig")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if "\\ud" in text.lower():
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), byte offset and bytes of each line that is not blank."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, start, line
            start += len(line)


def write_jsonl(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """One line a record."""
    with whole_file(path) as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


class JsonLines(Sequence[Any]):
    """The values of a file's lines, which begin at the byte offsets `starts`; none is held in memory."""

    def __init__(self, path: Path, starts: Sequence[int]) -> None:
        self._starts = starts
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Any:
        start = int(self._starts[index])
        end = self._bytes.find(b"\n", start)
        return read_json(self._bytes[start : end if end >= 0 else len(self._bytes)])

"""JSON: a value from outside, and files of one object a line, which stay on disk when they are read."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from a2tgpo.system.errors import SettingError
from a2tgpo.system.files import whole_file

_CHUNK = 1 << 12
"""Bytes that are read at once: a line or two."""


def read_json(data: bytes | bytearray) -> Any:
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
    """The values of a file's lines, which begin at the byte offsets `starts`; none is held in memory.

    The file stays open: a new one under its name is not seen. Raises SettingError where it was itself rewritten.
    """

    def __init__(self, path: Path, starts: Sequence[int]) -> None:
        self._path, self._starts = path, starts
        self._file = path.open("rb", buffering=0)
        self._state = self._look()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Any:
        line = self._line(int(self._starts[index]))
        if self._look() != self._state:
            raise SettingError(
                f"{self._path}, row {index}: the file was changed while it was in use; expected it to stay as it is "
                "(put a new one in its place instead of writing into it)"
            )
        return read_json(line)

    def _look(self) -> tuple[int, int]:
        """Size and time of the last change."""
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def _line(self, start: int) -> bytes:
        parts: list[bytes] = []
        while chunk := os.pread(self._file.fileno(), _CHUNK, start):  # threads share no position in the file
            part, end, _ = chunk.partition(b"\n")
            parts.append(part)
            start += len(chunk)
            if end:
                break
        return b"".join(parts)

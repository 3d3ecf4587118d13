"""Opening question files on this machine, by their suffix, and data sets of the hub."""

import glob
import hashlib
import re
import reprlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import datasets
import pyarrow
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from pyarrow import csv
from pyarrow.parquet import read_metadata

from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.jsonl import JsonLines, lines, read_json

datasets.disable_progress_bars()  # also when standard error is read for its one line of error
datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said once, in the ValueError

HUB_SPLITS = {Split.TRAIN: "train", Split.VALIDATION: "validation", Split.TEST: "test"}
Read = TypeVar("Read")
_HUB_ID = re.compile(r"(?P<path>[\w.-]+/[\w.-]+?)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?")


@dataclass(frozen=True)
class Source:
    """One opened file or data set: what errors call it, a short name, its columns and its rows."""

    source: str
    name: str
    columns: Sequence[str]
    rows: Sequence[dict]


def open_sources(key: str, entry: str, split: Split, limit: int | None) -> Iterator[Source]:
    """What `entry` names: a file, a pattern of files, or a hub id `owner/name[:config][@split]`.

    Parquet is memory-mapped as Arrow, jsonl read line by line, since its rows need not be of one type. The array of a
    json file and the table of a csv or tsv file, whose cells are texts, are held in memory. Under a `limit` no more
    rows of a jsonl file are looked at, and a hub id is streamed, so only its first rows are fetched. The split of a hub
    id defaults to the one named like `split` (`val` is the hub's `validation`).
    Raises ValueError that starts with `key=entry` where there is nothing, or nothing readable.
    """
    label = f"{key}={entry}"
    paths = _files(label, entry)
    hub = _HUB_ID.fullmatch(entry)
    if paths:
        for path in paths:
            yield OPENERS[path.suffix](f"{key}={path}", path, limit)
    elif hub is None or Path(entry).suffix in OPENERS or Path(entry).is_file():
        found = "a file of another kind" if Path(entry).is_file() else "no such file"
        raise ValueError(
            f"{label}: {found}; expected one that ends in {', '.join(OPENERS)}, a pattern of them, "
            "or a hub id owner/name[:config][@split]"
        )
    else:
        rows = _from_hub(label, hub, split, limit)
        _require_rows(label, len(rows))
        columns = rows.column_names if isinstance(rows, Dataset) else list(rows[0])
        yield Source(entry, hub["path"].rpartition("/")[2], columns, rows)


def _files(label: str, entry: str) -> list[Path]:
    names = [entry] if Path(entry).is_file() else sorted(glob.glob(entry, recursive=True))
    paths = [Path(name).resolve() for name in names if Path(name).is_file() and Path(name).suffix in OPENERS]
    if len({path.suffix for path in paths}) > 1:
        raise ValueError(f"{label}: matches {', '.join(path.name for path in paths)}; expected files of one format")
    return paths


def _open_lines(label: str, path: Path, limit: int | None) -> Source:
    starts, columns = array("q"), dict[str, None]()
    rows = JsonLines(path, starts)  # before the lines are counted, so that a change in between is noticed
    for number, start, line in islice(lines(path), limit):
        try:
            row = read_json(line)
        except ValueError as error:
            raise ValueError(f"{label}: line {number}: expected one JSON object in UTF-8: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{label}: line {number}: expected one JSON object, found {type(row).__name__}")
        starts.append(start)
        columns |= dict.fromkeys(row)
    _require_rows(label, len(starts))
    return Source(str(path), path.stem, list(columns), rows)


def _open_array(label: str, path: Path, limit: int | None) -> Source:
    """An array of objects, or TriviaQA's object that holds it as `Data`."""
    expected = "one array of JSON objects, or an object that holds it as Data (an object a line: .jsonl)"
    values = _read(label, lambda: read_json(path.read_bytes()), expected)
    rows = values.get("Data") if isinstance(values, dict) else values
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{label}: got {reprlib.repr(values)}; expected {expected}")
    _require_rows(label, len(rows))
    columns = dict.fromkeys(column for row in rows[:limit] for column in row)
    return Source(str(path), path.stem, list(columns), rows)


def _open_table(label: str, path: Path, limit: int | None) -> Source:
    """Named columns of texts, also of those that look like numbers."""
    rows = _read(label, lambda: _read_table(path), "a first line that names the columns, and a row a line in UTF-8")
    _require_rows(label, len(rows))
    return Source(str(path), path.stem, rows.column_names, rows)


def _read_table(path: Path) -> Dataset:
    layout = csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",", newlines_in_values=True)
    in_order = csv.ReadOptions(use_threads=False)  # only so an error names its row
    with csv.open_csv(path, in_order, layout) as reader:
        names = reader.schema.names
    if len(set(names)) < len(names):
        raise ValueError(f"two of the columns {', '.join(names)} have one name")
    texts = csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))
    return Dataset(csv.read_csv(path, in_order, layout, texts))


def _require_rows(label: str, count: int) -> None:
    if not count:
        raise ValueError(f"{label}: no rows; expected at least one question")


def _open_parquet(label: str, path: Path, limit: int | None) -> Source:
    """From its Arrow copy, which is made once for the contents of the file, whatever its name, size and date."""
    _require_rows(label, _read(label, lambda: read_metadata(path).num_rows, "a parquet file"))
    with path.open("rb") as file:
        contents = hashlib.file_digest(file, "sha256").hexdigest()
    rows = _load(label, "parquet", contents, data_files=glob.escape(str(path)), split="train")
    return Source(str(path), path.stem, rows.column_names, rows)


def _from_hub(label: str, hub: re.Match[str], split: Split, limit: int | None) -> Dataset | list[dict]:
    which = hub["split"] or HUB_SPLITS[split]
    rows = _load(label, hub["path"], hub["config"], split=which, streaming=limit is not None)
    return rows if limit is None else list(rows.take(limit))


def _load(label: str, *arguments: str | None, **options: object) -> Dataset:
    return _read(label, lambda: load_dataset(*arguments, **options), "a parquet file or a hub data set")


def _read(label: str, read: Callable[[], Read], expected: str) -> Read:
    try:
        return read()
    except (OSError, ValueError, DatasetsError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"{label}: cannot be read: {reason}; expected {expected}") from error


OPENERS = {
    ".parquet": _open_parquet,
    ".jsonl": _open_lines,
    ".json": _open_array,
    ".csv": _open_table,
    ".tsv": _open_table,
}
"""How a file is opened, by its suffix."""

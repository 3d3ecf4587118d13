"""Opening question files: parquet and jsonl on this machine, data sets of the hub. Nothing is held in memory."""

import glob
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import datasets
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.jsonl import JsonLines, lines, read_json

datasets.disable_progress_bars()  # also when standard error is read for its one line of error
datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said once, in the ValueError

SUFFIXES = (".parquet", ".jsonl")
HUB_SPLITS = {Split.TRAIN: "train", Split.VALIDATION: "validation", Split.TEST: "test"}
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

    Files are memory-mapped: parquet as Arrow, jsonl line by line, since its rows need not be of one type. Under a
    `limit` no more rows of a jsonl file are looked at, and a hub id is streamed, so only its first rows are fetched.
    The split of a hub id defaults to the one named like `split` (`val` is the hub's `validation`).
    Raises ValueError that starts with `key=entry` where there is nothing, or nothing readable.
    """
    label = f"{key}={entry}"
    paths = _files(label, entry)
    hub = _HUB_ID.fullmatch(entry)
    if paths:
        for path in paths:
            yield (_open_lines if path.suffix == ".jsonl" else _open_parquet)(f"{key}={path}", path, limit)
    elif hub is None or Path(entry).suffix in SUFFIXES or Path(entry).is_file():
        found = "neither a .parquet nor a .jsonl file" if Path(entry).is_file() else "no such .parquet or .jsonl file"
        raise ValueError(f"{label}: {found}; expected one, a pattern of them, or a hub id owner/name[:config][@split]")
    else:
        rows = _from_hub(label, hub, split, limit)
        columns = rows.column_names if isinstance(rows, Dataset) else list(rows[0] if rows else ())
        yield Source(entry, hub["path"].rpartition("/")[2], columns, rows)


def _files(label: str, entry: str) -> list[Path]:
    names = [entry] if Path(entry).is_file() else sorted(glob.glob(entry, recursive=True))
    paths = [Path(name).resolve() for name in names if Path(name).is_file() and Path(name).suffix in SUFFIXES]
    if len({path.suffix for path in paths}) > 1:
        raise ValueError(f"{label}: matches {', '.join(path.name for path in paths)}; expected files of one format")
    return paths


def _open_lines(label: str, path: Path, limit: int | None) -> Source:
    starts, columns = array("q"), dict[str, None]()
    for number, start, line in islice(lines(path), limit):
        try:
            row = read_json(line)
        except ValueError as error:
            raise ValueError(f"{label}: line {number}: expected one JSON object in UTF-8: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{label}: line {number}: expected one JSON object, found {type(row).__name__}")
        starts.append(start)
        columns |= dict.fromkeys(row)
    if not starts:
        raise ValueError(f"{label}: no rows; expected at least one question")
    return Source(str(path), path.stem, list(columns), JsonLines(path, starts))


def _open_parquet(label: str, path: Path, limit: int | None) -> Source:
    rows = _load(label, "parquet", data_files=glob.escape(str(path)), split="train")
    return Source(str(path), path.stem, rows.column_names, rows)


def _from_hub(label: str, hub: re.Match[str], split: Split, limit: int | None) -> Dataset | list[dict]:
    which = hub["split"] or HUB_SPLITS[split]
    rows = _load(label, hub["path"], hub["config"], split=which, streaming=limit is not None)
    return rows if limit is None else list(rows.take(limit))


def _load(label: str, *arguments: str | None, **options: object) -> Dataset:
    try:
        return load_dataset(*arguments, **options)
    except (OSError, ValueError, DatasetsError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"{label}: cannot be read: {reason}; expected parquet, jsonl or a hub data set") from error

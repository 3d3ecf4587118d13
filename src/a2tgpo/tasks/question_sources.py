"""Opening question files: parquet and jsonl on this machine, data sets of the hub. Nothing is held in memory."""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from a2tgpo.trajectory import Split

datasets.disable_progress_bars()  # also when standard error is read for its one line of error
datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said once, in the ValueError

READERS = {".parquet": "parquet", ".jsonl": "json"}
HUB_SPLITS = {Split.TRAIN: "train", Split.VALIDATION: "validation", Split.TEST: "test"}
_HUB_ID = re.compile(r"(?P<path>[\w.-]+/[\w.-]+?)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?")


@dataclass(frozen=True)
class Source:
    """One opened file or data set: what errors call it, a short name, its columns and its rows."""

    source: str
    name: str
    columns: Sequence[str]
    rows: Dataset | list[dict]


def open_sources(key: str, entry: str, split: Split, limit: int | None) -> Iterator[Source]:
    """What `entry` names: a file, a pattern of files, or a hub id `owner/name[:config][@split]`.

    Files are memory-mapped Arrow; a hub id under a `limit` is streamed, so only its first rows are fetched. The split
    of a hub id defaults to the one named like `split` (`val` is the hub's `validation`).
    Raises ValueError that starts with `key=entry` where there is nothing, or nothing readable.
    """
    label = f"{key}={entry}"
    paths = _files(label, entry)
    hub = _HUB_ID.fullmatch(entry)
    if paths:
        for path in paths:
            rows = _load(f"{key}={path}", READERS[path.suffix], data_files=str(path), split="train")
            yield Source(str(path), path.stem, rows.column_names, rows)
    elif hub is None or Path(entry).suffix in READERS or Path(entry).is_file():
        raise ValueError(
            f"{label}: no such .parquet or .jsonl file; expected one, a pattern of them, "
            "or a hub id owner/name[:config][@split]"
        )
    else:
        rows = _from_hub(label, hub, split, limit)
        columns = rows.column_names if isinstance(rows, Dataset) else list(rows[0] if rows else ())
        yield Source(entry, hub["path"].rpartition("/")[2], columns, rows)


def _files(label: str, entry: str) -> list[Path]:
    names = [entry] if Path(entry).is_file() else sorted(glob.glob(entry, recursive=True))
    paths = [Path(name).resolve() for name in names if Path(name).is_file() and Path(name).suffix in READERS]
    if len({path.suffix for path in paths}) > 1:
        raise ValueError(f"{label}: matches {', '.join(path.name for path in paths)}; expected files of one format")
    return paths


def _from_hub(label: str, hub: re.Match[str], split: Split, limit: int | None) -> Dataset | list[dict]:
    which = hub["split"] or HUB_SPLITS[split]
    rows = _load(label, hub["path"], hub["config"], split=which, streaming=limit is not None)
    return rows if limit is None else list(rows.take(limit))


def _load(label: str, *arguments: str | None, **options: object) -> Dataset:
    try:
        return load_dataset(*arguments, **options)
    except StopIteration as error:  # how the json reader meets a file without lines
        raise ValueError(f"{label}: no rows; expected at least one question") from error
    except (OSError, ValueError, DatasetsError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"{label}: cannot be read: {reason}; expected parquet, jsonl or a hub data set") from error

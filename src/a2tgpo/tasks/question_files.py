"""Questions from files: one's own, or those that other projects train on."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, permutations

from a2tgpo.rollouts.trajectory import Split, Task
from a2tgpo.system.settings import require
from a2tgpo.tasks.question_rows import ALIAS_SEPARATOR, Layout
from a2tgpo.tasks.question_sources import open_sources

_log = logging.getLogger(__name__)
JOINED_SHARE = 0.01
"""A larger share of answers that read like joined aliases is warned of: a few name a town and its state."""


@dataclass(frozen=True)
class QuestionFile(Sequence[Task]):
    """The first `total` questions of one file; a row is read and checked when it is asked for."""

    layout: Layout
    rows: Sequence[dict]
    total: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self.total:
            raise IndexError(index)
        return self.layout.task(self.rows[index], index)


@dataclass(frozen=True)
class Questions(Sequence[Task]):
    """The questions of several files, one after another."""

    files: tuple[QuestionFile, ...]
    _ends: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", list(accumulate(map(len, self.files))))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect_right(self._ends, index)
        return self.files[file][index - (self._ends[file - 1] if file else 0)]


def listed(key: str, entries: str | Sequence[str] | None) -> list[str]:
    """`entries` as a list; empty for None. Raises ValueError that starts with `key` where they are something else."""
    found = [entries] if isinstance(entries, str) else [] if entries is None else entries
    if not isinstance(found, Sequence) or not all(isinstance(entry, str) for entry in found):
        raise ValueError(f"{key}={entries}: expected a file, a pattern of files, a hub id, a list of these, or null")
    return list(found)


def open_questions(
    key: str,
    entries: str | Sequence[str] | None,
    split: Split,
    limit: int | None = None,
    question_marker: str | None = None,
) -> Questions:
    """The first `limit` questions of the files and hub ids `entries`; none where it is None.

    Columns are checked here, rows when they are read. Raises ValueError naming `key` or the file.
    """
    require("data.tasks.limit", limit)
    files: list[QuestionFile] = []
    left = limit
    for entry in listed(key, entries):
        for opened in open_sources(key, entry, split, left):
            total = len(opened.rows) if left is None else min(left, len(opened.rows))
            if total:
                layout = Layout.detect(opened.columns, opened.source, opened.name, question_marker)
                files.append(QuestionFile(layout, opened.rows, total))
            left = None if left is None else left - total
        if left == 0:
            break
    return Questions(tuple(files))


def read_all(questions: Questions) -> Questions:
    """`questions`, of which every row was read once, so that a bad one is refused before the first episode and not
    hours later. Warns of a file whose aliases seem to be joined by commas: such a text nobody would give."""
    for file in questions.files:
        joined = [task.answers[0] for task in file if _seem_joined(task.answers)]
        if len(joined) > JOINED_SHARE * len(file):
            _log.warning(
                "%s: %d of %d accepted answers read like several that are joined by commas, such as %r, and count as "
                "one text; expected a list, or texts joined by %s",
                *(file.layout.source, len(joined), len(file), joined[0], ALIAS_SEPARATOR),
            )
    return questions


def _seem_joined(answers: Sequence[str]) -> bool:
    """Whether a lone answer has commas, and all the words of one part stand in another."""
    parts = [frozenset(part.casefold().split()) for part in answers[0].split(", ")] if len(answers) == 1 else []
    return any(shorter and shorter <= longer for shorter, longer in permutations(parts, 2))


@dataclass(frozen=True)
class QuestionFiles:
    """A question set of files: for each split a file, a hub id or a list of them, or None for no questions.

    `limit` keeps the first questions of each split; a prompt is instruction up to its first `question_marker`.
    """

    train: str | Sequence[str] | None
    val: str | Sequence[str] | None
    test: str | Sequence[str] | None
    question_marker: str | None
    limit: int | None
    _opened: dict[Split, Questions] = field(default_factory=dict, init=False, repr=False, compare=False)

    def split(self, split: Split) -> Questions:
        """The questions of `split`. Its files are opened at the first call and every row is read once."""
        if split not in self._opened:
            entries = {Split.TRAIN: self.train, Split.VALIDATION: self.val, Split.TEST: self.test}[split]
            key = f"data.tasks.{split}"
            self._opened[split] = read_all(open_questions(key, entries, split, self.limit, self.question_marker))
        return self._opened[split]

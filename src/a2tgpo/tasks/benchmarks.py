"""Several question sets under names of their own: what a paper's table compares policies on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.settings import require_all
from a2tgpo.tasks.question_files import Questions, listed, open_questions, read_all

RESERVED = ("overall", "weighted", "macro")
"""What the table calls its averages."""


@dataclass(frozen=True)
class Benchmarks:
    """Named test sets in groups that are averaged; a set whose file is None is left out.

    `benchmarks[name]` is what a split of question files may be: a file, a pattern, a hub id or a list of them; a file
    name without a folder is looked up in `benchmarks_dir`. `groups[group]` names the sets of a group. `limit` keeps
    the first questions of each set.
    """

    benchmarks_dir: str
    benchmarks: Mapping[str, str | Sequence[str] | None]
    groups: Mapping[str, Sequence[str]]
    question_marker: str | None
    limit: int | None

    def __post_init__(self) -> None:
        require_all(vars(self), "data.tasks")
        for name in RESERVED:
            if name in self.groups or name in self.benchmarks:
                raise ValueError(
                    f"data.tasks: a group or set is called {name}, as an average is; expected another name"
                )
        grouped = [name for names in self.groups.values() for name in names]
        for name in self.benchmarks:
            if grouped.count(name) != 1:
                raise ValueError(f"data.tasks.groups={dict(self.groups)}: expected {name} in exactly one group")
        unknown = [name for name in grouped if name not in self.benchmarks]
        if unknown:
            raise ValueError(f"data.tasks.groups: {', '.join(unknown)} not in data.tasks.benchmarks; expected it there")
        if all(entry is None for entry in self.benchmarks.values()):
            raise ValueError("data.tasks.benchmarks: every set is null; expected at least one file")

    def sets(self) -> dict[str, Questions]:
        """The questions of each set, group by group. Raises ValueError naming the first set that has none."""
        sets = {}
        for name in (name for names in self.groups.values() for name in names):
            entry = self.benchmarks[name]
            if entry is None:
                continue
            key = f"data.tasks.benchmarks.{name}"
            located = [self._located(one) for one in listed(key, entry)]
            sets[name] = read_all(open_questions(key, located, Split.TEST, self.limit, self.question_marker))
            if not len(sets[name]):
                raise ValueError(f"{key}={entry}: no questions; expected at least one")
        return sets

    def _located(self, entry: str) -> str:
        return entry if "/" in entry else f"{self.benchmarks_dir}/{entry}"

    def split(self, split: Split) -> Questions:
        """All sets, one after another, as the test split; the other splits are empty."""
        sets = self.sets() if split is Split.TEST else {}
        return Questions(tuple(file for questions in sets.values() for file in questions.files))

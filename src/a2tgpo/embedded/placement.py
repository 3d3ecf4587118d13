"""Facts kept in collections: a search must name one, and which relation is kept where is to be found out."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from a2tgpo.embedded.world import RELATIONS
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.settings import require_all

NAMES = ("archive", "library", "ledger", "gazette", "almanac", "register")
"""Names of collections; the tokenizer has each as one piece, so that choosing one is one decision."""


@dataclass(frozen=True)
class Placement:
    """Which relation is kept in which of so many `collections`, in all worlds: dealt evenly by draw number `number`."""

    collections: int
    number: int

    def __post_init__(self) -> None:
        require_all(vars(self), "data.tasks.placement")

    @property
    def names(self) -> tuple[str, ...]:
        """The collections there are."""
        return NAMES[: self.collections]

    @cached_property
    def home(self) -> dict[str, str]:
        """The collection of each relation."""
        dealt = np.random.default_rng(self.number).permutation([i % self.collections for i in range(len(RELATIONS))])
        return {relation: NAMES[place] for relation, place in zip(RELATIONS, dealt, strict=True)}

    def addressed(self, task: Task) -> Task:
        """`task` with reference calls that name the right collection, such as "archive director of Varo"."""
        calls = tuple(f"{self.home[call.split()[0]]} {call}" for call in task.reference_calls)
        return replace(task, reference_calls=calls)

"""A set of questions."""

from collections.abc import Sequence
from typing import Protocol

from a2tgpo.rollouts.trajectory import Split, Task


class Tasks(Protocol):
    """A set of questions in three splits."""

    def split(self, split: Split) -> Sequence[Task]:
        """The tasks of one split in a fixed order; may make each when it is asked for."""
        ...

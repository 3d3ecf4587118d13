"""Answers that are numbers: compared by value, however they are written."""

from dataclasses import dataclass

from a2tgpo.environments.safe_arithmetic import read_number
from a2tgpo.rollouts.trajectory import Task


@dataclass(frozen=True)
class Numeric:
    """Exact match (which is success): the answer is one number and has an accepted value. F1: one of its words is such
    a number. 0 without an answer."""

    def __call__(self, answer: str | None, task: Task) -> dict[str, float]:
        """`success`, `em` and `f1` of `answer`, each in [0, 1]."""
        words = [read_number(word) for word in (answer or "").split()]
        hits = len({read_number(accepted) for accepted in task.answers}.intersection(words) - {None})
        em = float(hits == len(words) == 1)
        return {"success": em, "em": em, "f1": 2 * min(hits, 1) / (len(words) + 1)}

"""Answers that are names: compared after SQuAD-style normalisation."""

from dataclasses import dataclass

from a2tgpo.environments.matching import exact_match, f1
from a2tgpo.rollouts.trajectory import Task


@dataclass(frozen=True)
class AnswerMatch:
    """Exact match (which is success) and word-level F1 with the accepted answers; 0 without an answer."""

    def __call__(self, answer: str | None, task: Task) -> dict[str, float]:
        """`success`, `em` and `f1` of `answer`, each in [0, 1]."""
        if answer is None:
            return {"success": 0.0, "em": 0.0, "f1": 0.0}
        em = exact_match(answer, task.answers)
        return {"success": em, "em": em, "f1": f1(answer, task.answers)}

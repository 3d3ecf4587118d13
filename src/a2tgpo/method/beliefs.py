"""Which accepted answers a signal has scored, and how likely they are."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from a2tgpo.method import functional
from a2tgpo.method.turns import Observed
from a2tgpo.rollouts.trajectory import Task

MAX_ALIASES = 8
"""Accepted answers that are scored at most."""


def accepted_answers(task: Task, aliases: str) -> Sequence[str]:
    """The first accepted answer, or the first `MAX_ALIASES`. Raises ValueError where the task has none."""
    if not task.answers:
        raise ValueError(
            f"task {task.task_id}: it has no accepted answer, so its turns have no information gain; "
            "expected an answer, or model/signal=none"
        )
    return task.answers[: 1 if aliases == "first" else MAX_ALIASES]


def finite_log_belief(observed: Observed, aliases: str) -> Float[Tensor, "B S"]:
    """Log-belief (nats) of each scored state. Raises ValueError where one is not finite."""
    states = observed.state_mask
    log_belief = functional.log_belief(observed.answer_logprob, observed.alias_mask, aliases)
    if not log_belief[states].isfinite().all():
        why = "the task has none, or an empty one"
        if observed.answer_logprob[states].isnan().any():
            why = "the policy's log-probs are NaN, so its weights are"
        raise ValueError(f"no finite belief in an accepted answer: {why}; expected finite log-probs")
    return log_belief

"""A run that trains on nothing is told so at once, and ended after a while."""

from collections.abc import Callable, Mapping

from lightning import Callback, Trainer

from a2tgpo.callbacks.protocols import ObservedLearner
from a2tgpo.system.settings import require


def _no_credit(metrics: Mapping[str, float]) -> bool:
    return not any(value for name, value in metrics.items() if name.startswith("credit/advantage/turn_"))


REASONS: Mapping[str, tuple[Callable[[Mapping[str, float]], bool], str]] = {
    "no action was whole and well-formed": (
        lambda m: m["train/well_formed_actions"] == 0,
        "expected actions in the form of data.dialect, of at most data.module.max_action_tokens",
    ),
    "no tool call succeeded": (
        lambda m: 0 < m.get("train/calls", 0.0) == m.get("train/tool_failures"),
        "expected tools that work: rollouts/*.jsonl say why the calls failed",
    ),
    "no turn was given credit": (
        _no_credit,
        "expected rewards that differ within a prompt, or gains: tasks that the policy solves now and then",
    ),
    "every gradient was 0": (
        lambda m: m["update/grad_norm"] == 0,
        "expected a loss that depends on the trained weights",
    ),
}
"""Why an iteration teaches nothing, or the wrong thing: how its metrics tell, and what would be right."""


def nothing_learned(metrics: Mapping[str, float]) -> str:
    """The first of `REASONS` that holds for an iteration with these metrics; empty where there is none, or where
    every episode succeeded: then there is nothing left to learn, which is no fault."""
    if metrics["train/success"] == 1:
        return ""
    return next((reason for reason, (holds, _) in REASONS.items() if holds(metrics)), "")


class NothingLearned(Callback):
    """Ends the run once nothing was learned in `patience` iterations in a row.

    The progress names each such iteration. The metrics are the same on every rank, so all of them end.
    """

    def __init__(self, patience: int) -> None:
        require("callbacks.nothing_learned.patience", patience)
        self.patience, self.in_a_row = patience, 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Raises ValueError where this was the last iteration to be waited for."""
        reason = nothing_learned(pl_module.metrics)
        self.in_a_row = self.in_a_row + 1 if reason else 0
        if self.in_a_row == self.patience:
            raise ValueError(
                f"callbacks.nothing_learned.patience={self.patience}: nothing was learned in so many iterations; in "
                f"the last one {reason}; {REASONS[reason][1]}. checkpoints/last.ckpt holds the policy before it"
            )

"""A rollout set with the forks of its states: all that a credit may be given about it, and what it is judged by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.method.turns import Observed
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch, collate
from a2tgpo.scoring.score import observe

SHOWN, JUDGING = slice(0, None, 2), slice(1, None, 2)
"""Two disjoint halves of the forks: what a credit that asks for values is shown, and what all are judged by."""


@dataclass(frozen=True)
class Forked:
    """Axes: B trajectories, T turns, S = T+1 states, A accepted answers; C distinct states, K forks of each; N distinct
    turns, E axes of their gradients."""

    trajectories: Sequence[Trajectory]
    answer_logprob: Float[Tensor, "B S A"]
    """Mean log-prob (nats) of the tokens of each of the first accepted answers in each belief state."""
    alias_mask: Bool[Tensor, "B A"]
    state_mask: Bool[Tensor, "B S"]
    log_gain_noise: float
    """Rounding error (nats) of a difference of two of them."""
    fork_outcome: Float[Tensor, "C K"]
    """Outcome of each fork of each distinct state; NaN where it failed."""
    gradient: Float[Tensor, "N E"]
    """∇ log π of each distinct turn, sketched."""
    gradient_kept: float
    """Share of the second moment of the sketched gradients that the axes keep."""

    @cached_property
    def batch(self) -> RolloutBatch:
        """The trajectories, collated."""
        return collate(self.trajectories, 0)

    @cached_property
    def outcomes(self) -> Float[Tensor, "B S K"]:
        """Outcome of each fork of the state before each turn; from the end of an episode on, its own."""
        state, _ = distinct_states(self.batch)
        forks = self.fork_outcome[state.clamp(min=0)]
        going_on = torch.nn.functional.pad(state >= 0, (0, 1))
        own = self.batch.outcome[:, None, None]
        return torch.where(going_on[..., None], torch.nn.functional.pad(forks, (0, 0, 0, 1)), own)

    def value(self, half: slice) -> Float[Tensor, "B S"]:
        """V of the state before each turn, and the outcome at the end: the mean over `half` of the forks."""
        return self.outcomes[..., half].nanmean(-1)

    def value_error(self, half: slice) -> Float[Tensor, "B S"]:
        """Standard error of `value`."""
        return _standard_error(self.outcomes[..., half])

    def advantage(self, half: slice) -> Float[Tensor, "B T"]:
        """A* = V(after the turn and its result) − V(before it); 0 where there is no turn."""
        return self.value(half).diff(dim=1)

    def advantage_error(self, half: slice) -> Float[Tensor, "B T"]:
        """Standard error of `advantage`: forks that meet in a state share their noise, so it is that of the paired
        differences."""
        return _standard_error(self.outcomes[..., half].diff(dim=1))

    @cached_property
    def turn_gradient(self) -> Float[Tensor, "M E"]:
        """∇ log π of each of the M turns of all trajectories, in the order of `batch.turn_mask`."""
        turn, _ = distinct_turns(self.batch)
        return self.gradient[turn[self.batch.turn_mask]]

    def observed(self, rows: Sequence[int], answers: Callable[[Task], Sequence[str]]) -> Observed:
        """What a signal that has these `answers` scored sees of `rows`, with the values of the shown forks.

        Raises ValueError where an answer is none of those that were scored.
        """
        value = self.value(SHOWN)
        seen = [
            replace(trajectory, values=tuple(value[row, : len(trajectory.turns) + 1].tolist()))
            for row in rows
            for trajectory in [self.trajectories[row]]
        ]
        batch = collate(seen, 0)
        n_states = batch.turn_mask.shape[1] + 1
        column, alias_mask = self._columns([trajectory.task for trajectory in seen], answers)
        logprob = self.answer_logprob[rows, :n_states].gather(2, column[:, None].expand(-1, n_states, -1))
        states = self.state_mask[rows, :n_states] & alias_mask.any(1, keepdim=True)
        observed = observe(seen, batch, logprob, alias_mask, states)
        return replace(observed, log_gain_noise=self.log_gain_noise)

    def _columns(
        self, tasks: Sequence[Task], answers: Callable[[Task], Sequence[str]]
    ) -> tuple[Int[Tensor, "b a"], Bool[Tensor, "b a"]]:
        """In which columns of `answer_logprob` the answers of each task stand, and which of them there are."""
        asked = [list(answers(task)) for task in tasks]
        for task, own in zip(tasks, asked, strict=True):
            if unknown := set(own) - set(task.answers[: self.answer_logprob.shape[2]]):
                raise ValueError(
                    f"model.signal: task {task.task_id}: the belief in {unknown.pop()!r} is not among the forks; "
                    "expected a signal that asks for accepted answers"
                )
        width = max(map(len, asked))
        columns = [[task.answers.index(a) for a in own] for task, own in zip(tasks, asked, strict=True)]
        column = torch.tensor([own + [0] * (width - len(own)) for own in columns], dtype=torch.long)
        return column, torch.arange(width) < torch.tensor([len(own) for own in asked])[:, None]


def _standard_error(samples: Float[Tensor, "*N K"]) -> Float[Tensor, "*N"]:
    """Of the mean of those that are known."""
    n = samples.isfinite().sum(-1)
    squares = (samples - samples.nanmean(-1, keepdim=True)).square().nansum(-1)
    return (squares / (n - 1) / n).sqrt()


def distinct_states(batch: RolloutBatch) -> tuple[Int[Tensor, "B T"], list[tuple[int, int]]]:
    """For each turn the number of the state it was taken in, −1 where there is no turn; and the (row, turn) at which
    each state first stands. States of a prompt are the same where they are token for token."""
    return _distinct(batch.context_ids[:, :-1], batch.turn_mask)


def distinct_turns(batch: RolloutBatch) -> tuple[Int[Tensor, "B T"], list[tuple[int, int]]]:
    """The same for turns: the same action, and result, in the same state."""
    return _distinct(batch.context_ids[:, 1:], batch.turn_mask)


def _distinct(ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> tuple[Int[Tensor, "B T"], list[tuple[int, int]]]:
    number: dict[int, int] = {}
    first: list[tuple[int, int]] = []
    numbers = torch.full_like(ids, -1)
    for row, turn in mask.nonzero().tolist():
        name = int(ids[row, turn])
        if name not in number:
            number[name] = len(first)
            first.append((row, turn))
        numbers[row, turn] = number[name]
    return numbers, first

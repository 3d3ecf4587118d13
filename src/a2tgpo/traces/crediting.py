"""The credit of traces: as it was recorded, or assigned anew."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from a2tgpo.method.method import Method
from a2tgpo.method.protocols import ForkedCredit, ReferenceSignal, WithoutTurns
from a2tgpo.method.signals.none import NoSignal
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.rollouts.transcripts import record
from a2tgpo.scoring.batch import RolloutBatch, collate
from a2tgpo.scoring.beliefs import encode_answer
from a2tgpo.scoring.noise import log_gain_noise
from a2tgpo.scoring.score import observe, score
from a2tgpo.system.errors import SettingError
from a2tgpo.traces.encoding import encoded, has_tokens_of, spelt, trajectory
from a2tgpo.traces.facts import CREDIT
from a2tgpo.traces.trace import Trace
from a2tgpo.training.record import credit_record

NEEDED = set(CREDIT) - {"turn_credit"}
"""Of the credit of a turn; older files have no `turn_credit`."""

RECORDED = 2
"""Version of the lines of a rollout file that traces hold all of; what is newer is lost."""


def has_credit(traces: Sequence[Trace]) -> bool:
    """Was the credit of all turns recorded? Raises ValueError where that of some was."""
    told = [turn.facts.keys() >= NEEDED for trace in traces for turn in trace.turns]
    if any(told) and not all(told):
        raise ValueError(
            f"{sum(told)} of {len(told)} turns have recorded credit; expected all or none, or a model (--model)"
        )
    return all(told)


def has_beliefs(traces: Sequence[Trace]) -> bool:
    """Was the belief in each state of all trajectories recorded? That of a run without a signal is 0."""
    return all(map(_has_beliefs, traces))


def _has_beliefs(trace: Trace) -> bool:
    belief, n_states = trace.facts.get("belief", ()), 1 + sum(bool(turn.results) for turn in trace.turns)
    return len(belief) == n_states and all(float(value) > 0 for value in belief)


def recorded_rows(traces: Sequence[Trace]) -> Iterator[dict[str, Any]]:
    """Lines of a rollout file with the credit that was recorded."""
    for trace in traces:
        names = [name for name in CREDIT if all(name in turn.facts for turn in trace.turns)]
        credit = {name: [_value(turn.facts[name]) for turn in trace.turns] for name in names}
        version = {"version": RECORDED} if "turn_credit" in names else {}
        belief = {"belief": list(map(float, trace.facts.get("belief", ())))}
        yield record(trajectory(trace)) | version | credit | belief


def _value(value: bool | float | str) -> bool | float:
    return value if isinstance(value, bool) else float(value)


@dataclass(frozen=True)
class Crediting:
    """Credit assigned by `method`, with the beliefs of `policy` in answers inside `answer_wrapper`. Without a policy
    beliefs are those that were recorded; without these no turn has a gain, but of a signal that asks for none.

    Raises SettingError for a method that asks for what traces do not have.
    """

    method: Method
    policy: Policy | None = None
    answer_wrapper: tuple[str, str] = ("", "")
    token_budget: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.method.credit, ForkedCredit):
            raise SettingError("model/credit: it asks for forks, and traces have no environment to play them in")
        if isinstance(self.method.signal, ReferenceSignal):
            raise SettingError("model/signal: its beliefs are a reference's; expected a signal of the policy's own")
        if self.policy is None and isinstance(self.method.signal, WithoutTurns):
            raise SettingError("model/signal: it asks for beliefs without a turn; expected a model that has them")

    def gives_gains(self, traces: Sequence[Trace]) -> bool:
        """Can the method's signal speak of these?"""
        asks = any(self.method.signal.answers(trajectory(trace).task) for trace in traces)
        return self.policy is not None or not asks or has_beliefs(traces)

    def rows(self, traces: Sequence[Trace]) -> Iterator[dict[str, Any]]:
        """Lines of a rollout file with that credit, in order of iteration. Raises what `assign` raises."""
        for known, batch in self.assign(traces):
            for row, own in enumerate(known):
                belief = {} if self.policy or batch.credit.belief[row].any() else {"belief": []}
                yield credit_record(own, batch, row) | belief

    def assign(self, traces: Sequence[Trace]) -> Iterator[tuple[list[Trajectory], RolloutBatch]]:
        """The trajectories of each iteration, as a rollout file records them, and with their credit.

        Raises ValueError where one is too long for the policy, or cannot be said in its chat template.
        """
        memory: dict[str, Tensor] = {}
        speaks = self.gives_gains(traces)
        for number in sorted({trace.facts["iteration"] for trace in traces}):
            here = [trace for trace in traces if trace.facts["iteration"] == number]
            if self.policy is None:
                yield self._by_record(here, memory, speaks)
            else:
                yield self._by_policy(here, memory)

    def _by_record(
        self, traces: Sequence[Trace], memory: dict[str, Tensor], speaks: bool
    ) -> tuple[list[Trajectory], RolloutBatch]:
        known = list(map(trajectory, traces))
        together = _grouped(traces, list(map(spelt, known)))
        batch = collate(together, 0)
        observed = observe(together, batch, *_beliefs(traces, batch.context_ids.shape[1]))
        method = self.method if speaks else replace(self.method, signal=NoSignal())
        return known, replace(batch, credit=method.assign(observed, memory))

    def _by_policy(self, traces: Sequence[Trace], memory: dict[str, Tensor]) -> tuple[list[Trajectory], RolloutBatch]:
        made = [self._in_tokens(trace) for trace in traces]
        scored = score(
            self.policy,
            _grouped(traces, made),
            self.method.signal.answers,
            self.answer_wrapper,
            self.token_budget,
            without_turns=isinstance(self.method.signal, WithoutTurns),
        )
        noise = log_gain_noise(self.policy, scored, self.token_budget) or 0.0
        credit = self.method.assign(replace(scored.observed, log_gain_noise=noise), memory)
        return made, replace(scored.batch, credit=credit)

    def _in_tokens(self, trace: Trace) -> Trajectory:
        known = trajectory(trace)
        made = known if has_tokens_of(self.policy, known) else encoded(self.policy, trace, known)
        answers = [
            encode_answer(self.policy.tokenizer, answer, self.answer_wrapper).n_input_tokens
            for answer in self.method.signal.answers(made.task)
        ]
        needed = len(made.token_ids) + max(answers, default=0)
        if needed > self.policy.max_length:
            raise ValueError(
                f"trajectory {trace.name}: with its answer it has {needed} tokens; expected at most the "
                f"{self.policy.max_length} of the model"
            )
        return made


def _beliefs(
    traces: Sequence[Trace], n_states: int
) -> tuple[Float[Tensor, "B S 1"], Bool[Tensor, "B 1"], Bool[Tensor, "B S"]]:
    """Log-beliefs as they were recorded, as those in a single answer; and which there are."""
    logprob = torch.zeros(len(traces), n_states, 1)
    mask = torch.zeros(len(traces), n_states, dtype=torch.bool)
    for row, trace in enumerate(traces):
        belief = torch.tensor([float(value) for value in trace.facts.get("belief", ())])[:n_states]
        logprob[row, : len(belief), 0], mask[row, : len(belief)] = belief.log(), True
    return logprob, torch.ones(len(traces), 1, dtype=torch.bool), mask


def _grouped(traces: Sequence[Trace], trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """`trajectories` with groups that are distinct over ranks, which count each their own."""
    numbers: dict[tuple[int, int], int] = {}
    return [
        replace(one, group=numbers.setdefault((trace.facts["rank"], one.group), len(numbers)))
        for trace, one in zip(traces, trajectories, strict=True)
    ]

"""What the method sees of a rollout set, and what it gives to its turns.

Axes: B trajectories, T turns, A scored answers; T+1 belief states, state 0 is the query alone. A mask is True where an
entry counts; under a False stands 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.rollouts.trajectory import Trajectory


@dataclass(frozen=True)
class Observed:
    """Trajectories as a signal sees them: whole groups, all of this rank."""

    trajectories: Sequence[Trajectory]
    turn_mask: Bool[Tensor, "B T"]
    """The turn exists."""
    process_mask: Bool[Tensor, "B T"]
    """A tool result followed the turn."""
    answer_logprob: Float[Tensor, "B T+1 A"]
    """Mean log-prob (nats) of each scored answer's tokens in each belief state."""
    alias_mask: Bool[Tensor, "B A"]
    state_mask: Bool[Tensor, "B T+1"]
    """The answers were scored in this state."""
    outcome: Float[Tensor, " B"]
    group_ids: Int[Tensor, " B"]
    """Equal for the trajectories of a prompt."""
    state_ids: Int[Tensor, "B T"]
    """Equal where turns were taken in the same anchor state."""
    node_ids: Int[Tensor, "B T"]
    """Equal where trajectories of a prompt are the same up to a turn and its result, token for token; negative where
    there is no turn."""
    action_ids: Int[Tensor, "B T"]
    """Equal where turns of a prompt did the same: equal tool calls, or equal answers."""
    n_new_pieces: Int[Tensor, "B T"]
    """Texts and passages that the turn's tool result brought and no earlier one of the trajectory had."""
    answer_logprob_without: Float[Tensor, "B T A"] | None = None
    """The same behind all results but that of one process turn, which is taken out; None where nobody asked."""
    log_gain_noise: float = 0.0
    """Rounding error (nats, root mean square) of a difference of two `answer_logprob`s."""
    value: Float[Tensor, "B T+1"] | None = None
    """Mean outcome of the forks of the state before each turn; behind the last turn the outcome. None where no forks
    were played."""


@dataclass(frozen=True)
class Gains:
    """What a signal says of each turn."""

    gain: Float[Tensor, "B T"]
    gain_mask: Bool[Tensor, "B T"]
    """The turn has a gain."""
    belief: Float[Tensor, "B T+1"]
    """Probability of the accepted answer in each state; 0 for signals that have none."""
    noise: Float[Tensor, "B T"] | None = None
    """Rounding error of each gain, in its unit; None where gains are exact."""


@dataclass(frozen=True)
class CreditInputs:
    """All that credit is made of, over all ranks."""

    turn_mask: Bool[Tensor, "B T"]
    gain: Float[Tensor, "B T"]
    gain_mask: Bool[Tensor, "B T"]
    gain_noise: Float[Tensor, "B T"]
    """Rounding error of each gain, in its unit."""
    belief: Float[Tensor, "B T+1"]
    outcome: Float[Tensor, " B"]
    group_ids: Int[Tensor, " B"]
    state_ids: Int[Tensor, "B T"]
    node_ids: Int[Tensor, "B T"]
    action_ids: Int[Tensor, "B T"]
    n_new_pieces: Int[Tensor, "B T"]
    value: Float[Tensor, "B T+1"] | None = None
    """Mean outcome of the forks of the state before each turn; behind the last turn the outcome. None where no forks
    were played."""
    memory: dict[str, Tensor] | None = None
    """What the credit wrote here at earlier rollout sets, and may write anew; None where it is to keep nothing."""


@dataclass(frozen=True)
class CreditOutputs:
    """The credit of every turn."""

    normalized_gain: Float[Tensor, "B T"]
    """îg; 0 where a turn has no gain."""
    advantage: Float[Tensor, "B T"]
    """Â; 0 where there is no turn."""
    turn_credit: Float[Tensor, "B T"]
    """What Â has beside the outcome's own advantage, in the paper α·D/√n."""


@dataclass(frozen=True)
class TurnCredit:
    """What the method assigned to every turn: gain (eq. 3), advantage (eq. 9), clip bounds (eq. 11)."""

    gain: Float[Tensor, "B T"]
    gain_mask: Bool[Tensor, "B T"]
    belief: Float[Tensor, "B T+1"]
    normalized_gain: Float[Tensor, "B T"]
    advantage: Float[Tensor, "B T"]
    turn_credit: Float[Tensor, "B T"]
    clip_low: Float[Tensor, "B T"]
    """The ratio is kept in [1 − clip_low, 1 + clip_high]; inf opens a side."""
    clip_high: Float[Tensor, "B T"]

    @classmethod
    def zeros(cls, n_trajectories: int, n_turns: int) -> "TurnCredit":
        """No credit yet."""
        per_turn = torch.zeros(n_trajectories, n_turns)
        shaped = {field.name: per_turn for field in fields(cls)}
        return cls(**shaped | {"gain_mask": per_turn.bool(), "belief": torch.zeros(n_trajectories, n_turns + 1)})

    def to(self, device: torch.device) -> "TurnCredit":
        """A copy on `device`."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def rows(self, index: Int[Tensor, " N"]) -> "TurnCredit":
        """The credit of these trajectories."""
        return replace(self, **{field.name: getattr(self, field.name)[index] for field in fields(self)})

"""What a strategy is: one Protocol each. Axes: B trajectories, T turns, L tokens; C ≥ T placed rewards."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.method.turns import CreditInputs, CreditOutputs, Gains, Observed
from a2tgpo.rollouts.trajectory import Task


@runtime_checkable
class Signal(Protocol):
    """What each turn is worth by itself."""

    def answers(self, task: Task) -> Sequence[str]:
        """The accepted answers of `task` that must be scored in every belief state; possibly none."""
        ...

    def __call__(self, observed: Observed) -> Gains:
        """Gain of each turn, which turns have one, and the beliefs it was made of."""
        ...


@runtime_checkable
class ReferenceSignal(Signal, Protocol):
    """A signal made of the beliefs of the frozen reference; the policy's own are then not scored."""

    by_reference: Literal[True]


@runtime_checkable
class WithoutTurns(Signal, Protocol):
    """A signal that also asks for the beliefs at the end of each trajectory without each of its process turns."""

    without_turns: Literal[True]


@runtime_checkable
class Normalizer(Protocol):
    """Makes rewards comparable. Serves as `model/normalizer`, and on [B, 1] as `model/outcome`."""

    compares_trajectories: bool
    """Does it compare the trajectories of a prompt, so that a group of one would be all 0?"""

    def __call__(
        self,
        reward: Float[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
        group_ids: Int[Tensor, " B"],
        noise: Float[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Normalised reward, 0 where ~mask; `noise` is each reward's rounding error, None where it has none."""
        ...


@runtime_checkable
class Accumulator(Protocol):
    """Sums what is still to come."""

    def __call__(self, reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Accumulated reward, 0 where ~mask."""
        ...


@runtime_checkable
class Combiner(Protocol):
    """Brings turn rewards and outcome together: before the normaliser (`place`) or after the accumulator."""

    def place(
        self,
        gain: Float[Tensor, "B T"],
        gain_mask: Bool[Tensor, "B T"],
        outcome: Float[Tensor, " B"],
        turn_mask: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B C"], Bool[Tensor, "B C"]]:
        """The rewards that are pooled, and their mask; the first T columns stay the turns."""
        ...

    def combine(
        self,
        accumulated: Float[Tensor, "B C"],
        mask: Bool[Tensor, "B C"],
        outcome_hat: Float[Tensor, " B"],
        turn_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """Advantage of every turn; `mask` is that of the rewards that were placed."""
        ...


@runtime_checkable
class Credit(Protocol):
    """From gains and outcomes to advantages."""

    compares_trajectories: bool
    """Does it compare the trajectories of a prompt, so that a group of one would teach nothing?"""

    def __call__(self, inputs: CreditInputs) -> CreditOutputs:
        """Normalised gain and advantage of every turn."""
        ...


@runtime_checkable
class ForkedCredit(Credit, Protocol):
    """A credit made of the values of states, which only forks tell."""

    asks_forks: Literal[True]


@runtime_checkable
class Clipper(Protocol):
    """How far a turn's ratio may move."""

    def __call__(self, normalized_gain: Float[Tensor, "B T"]) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """(low, high): the ratio is kept in [1 − low, 1 + high]; inf opens a side."""
        ...


@runtime_checkable
class Ratio(Protocol):
    """At which level the new policy is compared with the old one."""

    def __call__(
        self,
        logprobs: Float[Tensor, "B L"],
        old_logprobs: Float[Tensor, "B L"],
        turn_ids: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Log-ratio of every action token, with its plain gradient."""
        ...


@runtime_checkable
class Surrogate(Protocol):
    """The loss of a token."""

    def __call__(
        self,
        log_ratio: Float[Tensor, "B L"],
        logprobs: Float[Tensor, "B L"],
        advantage: Float[Tensor, "B L"],
        low: Float[Tensor, "B L"],
        high: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Loss per token."""
        ...


@runtime_checkable
class Aggregation(Protocol):
    """Share of each token in the loss of its global mini-batch: loss = Σ weight · loss per token."""

    def __call__(self, turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Weight per token, 0 where no action token is."""
        ...


@runtime_checkable
class Correction(Protocol):
    """What a token counts that was not sampled by the trainer's own policy: a factor of its share in the loss."""

    def __call__(
        self,
        old_logprobs: Float[Tensor, "B L"],
        rollout_logprobs: Float[Tensor, "B L"],
        turn_ids: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Factor per action token, 0 elsewhere."""
        ...

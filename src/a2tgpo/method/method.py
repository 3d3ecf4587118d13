"""The method as one object, and the turns of a response, for trainers that are not ours."""

from dataclasses import dataclass
from itertools import groupby

from jaxtyping import Bool, Int
from torch import Tensor

from a2tgpo.method.accumulators.variance_rescaled import VarianceRescaled
from a2tgpo.method.aggregations.seq_mean_token_mean import SeqMeanTokenMean
from a2tgpo.method.clippers.adaptive_turn import AdaptiveTurn
from a2tgpo.method.combiners.additive import Additive
from a2tgpo.method.credits.staged import StagedCredit
from a2tgpo.method.normalizers.prompt_group import PromptGroup
from a2tgpo.method.normalizers.turn_group import TurnGroup
from a2tgpo.method.protocols import Aggregation, Clipper, Credit, Ratio, Signal, Surrogate
from a2tgpo.method.ratios.turn import TurnRatio
from a2tgpo.method.signals.information_gain import InformationGain
from a2tgpo.method.surrogates.ppo import PPO
from a2tgpo.rollouts.trajectory import Turn


@dataclass(frozen=True)
class Method:
    """What a rollout teaches, and how far a step may go."""

    signal: Signal
    credit: Credit
    clipper: Clipper
    ratio: Ratio
    surrogate: Surrogate
    aggregation: Aggregation


PAPER = Method(
    signal=InformationGain(),
    credit=StagedCredit(PromptGroup(), TurnGroup(), VarianceRescaled(), Additive()),
    clipper=AdaptiveTurn(),
    ratio=TurnRatio(),
    surrogate=PPO(),
    aggregation=SeqMeanTokenMean(),
)
"""A²TGPO with the paper's values (eqs. 2–12); `dataclasses.replace` changes a part."""


def turn_ids(sampled: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """A turn is a run of sampled tokens: its index from 0 at each of them, −1 at every other token."""
    starts = sampled.clone()
    starts[:, 1:] &= ~sampled[:, :-1]
    return (starts.cumsum(1) - 1).masked_fill(~sampled, -1)


def split_turns(ids: list[int], sampled: list[bool]) -> tuple[tuple[int, ...], tuple[Turn, ...]]:
    """The tokens before the first turn, then each turn with the tool result that follows it."""
    pairs = zip(ids, sampled, strict=True)
    runs = [(own, tuple(token for token, _ in run)) for own, run in groupby(pairs, key=lambda pair: pair[1])]
    before = runs.pop(0)[1] if runs and not runs[0][0] else ()
    results = [run for own, run in runs if not own]
    actions = [run for own, run in runs if own]
    results += [()] * (len(actions) - len(results))
    return before, tuple(Turn(a, (0.0,) * len(a), r) for a, r in zip(actions, results, strict=True))

"""The turns of a response, for trainers that know tokens and masks only."""

from itertools import groupby

from jaxtyping import Bool, Int
from torch import Tensor

from a2tgpo.rollouts.trajectory import Turn


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

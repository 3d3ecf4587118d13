"""The paper's credit (eqs. 3, 6–9, 11) of a rollout set: ours over tensors, and a loop over turns."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, pstdev

import torch

from a2tgpo.method.method import PAPER
from a2tgpo.method.turns import Observed, TurnCredit
from benchmarks.harness import Benchmark

TOLERANCE = 1e-6
ALPHA, GAMMA, BETA = PAPER.credit.combiner.alpha, PAPER.credit.accumulator.gamma, PAPER.clipper.beta


@dataclass(frozen=True)
class Work:
    """Size of the rollout set; every other trajectory has a turn less."""

    prompts: int
    group_size: int
    turns: int


SIZES = {"cpu": (Work(128, 8, 7),), "cuda": (Work(128, 8, 7),)}

Row = dict[str, list[float]]


def rollout_set(work: Work) -> Observed:
    """Beliefs and outcomes by chance, in float64; the last turn of a trajectory is its answer, which has no gain."""
    rows, random = work.prompts * work.group_size, torch.Generator().manual_seed(0)
    turns = torch.arange(work.turns)
    n_turns = work.turns - torch.arange(rows) % 2
    place = torch.arange(rows * work.turns).view(rows, work.turns)
    return Observed(
        trajectories=(),
        turn_mask=turns < n_turns[:, None],
        process_mask=turns < n_turns[:, None] - 1,
        answer_logprob=torch.rand(rows, work.turns + 1, 1, generator=random, dtype=torch.float64).log(),
        alias_mask=torch.ones(rows, 1, dtype=torch.bool),
        state_mask=torch.arange(work.turns + 1) < n_turns[:, None],
        outcome=torch.randint(2, (rows,), generator=random).double(),
        group_ids=torch.arange(rows) // work.group_size,
        state_ids=place,
        node_ids=place,
        action_ids=place,
        n_new_pieces=torch.zeros(rows, work.turns, dtype=torch.long),
    )


def standardised(values: Sequence[float]) -> list[float]:
    """In standard deviations of the population; zeros where there is no spread."""
    mean, deviation = fmean(values), pstdev(values)
    return [(value - mean) / deviation if deviation > TOLERANCE else 0.0 for value in values]


def by_loop(beliefs: list[list[float]], outcomes: list[float], groups: list[int]) -> list[Row]:
    """îg, Â and the clip bounds of every turn, trajectory by trajectory; `beliefs` are those of its states."""
    gains = [[after - before for before, after in itertools.pairwise(b)] for b in beliefs]
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    normalized = [[0.0] * len(own) for own in gains]
    outcome_hat = [0.0] * len(gains)
    for rows in members.values():
        for row, value in zip(rows, standardised([outcomes[row] for row in rows]), strict=True):
            outcome_hat[row] = value
        for turn in range(max(len(gains[row]) for row in rows)):
            have = [row for row in rows if turn < len(gains[row])]
            for row, value in zip(have, standardised([gains[row][turn] for row in have]), strict=True):
                normalized[row][turn] = value
    return [_credit_of(own, outcome_hat[row]) for row, own in enumerate(normalized)]


def _credit_of(normalized: list[float], outcome_hat: float) -> Row:
    row: Row = {"normalized_gain": [*normalized, 0.0], "advantage": [], "clip_low": [], "clip_high": []}
    for turn in range(len(normalized)):
        to_come = normalized[turn:]
        discounted = sum(GAMMA**k * value for k, value in enumerate(to_come))
        row["advantage"].append(ALPHA * discounted / math.sqrt(len(to_come)) + outcome_hat)
    row["advantage"].append(outcome_hat)
    for value in row["normalized_gain"]:
        scale = 1 + BETA * (2 / (1 + math.exp(-value)) - 1)
        row["clip_low"].append(scale * PAPER.clipper.eps_low)
        row["clip_high"].append(scale * PAPER.clipper.eps_high)
    return row


def apart(credit: TurnCredit, rows: Sequence[Row]) -> float:
    """The largest difference of any number of any turn."""
    return max(
        float((getattr(credit, name)[i, : len(values)] - torch.tensor(values, dtype=torch.float64)).abs().max())
        for i, row in enumerate(rows)
        for name, values in row.items()
    )


def measure(bench: Benchmark, works: Sequence[Work]) -> None:
    """Time both on each of `works`."""
    for work in works:
        observed = rollout_set(work)
        beliefs = observed.answer_logprob[..., 0].exp()
        lists = [row[mask].tolist() for row, mask in zip(beliefs, observed.state_mask, strict=True)]
        loop = partial(by_loop, lists, observed.outcome.tolist(), observed.group_ids.tolist())
        bench.agree("îg, Â and clip bounds", apart(PAPER.assign(observed), loop()), TOLERANCE)
        single = replace(observed, answer_logprob=observed.answer_logprob.float(), outcome=observed.outcome.float())
        title = f"{len(beliefs)} trajectories of {work.turns} turns, groups of {work.group_size}"
        ratios = bench.compare(title, {"over tensors (ours)": partial(PAPER.assign, single), "loop over turns": loop})
        bench.goal("ours over the loop", 1 / ratios["loop over turns"], at_most=1.0)

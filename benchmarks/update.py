"""Forward and backward over a rollout set whose rows are of different length: how they are cut into micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from a2tgpo.method.functional import count_tokens
from a2tgpo.policies.policy import Policy
from a2tgpo.scoring.batch import RolloutBatch, collate, micro_batches
from a2tgpo.scoring.beliefs import AnswerQuery, plan_beliefs
from a2tgpo.scoring.score import read, token_stats
from benchmarks import embedded, models
from benchmarks.embedded import Meter
from benchmarks.episodes import Episodes, random_trajectories
from benchmarks.harness import Benchmark

TOLERANCE = {"cpu": 1e-5, "cuda": 0.05}
"""Of a gradient, relative to its largest entry."""


@dataclass(frozen=True)
class Work:
    """Rows of drawn lengths that are cut into micro-batches of `budget` positions; the first rollout set of
    `experiment=a2tgpo` where there are no `episodes`."""

    model: str
    episodes: Episodes | None
    budget: int
    steps: int = 4
    """Optimizer steps over the set."""


SPREAD = Episodes(groups=16, group_size=4, turns=5, prompt=40, action=160, result=60)
LARGE = replace(SPREAD, group_size=1, action=1600, result=600)
SIZES = {
    "cpu": (Work("0.66 M", None, 4096), Work("0.66 M", SPREAD, 4096)),
    "cuda": (Work("30 M", LARGE, 32768), Work("135 M", LARGE, 32768)),
}

# ---- The usual ways --------------------------------------------------------------------------------------------------


def by_budget(lengths: Sequence[int], budget: int, steps: Sequence[Sequence[int]]) -> list[list[int]]:
    """The fewest micro-batches of sorted rows: each is filled up to the budget."""
    cut: list[list[int]] = []
    for rows in steps:
        cut.append([])
        for row in sorted(rows, key=lambda i: -lengths[i]):
            if cut[-1] and (len(cut[-1]) + 1) * lengths[cut[-1][0]] > budget:
                cut.append([])
            cut[-1].append(row)
    return cut


def as_they_come(lengths: Sequence[int], budget: int, steps: Sequence[Sequence[int]]) -> list[list[int]]:
    """So many rows in each, in their order, that the longest of all fit."""
    size = max(1, budget // max(lengths))
    return [list(rows[i : i + size]) for rows in steps for i in range(0, len(rows), size)]


# ---- Measured --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RolloutSet:
    """What is scored and trained on, with the rows of each optimizer step."""

    kind: str
    policy: Policy
    batch: RolloutBatch
    steps: Sequence[Sequence[int]]
    queries: Sequence[AnswerQuery]

    @classmethod
    def of(cls, bench: Benchmark, work: Work) -> "RolloutSet":
        """The set that `work` names."""
        if work.episodes is None:
            data, learner = embedded.load()
            policy, trajectories = learner.policy, embedded.first_rollout_set(data, learner)
            steps = data.mini_batches([t.group for t in trajectories])
            answers, wrapper, kind = learner.method.signal.answers, learner.answer_wrapper, "first set of make train"
        else:
            policy = models.load(work.model, bench)
            trajectories = random_trajectories(policy, work.episodes)
            size = -(-len(trajectories) // work.steps)
            steps = [range(i, min(i + size, len(trajectories))) for i in range(0, len(trajectories), size)]
            answers, wrapper, kind = (lambda task: task.answers), ("= ", ""), "log-normal lengths"
        batch = collate(trajectories, policy.pad_id)
        plan = plan_beliefs(trajectories, batch.context_ids, policy.tokenizer, wrapper, answers)
        return cls(f"{work.model}, {kind}", policy, batch, steps, plan.queries)


OURS = "little padding (ours)"


def measure(bench: Benchmark, works: Sequence[Work]) -> None:
    """Time all ways on each of `works`, and count what is needed."""
    for work in works:
        made = RolloutSet.of(bench, work)
        _time_cuts(bench, made, work.budget)
        _count_scoring(bench, made, work.budget)


def _time_cuts(bench: Benchmark, made: RolloutSet, budget: int) -> None:
    lengths, meter = made.batch.lengths.tolist(), Meter(made.policy)
    cuts = {
        OURS: micro_batches(lengths, budget, made.steps),
        "filled to the budget": by_budget(lengths, budget, made.steps),
        "rows as they come": as_they_come(lengths, budget, made.steps),
    }
    ways = {name: partial(_backward, bench, made, parts) for name, parts in cuts.items()}
    gradients, facts = {}, {}
    for name, parts in cuts.items():
        meter.take()
        gradients[name], positions = ways[name](), meter.take()["forwarded"]
        share = positions / sum(lengths)
        facts[name] = {"positions": positions, "of the tokens": share, "micro-batches": len(parts)}
    for name in list(cuts)[1:]:
        apart = float((gradients[name] - gradients[OURS]).abs().max() / gradients[OURS].abs().max())
        bench.agree(f"{made.kind}: gradient, {name}", apart, TOLERANCE[bench.device.type])
    title = f"{made.kind}: update of {len(lengths)} rows, {sum(lengths)} tokens, {len(made.steps)} steps"
    ratios = bench.compare(title, ways, facts)
    bench.goal(f"{made.kind}: positions of the update over tokens", facts[OURS]["of the tokens"], at_most=1.05)
    bench.goal(f"{made.kind}: update over the fastest other cut", 1 / min(list(ratios.values())[1:]), at_most=1.0)


def _backward(bench: Benchmark, made: RolloutSet, parts: Sequence[Sequence[int]]) -> Tensor:
    """Gradient of the mean log-prob of a row's action tokens, over all rows."""
    model, batch = made.policy.model, made.batch
    model.zero_grad()
    n_tokens, n_rows = count_tokens(batch.turn_ids)
    weighted = replace(batch, loss_weight=(batch.turn_ids >= 0) / (n_tokens * n_rows))
    for rows in parts:
        part = weighted.rows(rows).to(bench.device)
        with bench.precision():
            logprobs = token_stats(made.policy, part.input_ids, part.turn_ids, with_entropy=False).logprobs
        (logprobs * part.loss_weight).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def _count_scoring(bench: Benchmark, made: RolloutSet, budget: int) -> None:
    """Positions of scoring by count, beside those needed."""
    meter = Meter(made.policy)
    with bench.precision():
        read(made.policy, made.batch, made.queries, budget, made.steps)
    counted = meter.take()
    needed = int(made.batch.lengths.sum()) + sum(query.answer.n_input_tokens for query in made.queries)
    predicted = sum(len(query.answer.ids) - query.answer.start for query in made.queries)
    predicted += int((made.batch.turn_ids >= 0).sum())
    projected = counted["projected"] / predicted
    bench.goal(f"{made.kind}: positions of scoring over those needed", counted["forwarded"] / needed, at_most=1.05)
    bench.goal(f"{made.kind}: positions projected over tokens predicted", projected, at_most=1.02)

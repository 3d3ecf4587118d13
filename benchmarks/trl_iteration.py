"""A whole iteration, rollout, log-probs and optimizer steps, beside TRL's GRPOTrainer.

Both start from the same weights, see the same prompts, sample actions of the same drawn lengths, hear the same tool
results, take the same number of AdamW steps over as many rows, in the same precision and without a reference. Not
alike: which tokens are sampled. That the rest is the same work is seen on a rollout set of TRL: equal lengths, old
log-probs, and gradient of the loss.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from a2tgpo.method.aggregations.seq_mean_token_mean import SeqMeanTokenMean
from a2tgpo.method.clippers.fixed import Fixed
from a2tgpo.method.method import PAPER, Method
from a2tgpo.method.ratios.token import TokenRatio
from a2tgpo.method.signals.none import NoSignal
from a2tgpo.method.turns import TurnCredit
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch, collate, micro_batches
from a2tgpo.scoring.score import read, score, token_stats
from benchmarks import models
from benchmarks.episodes import DrawnLengths, Episodes, rollout
from benchmarks.grpo_trainer import MAX_GRAD_NORM, Rival
from benchmarks.harness import Benchmark

GRPO = replace(PAPER, signal=NoSignal(), clipper=Fixed(0.2, 0.2), ratio=TokenRatio(), aggregation=SeqMeanTokenMean())
"""The loss of TRL's `loss_type="grpo"`."""
WRAPPER, ANSWER = ("= ", ""), " the the the the"
STEPS = 2
"""Optimizer steps over the rows of an iteration."""
OPTIMIZER = {"lr": 1e-6, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
TOLERANCE = {"cpu": 1e-4, "cuda": 0.1}
"""Of log-probs (nats), and of a gradient relative to its largest entry."""


@dataclass(frozen=True)
class Work:
    """A model, its episodes and positions of our micro-batches; with one turn there are no tools."""

    model: str
    episodes: Episodes
    budget: int
    at_least: float = 2.0
    """How many times as long must TRL take, for the goal to be met?"""


TALKS = Episodes(groups=2, group_size=8, turns=7, prompt=40, action=72, result=100)
"""Results are three to four times as long as actions, as in the paper's setting (4,600 tokens of seven turns)."""
HALF = replace(TALKS, groups=1, group_size=4, action=36, result=50)
SIZES = {
    "cpu": (
        Work("0.66 M", TALKS, 4096),
        Work("0.66 M", replace(TALKS, groups=1, action=30, sigma=0), 4096, at_least=1.0),
        Work("0.66 M", replace(TALKS, groups=1, turns=1, action=256), 4096, at_least=1.0),
        Work("30 M", HALF, 4096),
        Work("135 M", replace(HALF, group_size=2, turns=4), 4096),
    ),
    "cuda": tuple(
        Work(model, replace(TALKS, groups=8, prompt=200, action=64, result=500), 32768, at_least=1.3)
        for model in ("0.66 M", "30 M", "135 M")
    ),
}


class Ours:
    """The same iteration with our engine, scoring, credit and loss, as the learner does it."""

    def __init__(self, bench: Benchmark, policy: Policy, episodes: Episodes, budget: int) -> None:
        self.bench, self.policy, self.episodes, self.budget = bench, policy, episodes, budget
        self.engine = DrawnLengths(episodes, episodes.count)
        self.optimizer = torch.optim.AdamW(policy.model.parameters(), **OPTIMIZER)

    def play(self) -> list[Trajectory]:
        """A rollout set."""
        episodes = self.episodes
        with self.bench.precision(), models.never_ending(self.policy):
            played = rollout(self.engine, episodes)
            played = played.run(self.policy, episodes.tasks(), episodes.group_size, (0,), greedy=False)
        return [replace(t, outcome=float(t.sample % 2)) for t in played]

    def backward(self, method: Method, batch: RolloutBatch) -> None:
        """Gradient of the method's loss over `batch`, which has its credit."""
        weight = method.weigh(batch.turn_ids, batch.old_logprobs, batch.rollout_logprobs)
        batch = replace(batch, loss_weight=weight)
        for rows in micro_batches(batch.lengths.tolist(), self.budget):
            part = batch.rows(rows).to(self.bench.device)
            with self.bench.precision():
                logprobs = token_stats(self.policy, part.input_ids, part.turn_ids, with_entropy=False).logprobs
                loss, _ = method.loss(logprobs, part.old_logprobs, part.turn_ids, part.credit, part.loss_weight)
            loss.backward()

    def iterate(self, method: Method, answers: Callable[[Task], Sequence[str]]) -> None:
        """Rollout, log-probs, beliefs in `answers`, credit and optimizer steps."""
        trajectories = self.play()
        size = len(trajectories) // STEPS
        steps = [range(i, i + size) for i in range(0, len(trajectories), size)]
        with self.bench.precision():
            scored = score(self.policy, trajectories, answers, WRAPPER, self.budget, mini_batches=steps)
        batch = replace(scored.batch, credit=method.assign(scored.observed))
        self.policy.model.train()
        for rows in steps:
            self.backward(method, batch.rows(rows))
            torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), MAX_GRAD_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()


def _agree(bench: Benchmark, work: Work, ours: Ours, trl: Rival) -> int:
    """Lengths, old log-probs, and the gradient with TRL's advantages. Returns the tokens of a rollout set."""
    tolerance, output = TOLERANCE[bench.device.type], trl.play()
    own, theirs = ours.play(), trl.trajectories(output)
    others = sum(_lengths(a) != _lengths(b) for a, b in zip(own, theirs, strict=True))
    bench.agree(f"{work.model}: rows with parts of other lengths", others, 0)
    batch = collate(theirs, ours.policy.pad_id)
    with bench.precision():
        old = read(ours.policy, batch, [], work.budget).tokens.logprobs
    sampled = (output["completion_mask"] * output.get("tool_mask", 1)).bool()
    apart = float((old[batch.turn_ids >= 0] - output["old_per_token_logps"][sampled].cpu()).abs().max())
    bench.agree(f"{work.model}: old log-probs", apart, tolerance)
    advantage, width = output["advantages"].cpu()[:, None] * batch.turn_mask, torch.full(batch.turn_mask.shape, 0.2)
    credit = replace(TurnCredit.zeros(*width.shape), advantage=advantage, clip_low=width, clip_high=width)
    ours.backward(GRPO, replace(batch, old_logprobs=old, credit=credit))
    trl.backward(output)
    gradients = [_taken_gradient(model) for model in (ours.policy.model, trl.policy.model)]
    apart = float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max())
    bench.agree(f"{work.model}: gradient of the loss", apart, tolerance)
    return sum(len(t.token_ids) for t in own)


def _lengths(trajectory: Trajectory) -> list[int]:
    turns = trajectory.turns
    return [
        len(trajectory.prompt_ids),
        *(len(ids) for turn in turns for ids in (turn.action_ids, turn.observation_ids)),
    ]


def _taken_gradient(model: torch.nn.Module) -> Tensor:
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return gradient


OURS, WITHOUT, TRL = "A²TGPO, with gains (ours)", "GRPO, without gains (ours)", "GRPOTrainer of TRL"


def measure(bench: Benchmark, works: Sequence[Work]) -> None:
    """Time all ways on each of `works`."""
    for work in works:
        with tempfile.TemporaryDirectory() as folder:
            _measure(bench, work, folder)


def _measure(bench: Benchmark, work: Work, folder: str) -> None:
    own, others = (models.load(work.model, bench) for _ in range(2))
    ours = Ours(bench, own, work.episodes, work.budget)
    trl = Rival(bench, others, work.episodes, STEPS, OPTIMIZER, folder)
    tokens = _agree(bench, work, ours, trl)
    ways = {
        OURS: partial(ours.iterate, PAPER, lambda task: (ANSWER,)),
        WITHOUT: partial(ours.iterate, GRPO, lambda task: ()),
        TRL: trl.iterate,
    }
    episodes = work.episodes
    turns = f"{episodes.turns} turn{'s' * (episodes.turns > 1)}"
    kind = f"{work.model}, {turns}, {'log-normal' if episodes.sigma else 'equal'} lengths"
    ratios = bench.compare(f"{kind}: {episodes.count} episodes, {tokens} tokens, {STEPS} optimizer steps", ways)
    bench.goal(f"{kind}: TRL over ours without gains", ratios[TRL] / ratios[WITHOUT], at_least=work.at_least)
    bench.goal(f"{kind}: TRL over ours with gains", ratios[TRL], at_least=work.at_least)

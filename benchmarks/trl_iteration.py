"""A whole iteration, rollout, log-probs and optimizer steps, beside TRL's GRPOTrainer.

Both start from the same weights, see the same prompts, sample actions of the same drawn lengths, hear the same tool
results, take the same number of AdamW steps over the same rows, in the same precision and without a reference. TRL is
GRPOTrainer as it is, with its own tool loop and generation; of its train loop only `training_step` and the optimizer
are run, without logging and data loading. Not alike: which tokens are sampled.
"""

import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from a2tgpo.integrations.turns import split_turns, turn_ids
from a2tgpo.method.aggregations.seq_mean_token_mean import SeqMeanTokenMean
from a2tgpo.method.clippers.fixed import Fixed
from a2tgpo.method.method import PAPER, Method
from a2tgpo.method.ratios.token import TokenRatio
from a2tgpo.method.signals.none import NoSignal
from a2tgpo.method.turns import TurnCredit
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch, collate, micro_batches
from a2tgpo.scoring.score import read, score, token_stats
from benchmarks import models
from benchmarks.episodes import CALL, DrawnLengths, Episodes, rollout
from benchmarks.harness import Benchmark

WRAPPER = ("= ", "")
ANSWER = " the the the the"
STEPS = 2
"""Optimizer steps over the rows of an iteration."""
OPTIMIZER = {"lr": 1e-6, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
TOLERANCE = {"cpu": 1e-4, "cuda": 0.1}
"""Of log-probs (nats) and of a gradient, relative to its largest entry."""


@dataclass(frozen=True)
class Work:
    """A model, its episodes and positions of our micro-batches; with one turn there are no tools."""

    model: str
    episodes: Episodes
    budget: int
    at_least: float = 2.0
    """How many times as long must TRL take, for the goal to be met?"""


TALKS = Episodes(groups=1, group_size=8, turns=7, prompt=40, action=72, result=100)
"""Results are three to four times as long as actions, as in the paper's setting (4,600 tokens of seven turns)."""
HALF = replace(TALKS, group_size=4, action=36, result=50)
SIZES = {
    "cpu": (
        Work("0.66 M", TALKS, 4096),
        Work("0.66 M", replace(TALKS, action=30, sigma=0), 4096, at_least=1.0),
        Work("0.66 M", replace(TALKS, turns=1, action=256), 4096, at_least=1.0),
        Work("30 M", HALF, 4096),
        Work("135 M", replace(HALF, turns=4), 4096),
    ),
    "cuda": tuple(
        Work(model, replace(TALKS, groups=8, prompt=200, action=400, result=500), 32768, at_least=1.3)
        for model in models.NAMES
    ),
}


def measure(bench: Benchmark, works: Sequence[Work]) -> None:
    """Time all ways on each of `works`."""
    for work in works:
        if not models.has_weights(work.model):
            bench.note(f"{work.model}: random weights.")
        with tempfile.TemporaryDirectory() as folder:
            _measure(bench, work, folder)


# ---- TRL -------------------------------------------------------------------------------------------------------------

CHAT = """{%- for message in messages -%}{{ message.content }}
{%- for call in message.tool_calls or [] -%}{{ call.function }}{%- endfor -%}{%- endfor -%}"""
CALLED = {"type": "function", "function": {"name": "talk", "arguments": {"text": "{content}"}}}
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": r"the(?= =)|\?(?= =)",
    "fields": {"tool_calls": {"open": CALL, "repeats": True, "content": "text", "transform": CALLED}},
}
"""Whatever follows CALL is the argument of a tool call."""


class Tool:
    """TRL's form of an environment; its public methods are the tools."""

    result = ""

    def reset(self, **row: object) -> None:
        """Nothing to prepare."""

    def talk(self, text: str) -> str:
        """Say something.

        Args:
            text: what is said
        """
        return self.result


def reward(completions: Sequence[object], completion_ids: Sequence[Sequence[int]], **columns: object) -> list[float]:
    """An outcome that differs in a group."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def trainer(bench: Benchmark, work: Work, policy: Policy, folder: str) -> GRPOTrainer:
    """GRPOTrainer over `policy`, whose own loss is that of GRPO."""
    episodes, gpu = work.episodes, bench.device.type == "cuda"
    policy.tokenizer.chat_template, policy.tokenizer.response_template = CHAT, RESPONSE
    Tool.result = episodes.result_text()
    settings = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=episodes.count // STEPS,
        steps_per_generation=STEPS,
        gradient_accumulation_steps=1,
        num_generations=episodes.group_size,
        max_completion_length=episodes.turns * (episodes.action + 4 * episodes.result + 8),
        max_tool_calling_iterations=episodes.turns - 1,
        generation_kwargs={"max_new_tokens": episodes.action, "top_k": 0},
        loss_type="grpo",
        beta=0.0,
        max_steps=1,
        learning_rate=OPTIMIZER["lr"],
        report_to="none",
        save_strategy="no",
        gradient_checkpointing=False,
        use_cpu=not gpu,
        bf16=gpu,
        disable_tqdm=True,
    )
    rows = [{"prompt": [{"role": "user", "content": episodes.prompt_text(task)}]} for _, task in episodes.tasks()]
    tools = {"environment_factory": Tool} if episodes.turns > 1 else {}
    made = GRPOTrainer(
        policy.model, reward, settings, Dataset.from_list(rows), processing_class=policy.tokenizer, **tools
    )
    made.current_gradient_accumulation_steps = 1
    made.model.generate = _with_drawn_lengths(bench, work, policy, made.model.generate)
    return made


def _with_drawn_lengths(bench: Benchmark, work: Work, policy: Policy, generate: Callable[..., Tensor]) -> Callable:
    """`generate`, each row of which ends where `episodes` says, in the precision of the others."""
    turn = itertools.cycle(range(work.episodes.turns))

    def limited(*args: object, **kwargs: object) -> Tensor:
        now = next(turn)
        wanted = torch.tensor([work.episodes.length((0, *place, now)) for place in _places(work.episodes)])
        with bench.precision(), _ending_after(policy, wanted.to(policy.device)):
            return generate(*args, **kwargs)

    return limited


def _places(episodes: Episodes) -> list[tuple[int, int]]:
    return [(group, sample) for group in range(episodes.groups) for sample in range(episodes.group_size)]


@contextmanager
def _ending_after(policy: Policy, lengths: Tensor):
    """Inside, the n-th token of row i is an end token just where n is `lengths[i]`."""
    end, made = policy.tokenizer.eos_token_id, itertools.count(1)

    def force(module: object, args: object, out: object) -> None:
        over = lengths == next(made)
        out.logits[over] = -math.inf
        out.logits[over, ..., end] = 0.0

    with models.never_ending(policy), policy.model.register_forward_hook(force):
        yield


def iteration_of_trl(trl: GRPOTrainer, optimizer: torch.optim.Optimizer, rows: list[dict]) -> None:
    """Rollout, log-probs and optimizer steps."""
    trl.model.train()
    for _ in range(STEPS):
        trl.training_step(trl.model, rows, None)
        torch.nn.utils.clip_grad_norm_(trl.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


# ---- Ours ------------------------------------------------------------------------------------------------------------


def update(
    bench: Benchmark, policy: Policy, method: Method, optimizer: torch.optim.Optimizer, batch: RolloutBatch, budget: int
) -> None:
    """One optimizer step over `batch`, which has its credit, as the learner takes it."""
    weight = method.weigh(batch.turn_ids, batch.old_logprobs, batch.rollout_logprobs)
    batch = replace(batch, loss_weight=weight)
    for rows in micro_batches(batch.lengths.tolist(), budget):
        part = batch.rows(rows).to(bench.device)
        with bench.precision():
            logprobs = token_stats(policy, part.input_ids, part.turn_ids, with_entropy=False).logprobs
            loss, _ = method.loss(logprobs, part.old_logprobs, part.turn_ids, part.credit, part.loss_weight)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


class Ours:
    """The same iteration with our engine, scoring, credit and loss."""

    def __init__(self, bench: Benchmark, work: Work, policy: Policy) -> None:
        self.bench, self.work, self.policy = bench, work, policy
        self.engine = DrawnLengths(work.episodes, work.episodes.count)
        self.optimizer = torch.optim.AdamW(policy.model.parameters(), **OPTIMIZER)

    def play(self) -> list[Trajectory]:
        """The rollout set."""
        episodes = self.work.episodes
        with self.bench.precision(), models.never_ending(self.policy):
            played = rollout(self.engine, episodes).run(
                self.policy, episodes.tasks(), episodes.group_size, (0,), greedy=False
            )
        return [replace(t, outcome=float(sum(t.token_ids) % 2)) for t in played]

    def iterate(self, method: Method, answers: Callable[[Task], Sequence[str]]) -> None:
        """Rollout, log-probs, beliefs in `answers`, credit and optimizer steps."""
        trajectories = self.play()
        size = len(trajectories) // STEPS
        steps = [range(i, i + size) for i in range(0, len(trajectories), size)]
        with self.bench.precision():
            scored = score(self.policy, trajectories, answers, WRAPPER, self.work.budget, mini_batches=steps)
        batch = replace(scored.batch, credit=method.assign(scored.observed))
        self.policy.model.train()
        for rows in steps:
            update(self.bench, self.policy, method, self.optimizer, batch.rows(rows), self.work.budget)


# ---- Held against each other -----------------------------------------------------------------------------------------


def _as_trajectories(episodes: Episodes, output: dict[str, Tensor]) -> list[Trajectory]:
    """TRL's rows, with what earned them their advantage left out."""
    turns = turn_ids((output["completion_mask"] * output.get("tool_mask", 1)).bool())
    made = []
    for i, (group, sample) in enumerate(_places(episodes)):
        prompt = output["prompt_ids"][i][output["prompt_mask"][i].bool()].tolist()
        real = output["completion_mask"][i].bool()
        before, split = split_turns(output["completion_ids"][i][real].tolist(), (turns[i][real] >= 0).tolist())
        task = episodes.tasks()[group][1]
        made.append(Trajectory(task, group, sample, (*prompt, *before), split, 0.0, StopReason.ANSWERED))
    return made


def _agree(bench: Benchmark, work: Work, trl: GRPOTrainer, ours: Ours, rows: list[dict]) -> int:
    """On one rollout of TRL: lengths, old log-probs, and the gradient of the loss with TRL's advantages. Returns the
    tokens of all its rows."""
    trl.model.train()
    output = trl._generate_and_score_completions(rows)
    theirs = _as_trajectories(work.episodes, output)
    lengths = [[len(turn.action_ids) for turn in t.turns] for t in theirs]
    other = sum(a != [len(turn.action_ids) for turn in b.turns] for a, b in zip(lengths, ours.play(), strict=True))
    bench.agree(f"{work.model}: rows with other action lengths", other, 0)
    tokens = [sum(len(t.token_ids) for t in some) for some in (theirs, ours.play())]
    bench.agree(f"{work.model}: tokens of the rollout sets", abs(tokens[0] - tokens[1]), 0)
    batch = collate(theirs, ours.policy.pad_id)
    with bench.precision():
        old = read(ours.policy, batch, [], work.budget).tokens.logprobs
    mask = (output["completion_mask"] * output.get("tool_mask", 1)).bool()
    apart = float((old[batch.turn_ids >= 0] - output["old_per_token_logps"][mask].cpu()).abs().max())
    bench.agree(f"{work.model}: old log-probs", apart, TOLERANCE[bench.device.type])
    gradients = _gradient_of_trl(trl, output), _gradient_of_ours(bench, work, ours.policy, batch, old, output)
    apart = float((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max())
    bench.agree(f"{work.model}: gradient of the loss", apart, TOLERANCE[bench.device.type])
    return tokens[0]


def _gradient_of_trl(trl: GRPOTrainer, output: dict[str, Tensor]) -> Tensor:
    with trl.compute_loss_context_manager():
        loss = trl._compute_loss(trl.model, output)
    loss.backward()
    return _taken(trl.model)


def _gradient_of_ours(
    bench: Benchmark, work: Work, policy: Policy, batch: RolloutBatch, old: Tensor, output: dict[str, Tensor]
) -> Tensor:
    turns = batch.turn_mask
    advantage = output["advantages"].cpu()[:, None] * turns
    width = torch.full(turns.shape, 0.2)
    nothing = TurnCredit.zeros(*turns.shape)
    credit = replace(nothing, advantage=advantage, clip_low=width, clip_high=width)
    weight = GRPO.weigh(batch.turn_ids, old, old)
    batch = replace(batch, old_logprobs=old, credit=credit, loss_weight=weight)
    for rows in micro_batches(batch.lengths.tolist(), work.budget):
        part = batch.rows(rows).to(bench.device)
        with bench.precision():
            logprobs = token_stats(policy, part.input_ids, part.turn_ids, with_entropy=False).logprobs
            loss, _ = GRPO.loss(logprobs, part.old_logprobs, part.turn_ids, part.credit, part.loss_weight)
        loss.backward()
    return _taken(policy.model)


def _taken(model: torch.nn.Module) -> Tensor:
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return gradient


# ---- Measured --------------------------------------------------------------------------------------------------------

GRPO = replace(PAPER, signal=NoSignal(), clipper=Fixed(0.2, 0.2), ratio=TokenRatio(), aggregation=SeqMeanTokenMean())
OURS, WITHOUT, TRL = "A²TGPO, with gains (ours)", "GRPO, without gains (ours)", "TRL's GRPOTrainer"


def _measure(bench: Benchmark, work: Work, folder: str) -> None:
    policies = [models.load(work.model, bench.device) for _ in range(2)]
    trl, ours = trainer(bench, work, policies[0], folder), Ours(bench, work, policies[1])
    rows = [dict(trl.train_dataset[group]) for group, _ in _places(work.episodes)]
    tokens = _agree(bench, work, trl, ours, rows)
    optimizer = torch.optim.AdamW(trl.model.parameters(), **OPTIMIZER)
    ways = {
        OURS: partial(ours.iterate, PAPER, lambda task: (ANSWER,)),
        WITHOUT: partial(ours.iterate, GRPO, lambda task: ()),
        TRL: partial(iteration_of_trl, trl, optimizer, rows),
    }
    for way in ways.values():
        way()
    episodes = work.episodes
    lengths = "equal lengths" if not episodes.sigma else "log-normal lengths"
    kind = f"{work.model}, {episodes.turns} turn{'s' * (episodes.turns > 1)}, {lengths}"
    ratios = bench.compare(f"{kind}: {episodes.count} episodes, {tokens} tokens, {STEPS} optimizer steps", ways)
    bench.goal(f"{kind}: TRL over ours without gains", ratios[TRL] / ratios[WITHOUT], at_least=work.at_least)
    bench.goal(f"{kind}: TRL over ours with gains", ratios[TRL], at_least=work.at_least)

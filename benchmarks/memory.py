"""Models of real sizes on one GPU: the most that each phase holds, beside what `debug=shapes` counts, and its speed.

The rollout fills the cache to its limits, all sessions at once. The update is of one micro-batch with an optimizer
step; the moments are there from the start. MFU is three forward passes over the seconds and the rate of a matrix
product, whatever is computed again.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from peft import LoraConfig

from a2tgpo.dry_run.footprint import GIB, USABLE, Plan, memory
from a2tgpo.policies.policy import Policy
from a2tgpo.scoring.batch import collate
from a2tgpo.scoring.score import read, token_stats
from benchmarks import models
from benchmarks.episodes import DrawnLengths, Episodes, random_trajectories, rollout
from benchmarks.floors import Costs, matrix_rate
from benchmarks.harness import Benchmark


@dataclass(frozen=True)
class Work:
    """A model, how it is trained, and the limits of its episodes."""

    model: str
    lora: bool = False
    """Frozen bf16 weights under an adapter, instead of fp32 weights that are all trained."""
    checkpointing: bool = True
    fused: bool = True
    """AdamW that goes over all numbers of a weight at once and keeps no temporaries."""
    sessions: int = 16
    tokens: int = 4096
    """Of an episode that is played, and behind which few are sampled."""
    budget: int = 8192
    """Positions of the micro-batch, a single row."""


SIZES: dict[str, tuple[Work, ...]] = {
    "cpu": (),  # nothing counts what a phase holds there
    "cuda": (
        Work("1.7 B"),
        Work("1.7 B", fused=False),
        Work("1.7 B", checkpointing=False),
        Work("4 B"),
        Work("4 B", lora=True),
        Work("8 B", lora=True),
    ),
}
ADAPTER = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 16, "lora_alpha": 32}
"""That of `model/policy=pretrained_lora`."""
SAMPLED = 8
"""Tokens that are sampled in each episode."""


def measure(bench: Benchmark, works: Sequence[Work]) -> None:
    """Every phase of each of `works`."""
    rate = matrix_rate(bench)
    for work in works:
        gc.collect()
        torch.cuda.empty_cache()
        trained = "an adapter" if work.lora else "all weights"
        kind = f"{work.model}, {trained}, activations {'computed again' if work.checkpointing else 'kept'}"
        _measure(bench, work, f"{kind}{'' if work.fused else ', AdamW not fused'}", rate)


def _measure(bench: Benchmark, work: Work, kind: str, rate: float) -> None:
    policy = models.load(work.model, bench, LoraConfig(**ADAPTER) if work.lora else None, work.checkpointing)
    weights, counted = torch.cuda.memory_allocated(), count(policy, work)
    phases = _Phases(bench, work, policy)
    phases.update()
    rows = [_row("weights", weights, counted["weights"])]
    for name, passes in (("rollout", 0), ("scoring", 1), ("update", 3)):
        torch.cuda.reset_peak_memory_stats()
        seconds = median([bench.timed(getattr(phases, name)) for _ in range(bench.rounds)])
        speed = {"MFU": passes * phases.forward / rate / seconds} if passes else {}
        rows.append(_row(name, torch.cuda.max_memory_allocated(), counted.get(name)) | {"seconds": seconds} | speed)
    bench.table(kind, rows)
    measured, most = (max(row.get(f"{way}, GiB", 0) for row in rows) for way in ("measured", "counted"))
    bench.goal(f"{kind}: peak over the count", measured / most, at_most=1 / USABLE)


def _row(phase: str, measured: float, counted: float | None) -> dict[str, object]:
    beside = {"counted, GiB": counted / GIB, "ratio": measured / counted} if counted else {}
    return {"phase": phase, "measured, GiB": measured / GIB} | beside


class _Phases:
    """What an iteration does with a model, at its limits."""

    def __init__(self, bench: Benchmark, work: Work, policy: Policy) -> None:
        self.bench, self.work, self.policy = bench, work, policy
        trained = [weight for weight in policy.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=work.fused)
        eighth = work.budget // 8
        row = Episodes(groups=1, group_size=1, turns=4, prompt=eighth, action=eighth, result=eighth, sigma=0)
        self.batch = collate(random_trajectories(policy, row), policy.pad_id)
        seen, actions = range(1, work.budget + 1), int((self.batch.turn_ids >= 0).sum())
        self.forward = Costs.of(policy.model, 2).forward(seen, actions)

    def rollout(self) -> None:
        """Few tokens behind prompts that all but fill the episodes."""
        work = self.work
        episodes = Episodes(
            work.sessions, 1, turns=1, prompt=work.tokens - SAMPLED - 8, action=SAMPLED, result=0, sigma=0
        )
        engine = DrawnLengths(episodes, episodes.count)
        with self.bench.precision(), models.never_ending(self.policy):
            rollout(engine, episodes).run(self.policy, episodes.tasks(), 1, (0,), greedy=False)

    def scoring(self) -> None:
        """Log-probs of a row."""
        with self.bench.precision():
            read(self.policy, self.batch, [], self.work.budget, with_entropy=False)

    def update(self) -> None:
        """Gradient of a row's log-probs, and a step."""
        batch = self.batch.to(self.bench.device)
        self.policy.model.train()
        with self.bench.precision():
            loss = -token_stats(self.policy, batch.input_ids, batch.turn_ids, with_entropy=False).logprobs.mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)  # as the learner does


def count(policy: Policy, work: Work) -> dict[str, float]:
    """Bytes in each phase, by the arithmetic of `debug=shapes`."""
    weights = list(policy.model.parameters())
    plan = Plan(
        prompts=1,
        group_size=work.sessions,
        prompt_tokens=work.tokens,
        response_tokens=0,
        max_sessions=work.sessions,
        micro_batch_tokens=work.budget,
        models_scored=1,
        reference_copy=False,
        weight_bytes=weights[0].element_size(),
        compute_bytes=2,
        gradient_checkpointing=work.checkpointing,
        shards=1,
        coded_moments=False,
    )
    counts = [sum(w.numel() for w in chosen) for chosen in (weights, [w for w in weights if w.requires_grad])]
    parts = memory(policy.model.config, *counts, plan)
    fixed = sum(size for name, size in parts.items() if name not in ("rollout", "update"))
    return {"weights": parts["weights"]} | {name: fixed + parts[name] for name in ("rollout", "update")}

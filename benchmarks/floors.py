"""Rollout, scoring and update against the least that the device could take for them.

Scoring and update: their FLOPs over the measured rate of a matrix product; that share is the MFU. A decoding step reads
all weights and the rows' keys and values: these bytes over the measured bandwidth. What the rest of an iteration takes,
Python above all, shows as the distance to 1.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from transformers import PreTrainedModel

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.scoring.batch import collate, micro_batches
from a2tgpo.scoring.score import read, token_stats
from benchmarks import models, scoring
from benchmarks.episodes import DrawnLengths, Episodes, rollout
from benchmarks.harness import Benchmark


@dataclass(frozen=True)
class Work:
    """A model, its episodes, and positions of a micro-batch."""

    model: str
    episodes: Episodes
    budget: int


TALKS = Episodes(groups=2, group_size=8, turns=7, prompt=40, action=72, result=100)
HALF = replace(TALKS, groups=1, group_size=4, action=36, result=50)
SIZES = {
    "cpu": (Work("0.66 M", TALKS, 4096), Work("30 M", HALF, 4096), Work("135 M", replace(HALF, turns=4), 4096)),
    "cuda": tuple(
        Work(model, replace(TALKS, groups=8, prompt=200, action=96, result=500), 32768)
        for model in ("0.66 M", "135 M", "0.6 B")
    ),
}

# ---- What the device could do ----------------------------------------------------------------------------------------


def matrix_rate(bench: Benchmark) -> float:
    """FLOP/s of the largest product that is quick to measure, in the precision of the ways."""
    n = 8192 if bench.device.type == "cuda" else 1024
    a, b = torch.randn(2, n, n, device=bench.device)
    with bench.precision():
        return 2 * n**3 / _least(bench, lambda: a @ b)


def bandwidth(bench: Benchmark) -> float:
    """Bytes/s of reading a tensor that fits no cache."""
    numbers = torch.ones(2**28 if bench.device.type == "cuda" else 2**26, device=bench.device)
    return 4 * numbers.numel() / _least(bench, numbers.sum)


def _least(bench: Benchmark, way: Callable[[], object]) -> float:
    way()
    return min(bench.timed(way) for _ in range(5))


# ---- What the work takes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """FLOPs and bytes of a model's forward, from its shape."""

    layer_weights: int
    head_weights: int
    attention: int
    """FLOPs for a token and a position that it sees, in all layers."""
    cache_bytes: int
    """Keys and values of a position, in all layers."""
    weight_bytes: int

    @classmethod
    def of(cls, model: PreTrainedModel, bytes_each: int) -> "Costs":
        """Those of `model`, whose numbers are read with so many bytes each."""
        config = model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = sum(p.numel() for p in model.get_decoder().layers.parameters())
        head = model.get_output_embeddings().weight.numel()
        return cls(
            layer_weights=layers,
            head_weights=head,
            attention=4 * config.num_hidden_layers * config.num_attention_heads * head_dim,
            cache_bytes=2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * bytes_each,
            weight_bytes=(layers + head) * bytes_each,
        )

    def forward(self, seen: Sequence[int], projected: int) -> int:
        """FLOPs of reading tokens that see so many positions each, and of projecting some of them."""
        return 2 * self.layer_weights * len(seen) + self.attention * sum(seen) + 2 * self.head_weights * projected


class Forwards:
    """The forwards of a rollout: how many tokens they read, how many bytes its decoding steps read, their seconds."""

    def __init__(self, bench: Benchmark, policy: Policy, costs: Costs) -> None:
        self.bench, self.costs, self.counts, self.began = bench, costs, Counter(), 0.0
        self.hooks = (
            policy.model.register_forward_pre_hook(self._begin),
            policy.model.register_forward_hook(self._end, with_kwargs=True),
        )

    def _begin(self, module: torch.nn.Module, args: tuple) -> None:
        self.began = self.bench.now()

    def _end(self, module: torch.nn.Module, args: tuple, kwargs: dict, out: object) -> None:
        (rows, width), cached = args[0].shape, kwargs["past_key_values"].get_seq_length()
        kind = "decoding" if width == 1 else "reading"
        self.counts[f"{kind}, seconds"] += self.bench.now() - self.began
        if width == 1:
            self.counts["steps"] += 1
            self.counts["bytes"] += self.costs.weight_bytes + rows * cached * self.costs.cache_bytes
        else:
            self.counts["reading, FLOP"] += rows * self.costs.forward([cached - width // 2] * width, 1)

    def close(self) -> Counter:
        """Stop counting; what was counted."""
        for hook in self.hooks:
            hook.remove()
        return self.counts


# ---- Measured --------------------------------------------------------------------------------------------------------


def measure(bench: Benchmark, works: Sequence[Work]) -> None:
    """The device's rates, then every phase of each of `works`."""
    rate, speed = matrix_rate(bench), bandwidth(bench)
    bench.table("What the device does", [{"GFLOP/s": rate / 1e9, "GB/s": speed / 1e9}])
    for work in works:
        bench.table(f"{work.model}: {work.episodes.count} episodes", _phases(bench, work, rate, speed))


def _phases(bench: Benchmark, work: Work, rate: float, speed: float) -> list[dict]:
    policy = models.load(work.model, bench)
    costs = Costs.of(policy.model, 2 if bench.device.type == "cuda" else 4)
    play = partial(_play, bench, policy, work.episodes)
    play()
    counter = Forwards(bench, policy, costs)
    seconds, trajectories = bench.now(), play()
    seconds, counts = bench.now() - seconds, counter.close()
    decoding, reading, flop = (counts[key] for key in ("decoding, seconds", "reading, seconds", "reading, FLOP"))
    rows = [
        _row("rollout, decoding", decoding, counts["bytes"] / speed, GB=counts["bytes"] / 1e9),
        _row("rollout, reading", reading, flop / rate, GFLOP=flop / 1e9),
        {"phase": "rollout, outside the model", "seconds": seconds - decoding - reading},
    ]
    batch, queries = collate(trajectories, policy.pad_id), scoring.queries_of(policy, trajectories, 12)
    actions, seen = int((batch.turn_ids >= 0).sum()), [i + 1 for n in batch.lengths.tolist() for i in range(n)]
    flop = costs.forward(seen, actions)
    asked = [query.context + i for query in queries for i in range(query.answer.n_input_tokens)]
    beliefs = costs.forward(asked, sum(len(query.answer.ids) - query.answer.start for query in queries))
    for name, way, needed in (
        ("scoring", lambda: _read(bench, policy, batch, queries, work.budget), flop + beliefs),
        ("update", lambda: _update(bench, policy, batch, work.budget), 3 * flop),
    ):
        way()
        rows.append(_row(name, bench.timed(way), needed / rate, GFLOP=needed / 1e9))
    return rows


def _row(phase: str, seconds: float, floor: float, **needed: float) -> dict:
    return {"phase": phase, "seconds": seconds, **needed, "floor, s": floor, "share of the device": floor / seconds}


def _play(bench: Benchmark, policy: Policy, episodes: Episodes) -> list[Trajectory]:
    engine = DrawnLengths(episodes, episodes.count)
    with bench.precision(), models.never_ending(policy):
        return rollout(engine, episodes).run(policy, episodes.tasks(), episodes.group_size, (0,), greedy=False)


def _read(bench: Benchmark, policy: Policy, batch, queries, budget: int) -> None:
    with bench.precision():
        read(policy, batch, queries, budget, with_entropy=False)


def _update(bench: Benchmark, policy: Policy, batch, budget: int) -> None:
    policy.model.zero_grad()
    for rows in micro_batches(batch.lengths.tolist(), budget):
        part = batch.rows(rows).to(bench.device)
        with bench.precision():
            loss = token_stats(policy, part.input_ids, part.turn_ids, with_entropy=False).logprobs.sum()
        loss.backward()

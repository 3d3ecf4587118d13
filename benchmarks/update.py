"""Forward and backward over a rollout set: how rows are cut into micro-batches, and what is projected to the vocabulary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config

from a2tgpo.method.functional import count_tokens
from a2tgpo.policies.policy import Policy
from a2tgpo.scoring.batch import RolloutBatch, collate, micro_batches, token_positions
from a2tgpo.scoring.beliefs import plan_beliefs
from a2tgpo.scoring.score import read, token_stats
from benchmarks import embedded, models
from benchmarks.embedded import Meter
from benchmarks.episodes import Episodes, random_trajectories
from benchmarks.harness import Benchmark

TOLERANCE = {"cpu": 1e-5, "cuda": 0.05}
"""Of a gradient, relative to its largest entry."""


@dataclass(frozen=True)
class Cut:
    """Rows of drawn lengths that are cut into micro-batches of `budget` positions; the first rollout set of
    `experiment=a2tgpo` where there are no `episodes`."""

    model: str
    episodes: Episodes | None
    budget: int
    mini_batches: int = 4
    """Optimizer steps over the set."""


@dataclass(frozen=True)
class Vocabulary:
    """A small model with a large vocabulary, and rows for one pass."""

    size: int
    hidden: int
    episodes: Episodes


SPREAD = Episodes(groups=16, group_size=4, turns=5, prompt=40, action=160, result=60)
TALK = Episodes(groups=1, group_size=2, turns=4, prompt=32, action=48, result=80)
SIZES: dict[str, tuple[Cut | Vocabulary, ...]] = {
    "cpu": (
        Cut("0.66 M", None, 4096),
        Cut("0.66 M", SPREAD, 4096),
        Vocabulary(49152, 256, TALK),
        Vocabulary(151936, 64, TALK),
    ),
    "cuda": (
        Cut("30 M", replace(SPREAD, action=1600, result=600), 32768),
        Cut("135 M", replace(SPREAD, action=1600, result=600), 32768),
        Vocabulary(151936, 1024, replace(TALK, action=400, result=700)),
    ),
}


def measure(bench: Benchmark, works: Sequence[Cut | Vocabulary]) -> None:
    """Time all ways on each of `works`."""
    for work in works:
        if isinstance(work, Cut):
            _cut(bench, work)
        else:
            _vocabulary(bench, work)


# ---- How rows are cut ------------------------------------------------------------------------------------------------


def by_budget(lengths: Sequence[int], budget: int, mini_batches: Sequence[Sequence[int]]) -> list[list[int]]:
    """The fewest micro-batches of sorted rows: each is filled up to the budget."""
    cut: list[list[int]] = []
    for rows in mini_batches:
        cut.append([])
        for row in sorted(rows, key=lambda i: -lengths[i]):
            if cut[-1] and (len(cut[-1]) + 1) * lengths[cut[-1][0]] > budget:
                cut.append([])
            cut[-1].append(row)
    return cut


def as_they_come(lengths: Sequence[int], budget: int, mini_batches: Sequence[Sequence[int]]) -> list[list[int]]:
    """So many rows in each, in their order, that the longest of all fit."""
    size = max(1, budget // max(lengths))
    return [list(rows[i : i + size]) for rows in mini_batches for i in range(0, len(rows), size)]


def _cut(bench: Benchmark, work: Cut) -> None:
    if work.episodes is None:
        data, learner = embedded.load()
        policy, trajectories = learner.policy, embedded.first_rollout_set(data, learner)
        mini_batches = data.mini_batches([t.group for t in trajectories])
        answers, wrapper, kind = learner.method.signal.answers, learner.answer_wrapper, "first set of make train"
    else:
        policy = models.load(work.model, bench.device)
        trajectories = random_trajectories(policy, work.episodes)
        size = -(-len(trajectories) // work.mini_batches)
        mini_batches = [range(i, min(i + size, len(trajectories))) for i in range(0, len(trajectories), size)]
        answers, wrapper, kind = (lambda task: task.answers), ("= ", ""), "log-normal lengths"
    batch = collate(trajectories, policy.pad_id)
    lengths, meter = batch.lengths.tolist(), Meter(policy)
    cuts = {
        "little padding (ours)": micro_batches(lengths, work.budget, mini_batches),
        "filled to the budget": by_budget(lengths, work.budget, mini_batches),
        "rows as they come": as_they_come(lengths, work.budget, mini_batches),
    }
    ways = {name: partial(_backward, bench, policy, batch, parts) for name, parts in cuts.items()}
    gradients, facts = {}, {}
    for name, parts in cuts.items():
        meter.take()
        gradients[name] = ways[name]()
        facts[name] = {"positions": meter.take()["forwarded"], "micro-batches": len(parts)}
        facts[name]["of the tokens"] = facts[name]["positions"] / sum(lengths)
    ours = next(iter(cuts))
    for name in list(cuts)[1:]:
        difference = _apart(gradients[name], gradients[ours])
        bench.agree(f"{work.model}, {kind}: gradient, {name}", difference, TOLERANCE[bench.device.type])
    title = f"{work.model}, {kind}: update of {len(batch)} rows, {sum(lengths)} tokens, {len(mini_batches)} steps"
    ratios = bench.compare(title, ways, facts)
    padding = token_positions(lengths, cuts[ours])
    bench.goal(f"{kind}: positions of the update over tokens", padding["forwarded"] / padding["useful"], at_most=1.05)
    bench.goal(f"{kind}: update over the fastest other cut", 1 / min(list(ratios.values())[1:]), at_most=1.0)
    _counts(bench, policy, batch, plan_beliefs(trajectories, batch.context_ids, policy.tokenizer, wrapper, answers).queries, work.budget, mini_batches, meter, kind)


def _backward(bench: Benchmark, policy: Policy, batch: RolloutBatch, parts: Sequence[Sequence[int]]) -> Tensor:
    policy.model.zero_grad()
    n_tokens, n_rows = count_tokens(batch.turn_ids)
    for rows in parts:
        part = batch.rows(rows).to(bench.device)
        with bench.precision():
            logprobs = token_stats(policy, part.input_ids, part.turn_ids, with_entropy=False).logprobs
            loss = (logprobs.sum(1) / n_tokens[list(rows), 0].to(bench.device)).sum() / n_rows.to(bench.device)
        loss.backward()
    return _gradient(policy)


def _gradient(policy: Policy) -> Tensor:
    return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])


def _apart(gradient: Tensor, expected: Tensor) -> float:
    return float((gradient - expected).abs().max() / expected.abs().max())


def _counts(bench, policy, batch, queries, budget, mini_batches, meter, kind) -> None:
    """Positions of scoring and update by count, beside what is needed."""
    meter.take()
    with bench.precision():
        read(policy, batch, queries, budget, mini_batches)
    scored = meter.take()
    tokens, actions = int(batch.lengths.sum()), int((batch.turn_ids >= 0).sum())
    needed = tokens + sum(query.answer.n_input_tokens for query in queries)
    predicted = actions + sum(len(query.answer.ids) - query.answer.start for query in queries)
    bench.goal(f"{kind}: positions of scoring over those needed", scored["forwarded"] / needed, at_most=1.05)
    bench.goal(f"{kind}: positions projected in scoring over tokens predicted", scored["projected"] / predicted, at_most=1.02)


# ---- What is projected -----------------------------------------------------------------------------------------------


def whole_logits(policy: Policy, input_ids: Tensor, turn_ids: Tensor) -> Tensor:
    """The usual loss: logits of every position, their log-softmax in fp32, and of these what was sampled."""
    logits = policy.model(input_ids, use_cache=False).logits[:, :-1].float()
    logprobs = logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    return torch.nn.functional.pad(logprobs, (1, 0)) * (turn_ids >= 0)


def picked_logits(policy: Policy, input_ids: Tensor, turn_ids: Tensor) -> Tensor:
    """Ours: log-probs of the action tokens alone, by chunks."""
    return token_stats(policy, input_ids, turn_ids, with_entropy=False).logprobs


def _vocabulary(bench: Benchmark, work: Vocabulary) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=work.size,
        hidden_size=work.hidden,
        intermediate_size=2 * work.hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=work.hidden // 2,
        tie_word_embeddings=True,
    )
    small = models.load("0.66 M", bench.device)
    policy = Policy(AutoModelForCausalLM.from_config(config).to(bench.device), small.tokenizer)
    batch = collate(random_trajectories(policy, work.episodes), 0).to(bench.device)
    meter, actions = Meter(policy), int((batch.turn_ids >= 0).sum())

    def backward(logprobs: Callable[[Policy, Tensor, Tensor], Tensor]) -> Tensor:
        policy.model.zero_grad()
        with bench.precision():
            loss = logprobs(policy, batch.input_ids, batch.turn_ids).sum() / actions
        loss.backward()
        return _gradient(policy)

    ways = {"action tokens alone (ours)": partial(backward, picked_logits), "whole logits": partial(backward, whole_logits)}
    facts, gradients = {}, []
    for name, way in ways.items():
        meter.take()
        gradients.append(way())
        facts[name] = {"positions projected": meter.take()["projected"]}
        facts[name]["fp32 logits, MiB"] = facts[name]["positions projected"] * work.size * 4 // 2**20
    bench.agree(f"{work.size:,} ids: gradient, whole logits", _apart(*gradients), TOLERANCE[bench.device.type])
    title = f"{work.size:,} ids, hidden size {work.hidden}: {batch.input_ids.numel()} positions, {actions} action tokens"
    ratios = bench.compare(title, ways, facts)
    ours = facts["action tokens alone (ours)"]["positions projected"] / actions
    bench.goal(f"{work.size:,} ids: positions projected over action tokens", ours, at_most=1.02)
    bench.goal(f"{work.size:,} ids: ours over whole logits", 1 / ratios["whole logits"], at_most=1.0)

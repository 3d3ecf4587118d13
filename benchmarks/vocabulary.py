"""The loss of a model with a large vocabulary: logits where a token is predicted, or of every position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, Qwen3Config

from a2tgpo.policies.policy import Policy
from a2tgpo.scoring.batch import collate
from a2tgpo.scoring.score import token_stats
from benchmarks import models
from benchmarks.embedded import Meter
from benchmarks.episodes import Episodes, random_trajectories
from benchmarks.harness import Benchmark

TOLERANCE = {"cpu": 1e-5, "cuda": 0.05}
"""Of a gradient, relative to its largest entry."""


@dataclass(frozen=True)
class Work:
    """A random model of two layers with a large vocabulary, and the rows of one pass."""

    ids: int
    hidden: int
    episodes: Episodes


TALK = Episodes(groups=1, group_size=2, turns=4, prompt=32, action=48, result=80)
SIZES = {
    "cpu": (Work(49152, 256, TALK), Work(151936, 64, TALK)),
    "cuda": (Work(151936, 1024, replace(TALK, action=400, result=700)),),
}


def whole_logits(policy: Policy, input_ids: Tensor, turn_ids: Tensor) -> Tensor:
    """The usual loss: logits of every position, their log-softmax in fp32, and of these what was sampled."""
    logits = policy.model(input_ids, use_cache=False).logits[:, :-1].float()
    logprobs = logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    return F.pad(logprobs, (1, 0)) * (turn_ids >= 0)


def picked_logits(policy: Policy, input_ids: Tensor, turn_ids: Tensor) -> Tensor:
    """Ours: log-probs of the action tokens alone, by chunks."""
    return token_stats(policy, input_ids, turn_ids, with_entropy=False).logprobs


OURS, WHOLE = "action tokens alone (ours)", "whole logits"


def measure(bench: Benchmark, works: Sequence[Work]) -> None:
    """Time both on each of `works`."""
    for work in works:
        _measure(bench, work)


def _shape(work: Work) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=work.ids,
        hidden_size=work.hidden,
        intermediate_size=2 * work.hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=work.hidden // 2,
        tie_word_embeddings=True,
    )


def _measure(bench: Benchmark, work: Work) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_shape(work)).to(bench.device)
    policy = Policy(model, models.load("0.66 M", bench).tokenizer)
    batch = collate(random_trajectories(policy, work.episodes), policy.pad_id).to(bench.device)
    meter, actions = Meter(policy), int((batch.turn_ids >= 0).sum())

    def forward(logprobs: Callable[[Policy, Tensor, Tensor], Tensor]) -> Tensor:
        with bench.precision():
            return logprobs(policy, batch.input_ids, batch.turn_ids).sum() / actions

    def backward(logprobs: Callable[[Policy, Tensor, Tensor], Tensor]) -> Tensor:
        model.zero_grad()
        forward(logprobs).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    makes = {OURS: picked_logits, WHOLE: whole_logits}
    ways = {name: partial(backward, logprobs) for name, logprobs in makes.items()}
    gradients, facts = {}, {}
    for name, way in ways.items():
        gradients[name] = way()
        meter.take()
        with torch.no_grad():  # chunks are projected again in the backward pass
            forward(makes[name])
        projected = meter.take()["projected"]
        facts[name] = {"positions projected": projected, "fp32 logits, MiB": projected * work.ids * 4 // 2**20}
    apart = float((gradients[WHOLE] - gradients[OURS]).abs().max() / gradients[OURS].abs().max())
    bench.agree(f"{work.ids:,} ids: gradient, {WHOLE}", apart, TOLERANCE[bench.device.type])
    title = f"{work.ids:,} ids, hidden size {work.hidden}: {batch.input_ids.numel()} positions, {actions} action tokens"
    ratios, projected = bench.compare(title, ways, facts), facts[OURS]["positions projected"]
    bench.goal(f"{work.ids:,} ids: positions projected over action tokens", projected / actions, at_most=1.02)
    bench.goal(f"{work.ids:,} ids: ours over {WHOLE}", 1 / ratios[WHOLE], at_most=1.0)

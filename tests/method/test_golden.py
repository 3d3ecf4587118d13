"""The shipped configs against numbers computed elsewhere: every credit and loss case, in float64.

The numbers follow the equations with population standard deviation and no epsilon. In `credit` the last advantage of
a row is the terminal turn's where `answered` is true; in `loss` positions outside the mask carry values that must not
matter.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from a2tgpo.method.method import PAPER
from a2tgpo.method.turns import TurnCredit
from tests.helpers.observed import from_beliefs, observed

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "credit_and_loss.json").read_text())
CHOICES = {
    "signal": "information_gain",
    "outcome": "z",
    "normalizer": "turn_group",
    "accumulator": "variance_rescaled",
    "combiner": "additive",
    "credit": "staged",
    "clipper": "adaptive_turn",
    "ratio": "turn",
    "surrogate": "ppo",
    "aggregation": "seq_mean_token_mean",
    "correction": "none",
}
LOSS, BOUNDS = GOLDEN["loss"], GOLDEN["sequence_level_at_the_bounds"]


COMPOSED = {}
"""Composed configurations by their choices: composing takes far longer than any case here."""


@pytest.fixture
def method(composed):
    """`method({slot: file}, slot__key=value)`: the method of the fully composed configuration."""

    def build(choices=None, **values):
        files = CHOICES | (choices or {})
        swaps = tuple(f"model/{slot}={file}" for slot, file in files.items())
        if swaps not in COMPOSED:
            COMPOSED[swaps] = composed("~experiment", *swaps)
        config = COMPOSED[swaps].copy()
        for key, value in values.items():
            OmegaConf.update(config, "model." + key.replace("__", "."), value)
        return instantiate(config.model.method)

    return build


def padded(rows, width):
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows], dtype=torch.float64)


def rollout_set(case):
    """The case as a signal sees it: beliefs that step by the case's gains, from high enough to stay positive."""
    gains, answered = case["ig"], case["answered"]
    turns = [len(row) + last for row, last in zip(gains, answered, strict=True)]
    width = max(turns)
    position = torch.arange(width)
    steps = padded(gains, width).cumsum(1)
    belief = torch.nn.functional.pad(steps, (1, 0)) + 1 - steps.amin()
    scored = torch.arange(width + 1) <= torch.tensor([len(row) for row in gains])[:, None]
    turn_mask = position < torch.tensor(turns)[:, None]
    outcome = torch.tensor(case["outcome"], dtype=torch.float64)
    return from_beliefs(belief, scored, outcome=outcome, turn_mask=turn_mask)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("name", GOLDEN["credit"])
def test_advantage_of_every_credit_case(method, name, gamma, alpha):
    case = GOLDEN["credit"][name]
    credit = method(accumulator__gamma=gamma, combiner__alpha=alpha).assign(rollout_set(case))
    width = credit.gain.shape[1]
    assert_close(credit.gain, padded(case["ig"], width))
    assert_close(credit.normalized_gain, padded(case["ig_hat"], width))
    assert_close(credit.advantage, padded(case[f"advantage_gamma{gamma}_alpha{alpha}"], width))


def test_the_paper_as_one_object_is_the_composed_method(method):
    assert method() == PAPER


def test_all_credit_cases_as_one_batch_of_prompts():
    cases = [rollout_set(case) for case in GOLDEN["credit"].values()]
    width = max(case.turn_mask.shape[1] for case in cases)

    def together(name, extra=0, dims=1):
        parts = []
        for case in cases:
            missing = width + extra - getattr(case, name).shape[1]
            parts.append(torch.nn.functional.pad(getattr(case, name), (0, 0) * (dims - 1) + (0, missing)))
        return torch.cat(parts)

    group_ids = torch.cat([case.group_ids + prompt for prompt, case in enumerate(cases)])
    everything = observed(
        together("answer_logprob", extra=1, dims=2),
        torch.cat([case.alias_mask for case in cases]),
        together("state_mask", extra=1),
        outcome=torch.cat([case.outcome for case in cases]),
        group_ids=group_ids,
        turn_mask=together("turn_mask"),
    )
    expected = [row for case in GOLDEN["credit"].values() for row in case["advantage_gamma1.0_alpha1.0"]]
    assert_close(PAPER.assign(everything).advantage, padded(expected, width))


@pytest.mark.parametrize("name", GOLDEN["credit"])
def test_outcome_hat_and_clip_bounds(method, name):
    case, built = GOLDEN["credit"][name], method(clipper__beta=0.3)
    seen = rollout_set(case)
    outcome = seen.outcome[:, None]
    outcome_hat = built.credit.outcome(outcome, torch.ones_like(outcome, dtype=torch.bool), seen.group_ids)
    assert_close(outcome_hat[:, 0], torch.tensor(case["outcome_hat"], dtype=torch.float64))

    credit = built.assign(seen)
    scale = padded(case["clip_scale_beta0.3"], credit.gain.shape[1])
    assert_close(torch.where(seen.turn_mask, credit.clip_low / 0.003, 0), scale)
    assert_close(torch.where(seen.turn_mask, credit.clip_high / 0.004, 0), scale)


def per_turn(per_token, turn_ids):
    """Value of each turn, read off its first token; 0 where a row has no such turn."""
    rows = [[0.0] * (int(turn_ids.max()) + 1) for _ in per_token]
    for row, values, ids in zip(rows, per_token, turn_ids.tolist(), strict=True):
        for turn in set(ids) - {-1}:
            row[turn] = float(values[ids.index(turn)])
    return torch.tensor(rows, dtype=torch.float64)


def loss_and_gradient(method, delta, advantage, normalized):
    """One mini-batch through `weigh` and `loss`; log-probs are `delta` above the old ones."""
    turn_ids = torch.tensor(LOSS["turn_id"])
    old = torch.linspace(-3, -0.1, turn_ids.numel(), dtype=torch.float64).view_as(turn_ids)
    logprobs = (old + torch.tensor(delta, dtype=torch.float64)).requires_grad_()
    low, high = method.clipper(normalized)
    blank = TurnCredit.zeros(*normalized.shape)
    credit = replace(blank, advantage=per_turn(advantage, turn_ids), clip_low=low, clip_high=high)
    loss, _ = method.loss(logprobs, old, turn_ids, credit, method.weigh(turn_ids, old, old))
    loss.backward()
    return loss.detach(), logprobs.grad


@pytest.mark.parametrize("name", LOSS["results"])
def test_loss_and_gradient_of_every_loss_case(method, name):
    ratio, aggregation, adaptive = name.split("|")
    clip = {"clipper__eps_low": LOSS["eps_low"], "clipper__eps_high": LOSS["eps_high"]}
    clipper = "fixed"
    if adaptive == "adaptive=True":
        clipper, clip["clipper__beta"] = "adaptive_turn", LOSS["beta"]
    built = method({"ratio": ratio, "aggregation": aggregation.replace("-", "_"), "clipper": clipper}, **clip)
    normalized = torch.tensor(
        [[value or 0.0 for value in row] for row in LOSS["ig_hat(None=answer)"]], dtype=torch.float64
    )
    loss, gradient = loss_and_gradient(built, LOSS["delta_logp"], LOSS["advantage"], normalized)
    expected = LOSS["results"][name]
    assert_close(loss, torch.tensor(expected["loss"], dtype=torch.float64))
    assert_close(gradient, torch.tensor(expected["grad_wrt_logp"], dtype=torch.float64))


@pytest.mark.parametrize("side", ["clipped", "not_clipped"])
def test_sequence_ratio_at_the_bounds(method, side):
    case = BOUNDS[side]
    built = method({"ratio": "sequence", "clipper": "fixed"}, clipper__eps_low=0.003, clipper__eps_high=0.004)
    normalized = torch.zeros(2, 2, dtype=torch.float64)
    loss, gradient = loss_and_gradient(built, BOUNDS["delta_logp"], case["advantage"], normalized)
    assert_close(loss, torch.tensor(case["loss"], dtype=torch.float64))
    assert_close(gradient, torch.tensor(case["grad_wrt_logp"], dtype=torch.float64))

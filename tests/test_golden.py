"""The shipped configs against numbers computed elsewhere: every credit and loss case, in float64.

The numbers follow the equations with population standard deviation and no epsilon. In `credit` the last advantage of
a row is the terminal turn's where `answered` is true; in `loss` positions outside the mask carry values that must not
matter.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from a2tgpo.method.functional import to_tokens

GOLDEN = json.loads((Path(__file__).parent / "golden" / "credit_and_loss.json").read_text())
METHOD = {
    "outcome": "z",
    "normalizer": "turn_group",
    "accumulator": "variance_rescaled",
    "combiner": "additive",
    "credit": "staged",
    "clipper": "adaptive_turn",
    "ratio": "turn",
    "surrogate": "ppo",
    "aggregation": "seq_mean_token_mean",
}
LOSS, BOUNDS = GOLDEN["loss"], GOLDEN["sequence_level_at_the_bounds"]


COMPOSED = {}
"""Composed configurations by their choices: composing takes far longer than any case here."""


@pytest.fixture
def strategies(composed):
    """`strategies({slot: file}, slot__key=value)`: the method's parts from the fully composed configuration."""

    def build(choices=None, **values):
        files = METHOD | (choices or {})
        swaps = tuple(f"model/{slot}={file}" for slot, file in files.items())
        if swaps not in COMPOSED:
            COMPOSED[swaps] = composed(*swaps)
        config = COMPOSED[swaps].copy()
        for key, value in values.items():
            OmegaConf.update(config, "model." + key.replace("__", "."), value)
        return SimpleNamespace(**{slot: instantiate(config.model[slot]) for slot in files})

    return build


def padded(rows, width):
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows], dtype=torch.float64)


def credit_batch(case):
    gains, answered = case["ig"], case["answered"]
    turns = [len(row) + last for row, last in zip(gains, answered, strict=True)]
    width, rows = max(turns), len(gains)
    position = torch.arange(width)
    return {
        "gain": padded(gains, width),
        "belief": torch.zeros(rows, width + 1, dtype=torch.float64),
        "gain_mask": position < torch.tensor([len(row) for row in gains])[:, None],
        "turn_mask": position < torch.tensor(turns)[:, None],
        "outcome": torch.tensor(case["outcome"], dtype=torch.float64),
        "group_ids": torch.zeros(rows, dtype=torch.long),
        "state_ids": torch.zeros(rows, width, dtype=torch.long),
    }


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("name", GOLDEN["credit"])
def test_advantage_of_every_credit_case(strategies, name, gamma, alpha):
    case = GOLDEN["credit"][name]
    batch = credit_batch(case)
    model = strategies(accumulator__gamma=gamma, combiner__alpha=alpha)
    normalized, advantage = model.credit(**batch)
    width = batch["gain"].shape[1]
    assert_close(normalized, padded(case["ig_hat"], width))
    assert_close(advantage, padded(case[f"advantage_gamma{gamma}_alpha{alpha}"], width))


def test_all_credit_cases_as_one_batch_of_prompts(strategies):
    batches = [credit_batch(case) for case in GOLDEN["credit"].values()]
    width = max(batch["gain"].shape[1] for batch in batches)
    for prompt, batch in enumerate(batches):
        batch["group_ids"] += prompt
        for key in ("gain", "gain_mask", "turn_mask", "state_ids", "belief"):
            extra = width - batch[key].shape[1] + (key == "belief")
            batch[key] = torch.nn.functional.pad(batch[key], (0, extra))
    together = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    _, advantage = strategies().credit(**together)
    expected = [row for case in GOLDEN["credit"].values() for row in case["advantage_gamma1.0_alpha1.0"]]
    assert_close(advantage, padded(expected, width))


@pytest.mark.parametrize("name", GOLDEN["credit"])
def test_outcome_hat_and_clip_bounds(strategies, name):
    case, model = GOLDEN["credit"][name], strategies(clipper__beta=0.3)
    batch = credit_batch(case)
    outcome = batch["outcome"][:, None]
    outcome_hat = model.outcome(outcome, torch.ones_like(outcome, dtype=torch.bool), batch["group_ids"])
    assert_close(outcome_hat[:, 0], torch.tensor(case["outcome_hat"], dtype=torch.float64))

    normalized, _ = model.credit(**batch)
    low, high = model.clipper(normalized)
    scale = padded(case["clip_scale_beta0.3"], normalized.shape[1])
    assert_close(torch.where(batch["turn_mask"], low / 0.003, 0), scale)
    assert_close(torch.where(batch["turn_mask"], high / 0.004, 0), scale)


def per_turn(per_token, turn_ids):
    """Value of each turn, read off its first token; 0 where a row has no such turn."""
    rows = [[0.0] * (int(turn_ids.max()) + 1) for _ in per_token]
    for row, values, ids in zip(rows, per_token, turn_ids.tolist(), strict=True):
        for turn in set(ids) - {-1}:
            row[turn] = float(values[ids.index(turn)])
    return torch.tensor(rows, dtype=torch.float64)


def loss_and_gradient(model, delta, advantage, normalized):
    """The training step's arithmetic on one mini-batch; log-probs are `delta` above the old ones."""
    turn_ids = torch.tensor(LOSS["turn_id"])
    old = torch.linspace(-3, -0.1, turn_ids.numel(), dtype=torch.float64).view_as(turn_ids)
    logprobs = (old + torch.tensor(delta, dtype=torch.float64)).requires_grad_()
    low, high = (to_tokens(bound, turn_ids) for bound in model.clipper(normalized))
    log_ratio = model.ratio(logprobs, old, turn_ids)
    tokens = model.surrogate(log_ratio, logprobs, to_tokens(per_turn(advantage, turn_ids), turn_ids), low, high)
    loss = (model.aggregation(turn_ids) * tokens).sum()
    loss.backward()
    return loss.detach(), logprobs.grad


@pytest.mark.parametrize("name", LOSS["results"])
def test_loss_and_gradient_of_every_loss_case(strategies, name):
    ratio, aggregation, adaptive = name.split("|")
    clip = {"clipper__eps_low": LOSS["eps_low"], "clipper__eps_high": LOSS["eps_high"]}
    clipper = "fixed"
    if adaptive == "adaptive=True":
        clipper, clip["clipper__beta"] = "adaptive_turn", LOSS["beta"]
    model = strategies({"ratio": ratio, "aggregation": aggregation.replace("-", "_"), "clipper": clipper}, **clip)
    normalized = torch.tensor(
        [[value or 0.0 for value in row] for row in LOSS["ig_hat(None=answer)"]], dtype=torch.float64
    )
    loss, gradient = loss_and_gradient(model, LOSS["delta_logp"], LOSS["advantage"], normalized)
    expected = LOSS["results"][name]
    assert_close(loss, torch.tensor(expected["loss"], dtype=torch.float64))
    assert_close(gradient, torch.tensor(expected["grad_wrt_logp"], dtype=torch.float64))


@pytest.mark.parametrize("side", ["clipped", "not_clipped"])
def test_sequence_ratio_at_the_bounds(strategies, side):
    case = BOUNDS[side]
    model = strategies({"ratio": "sequence", "clipper": "fixed"}, clipper__eps_low=0.003, clipper__eps_high=0.004)
    normalized = torch.zeros(2, 2, dtype=torch.float64)
    loss, gradient = loss_and_gradient(model, BOUNDS["delta_logp"], case["advantage"], normalized)
    assert_close(loss, torch.tensor(case["loss"], dtype=torch.float64))
    assert_close(gradient, torch.tensor(case["grad_wrt_logp"], dtype=torch.float64))

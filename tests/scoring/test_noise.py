"""Arithmetic in float32 on weights of any precision, and the rounding error of gains that is measured with it."""

import copy
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

from a2tgpo.method.method import PAPER
from a2tgpo.policies.policy import Policy
from a2tgpo.scoring.float32 import computes_in_float32, float32_arithmetic
from a2tgpo.scoring.noise import log_gain_noise
from a2tgpo.scoring.score import score
from tests.helpers.build import build_trajectory
from tests.helpers.model_zoo import ARCHITECTURES, build
from tests.helpers.observed import from_beliefs
from tests.helpers.shipped import pretrained_policy

WRAPPER = ("<think> done</think><answer> ", "</answer>")
SEARCH, OTHER, ANSWER = "<search> director of Bemi</search>", "<search> star of Bemi</search>", "<answer> Varo</answer>"
FOUND, NOTHING = "<result> The director of Bemi is Varo Tano.</result>", "<result> Nothing was found.</result>"
MIXED = lambda: torch.autocast("cpu", dtype=torch.bfloat16)  # noqa: E731
PRECISIONS = {"float32": nullcontext, "bfloat16 weights": nullcontext, "autocast": MIXED}


@pytest.fixture
def trajectories(random_policy):
    first = {"answers": ("Varo Tano",), "prompt": "Question: What is the director of Bemi?"}
    return [
        build_trajectory(random_policy, [ANSWER], [], sample=0, **first),
        build_trajectory(random_policy, [SEARCH, OTHER, ANSWER], [FOUND, NOTHING], sample=1, **first),
        build_trajectory(random_policy, [SEARCH, SEARCH], [FOUND, FOUND], sample=2, **first),
    ]


def at(precision, policy):
    """A copy of `policy` with weights of that precision."""
    model = copy.deepcopy(policy.model)
    return Policy(model.bfloat16() if precision == "bfloat16 weights" else model, policy.tokenizer)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bfloat16_weights_compute_as_the_same_weights_in_float32(tmp_path, kind, attention):
    policy = pretrained_policy(build(kind, tmp_path), attn_implementation=attention)
    adapter = LoraConfig(target_modules="all-linear", init_lora_weights=False)  # its weights stay float32
    low = get_peft_model(policy.model.bfloat16(), adapter)
    exact = copy.deepcopy(low).float()
    ids = torch.arange(5, 45).view(2, 20)
    with torch.no_grad():
        cache, same = DynamicCache(), DynamicCache()
        low(ids, past_key_values=cache)
        for layer in cache.layers:
            same.update(layer.keys.float(), layer.values.float(), len(same.layers))
        with float32_arithmetic(Policy(low, policy.tokenizer)):
            logits = low(ids[:, :7], past_key_values=cache).logits
        expected = exact(ids[:, :7], past_key_values=same).logits
    assert logits.dtype == torch.float32
    rounding = 2e-3 if kind == "deepseek" else 2e-5  # transformers brings what experts read to their precision
    torch.testing.assert_close(logits, expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_who_computes_in_float32(random_policy, precision):
    policy = at(precision, random_policy)
    with PRECISIONS[precision]():
        assert computes_in_float32(policy) == (precision == "float32")
        with float32_arithmetic(policy):
            assert not torch.is_autocast_enabled("cpu")


@pytest.mark.slow
def test_what_is_compiled_computes_in_float32_too(tmp_path):
    policy = pretrained_policy(build("qwen3", tmp_path), compile=True)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        exact = policy.model(ids).logits
        with MIXED():
            low = policy.model(ids).logits
            with float32_arithmetic(policy):
                raised = policy.model(ids).logits
    assert float((low - exact).abs().max()) > 1e-3
    torch.testing.assert_close(raised, exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_noise_is_what_the_log_gains_of_a_float32_pass_differ_by(random_policy, trajectories, precision):
    policy = at(precision, random_policy)
    exact = Policy(copy.deepcopy(policy.model).float(), policy.tokenizer)
    answers = PAPER.signal.answers
    with PRECISIONS[precision]():
        scored = score(policy, trajectories, answers, WRAPPER, 4096)
        noise = log_gain_noise(policy, scored, 64)
    known = score(exact, trajectories, answers, WRAPPER, 4096).observed.answer_logprob[..., 0]
    found = scored.observed.answer_logprob[..., 0]
    error = [float((found - known)[row, :3].diff()[turn]) for row in (1, 2) for turn in (0, 1)]
    assert noise == pytest.approx(math.sqrt(sum(e * e for e in error) / 4), abs=1e-5)
    assert (noise > 1e-4) == (precision != "float32")


def test_without_gains_nothing_is_measured(random_policy, trajectories):
    policy = at("bfloat16 weights", random_policy)
    for some, answers in ((trajectories[:1], PAPER.signal.answers), (trajectories, lambda task: ())):
        assert log_gain_noise(policy, score(policy, some, answers, WRAPPER, 4096), 4096) is None


def test_a_gain_in_probabilities_is_as_uncertain_as_its_larger_belief():
    belief = torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.1, 0.2], [0.5, 0.6, 0.6]])
    states = torch.tensor([[True, False, False], [True] * 3, [True] * 3])
    observed = replace(from_beliefs(belief, states), log_gain_noise=0.1)
    noise = PAPER.signal(observed).noise
    torch.testing.assert_close(noise, torch.tensor([[0.0, 0.0], [0.05, 0.02], [0.06, 0.06]]), rtol=0, atol=1e-7)
    in_nats = replace(PAPER.signal, gain="log_prob")(observed)
    assert torch.equal(in_nats.noise, torch.where(in_nats.gain_mask, 0.1, 0.0))


def test_a_group_within_its_noise_has_no_credit(random_policy, trajectories):
    scored = score(random_policy, trajectories, PAPER.signal.answers, WRAPPER, 4096)
    loud = PAPER.assign(replace(scored.observed, log_gain_noise=1e3))
    assert PAPER.assign(scored.observed).normalized_gain.any() and not loud.normalized_gain.any()
    assert torch.equal(loud.gain, PAPER.assign(scored.observed).gain)

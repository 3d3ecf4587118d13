"""Whatever a model keeps of what it has read: beliefs are those of a forward per prefix, and samples its own."""

import asyncio
import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from a2tgpo.embedded.tokenizer import build_tokenizer
from a2tgpo.engines.huggingface import HuggingFaceEngine
from a2tgpo.policies.cached_forward import with_way_to_read
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.protocols import Sampling
from a2tgpo.scoring.beliefs import encode_answer
from a2tgpo.scoring.noise import log_gain_noise
from a2tgpo.scoring.score import score
from tests.helpers.architectures import REFUSED, SERVED, WAYS, found_way, table, tiny_model
from tests.helpers.build import build_trajectory

DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "models_and_data.md"
ONE_OF_A_KIND = {"gemma3_text", "qwen3_5_text", "lfm3", "falcon_h1", "bloom", "llama4_text", "deepseek_v32"}
ONE_OF_A_KIND |= {"jamba", "mamba", "rwkv"}
WRAPPER = ("<think> done</think><answer> ", "</answer>")
SEARCH, OTHER = "<think> I need Bemi</think><search> Bemi</search>", "<search> Kelu of Varo</search>"
FOUND, NOTHING = "<result> Bemi: the director of Bemi is Varo.</result>", "<result> nothing</result>"
ANSWER = "<answer> Varo Tano</answer>"


def some(kinds):
    """All of them; those that are not one of a kind are slow together."""
    return [pytest.param(kind, marks=[] if kind in ONE_OF_A_KIND else pytest.mark.slow) for kind in kinds]


def policy_of(kind):
    tokenizer = build_tokenizer()
    policy = with_way_to_read(Policy(tiny_model(kind, vocab_size=len(tokenizer)), tokenizer))
    assert kind in WAYS[policy.reads]
    return policy


def logprobs_of(policy, ids):
    """[L − 1]: log-prob of each token after those before it, from a forward over `ids` alone."""
    with torch.no_grad():
        logprobs = policy.model(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
    return logprobs[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def belief(policy, context, answer):
    """Mean log-prob of the answer's tokens behind `context`."""
    encoded = encode_answer(policy.tokenizer, answer, WRAPPER)
    ids = [*context, *encoded.ids]
    return logprobs_of(policy, ids)[len(context) + encoded.start - 1 :].mean()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.fixture(params=some(SERVED))
def policy(request):
    return policy_of(request.param)


@pytest.fixture
def trajectories(policy):
    """Two groups of unlike lengths, whose members begin alike."""
    first, second = {"answers": ("Varo Tano", "Tano")}, {"answers": ("Kelu", "The director of Kelu"), "group": 3}
    second["prompt"] = "Question: What is the birthplace of the director of Bemi?"
    return [
        build_trajectory(policy, [SEARCH, OTHER, ANSWER], [FOUND, NOTHING], sample=0, **first),
        build_trajectory(policy, [SEARCH, SEARCH], [FOUND, FOUND], sample=1, **first),
        build_trajectory(policy, [ANSWER], [], sample=2, **first),
        build_trajectory(policy, [OTHER, SEARCH, ANSWER], [NOTHING, FOUND], sample=0, **second),
    ]


def test_beliefs_equal_a_forward_per_prefix_and_padding_moves_no_log_prob(policy, trajectories):
    scored = score(policy, trajectories, lambda task: task.answers, WRAPPER, token_budget=150)
    for row, trajectory in enumerate(trajectories):
        ids = trajectory.token_ids
        for state, length in enumerate(trajectory.context_lengths):
            expected = torch.stack([belief(policy, ids[:length], answer) for answer in trajectory.task.answers])
            close(scored.observed.answer_logprob[row, state, : len(expected)], expected)
        actions = scored.batch.turn_ids[row] >= 0
        close(scored.batch.old_logprobs[row, actions], logprobs_of(policy, ids)[actions[1 : len(ids)]])


@pytest.mark.slow
def test_beliefs_in_bfloat16_are_those_of_float32_but_for_rounding(policy, trajectories):
    low = replace(policy, model=copy.deepcopy(policy.model).bfloat16())
    exact = replace(policy, model=copy.deepcopy(low.model).float())
    found, known = (score(p, trajectories, lambda task: task.answers, WRAPPER, token_budget=150) for p in (low, exact))
    torch.testing.assert_close(found.observed.answer_logprob, known.observed.answer_logprob, rtol=0, atol=0.3)
    assert 1e-5 < log_gain_noise(low, found, 150) < 0.1


def test_samples_are_those_of_generate_with_the_log_probs_of_scoring(policy):
    """Three turns, of texts that differ in length from the start and drift further apart."""
    engine = HuggingFaceEngine(max_sessions=64, deterministic=False)  # its sessions wait for each other
    texts = [[7, 8, 9, 10, 11], [7, 8, 9, 10, 11], [30, 31], [40]]
    results = [[[], [], [], []], [[12, 13, 14], [15], [16, 17, 18], [19, 20]], [[21], [22], [23], [24]]]
    engine.sync(policy)
    policy.model.generation_config.eos_token_id = policy.tokenizer.eos_token_id

    async def play():
        sessions = [*await engine.open(texts[0], 2), *await engine.open(texts[2], 1), *await engine.open(texts[3], 1)]
        contexts = [list(text) for text in texts]
        for turn, result in enumerate(results):
            samplings = [Sampling(5, ("@@@",), True, (turn, row)) for row in range(4)]
            calls = zip(sessions, result, samplings, strict=True)
            completions = await asyncio.gather(*(engine.extend(*call) for call in calls))
            for context, new, completion in zip(contexts, result, completions, strict=True):
                context += new
                ids = torch.tensor([context])
                greedy = {"do_sample": False, "max_new_tokens": 5, "attention_mask": torch.ones_like(ids)}
                expected = policy.model.generate(ids, **greedy)[0, len(context) :]
                assert list(completion.ids) == expected.tolist()
                context += completion.ids
                close(torch.tensor(completion.logprobs), logprobs_of(policy, context)[-len(completion.ids) :])

    asyncio.run(play())


@pytest.mark.parametrize("kind", some(REFUSED))
def test_what_reads_otherwise_from_a_cache_than_without_is_refused(kind):
    assert re.match(rf"a {kind} model (predicts otherwise|does not run) .*; expected a causal", found_way(kind))


@pytest.mark.slow
def test_the_documented_table_is_what_is_found():
    lines = table({kind: found_way(kind) for kind in SERVED | REFUSED})
    assert "\n".join(lines) in DOCUMENTED.read_text()
    assert sum(len(kinds) for kinds in WAYS.values()) >= 50

"""SmolLM2 in bf16: the first ratio is 1, and rounding gives no credit."""

import copy
import json
import random
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from a2tgpo.method.method import PAPER
from a2tgpo.method.normalizers.turn_group import TurnGroup
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.chat_template import encode_prompt
from a2tgpo.rollouts.protocols import Chat
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory, Turn
from a2tgpo.scoring.noise import log_gain_noise
from a2tgpo.scoring.score import score
from tests.helpers.shipped import pretrained_policy
from tests.helpers.tiny_runs import fit

WRAPPER = ("<answer>", "</answer>")
RESULT = "\n\n<information>Doc 1(Title: {name}) The capital of {name} is {capital}.</information>\n\n"
COUNTRIES = {
    "Kenya": "Nairobi", "Peru": "Lima", "Norway": "Oslo", "Egypt": "Cairo", "Cuba": "Havana", "Fiji": "Suva",
    "Ghana": "Accra", "Nepal": "Kathmandu", "Qatar": "Doha", "Chad": "N'Djamena", "Laos": "Vientiane", "Mali": "Bamako",
}  # fmt: skip
MIXED = lambda: torch.autocast("cpu", dtype=torch.bfloat16)  # noqa: E731
PRECISIONS = {"bf16-mixed": (torch.float32, MIXED), "bf16 weights": (torch.bfloat16, nullcontext)}


@pytest.fixture(scope="module")
def policy(smollm2):
    torch.set_num_threads(2)
    return pretrained_policy(smollm2, gradient_checkpointing=False)


@pytest.fixture(scope="module")
def trajectories(policy):
    """Of each question four: the country's document first, second, or never; all others are about other countries."""

    def ids(text):
        return tuple(policy.tokenizer(text, add_special_tokens=False).input_ids)

    rng, made = random.Random(0), []
    for group, (country, capital) in enumerate(COUNTRIES.items()):
        task = Task(country, f"What is the capital of {country}?", (capital,))
        prompt = encode_prompt(policy, Chat(({"role": "user", "content": task.question},), template={}), task.question)
        other = rng.sample([name for name in COUNTRIES if name != country], 6)
        found = ((country, other[0]), (other[1], country), (other[2], other[3]), (other[4], other[5]))
        for sample, names in enumerate(found):
            turns = [
                Turn(
                    action := ids(f"<search> capital of {name} </search>"),
                    (0.0,) * len(action),
                    ids(RESULT.format(name=name, capital=COUNTRIES[name])),
                )
                for name in names
            ]
            made.append(Trajectory(task, group, sample, prompt, tuple(turns), 1.0, StopReason.MAX_TURNS))
    return made


def observe(policy, trajectories, precision):
    """What a signal sees, with the measured noise."""
    with precision():
        scored = score(policy, trajectories, PAPER.signal.answers, WRAPPER, 4096)
        return replace(scored.observed, log_gain_noise=log_gain_noise(policy, scored, 4096))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_credit_in_bf16_is_that_of_float32_but_for_what_rounding_hides(policy, trajectories, precision):
    dtype, computing = PRECISIONS[precision]
    low = Policy(copy.deepcopy(policy.model).to(dtype), policy.tokenizer)
    seen = observe(low, trajectories, computing)
    exact = observe(Policy(copy.deepcopy(low.model).float(), policy.tokenizer), trajectories, nullcontext)
    assert 0.005 < seen.log_gain_noise < 0.2 and exact.log_gain_noise == 0
    for gain in ("prob", "log_prob"):
        method = replace(PAPER, signal=replace(PAPER.signal, gain=gain))
        found, known = method.assign(seen), method.assign(exact)
        mask = found.gain_mask
        flipped = (found.normalized_gain * known.normalized_gain < 0)[mask].float().mean()
        error = (found.normalized_gain - known.normalized_gain)[mask].abs().mean()
        flat = (found.normalized_gain == 0)[mask].float().mean()
        print(f"{precision}, {gain}: noise {seen.log_gain_noise:.4f} nats, |îg| off by {error:.3f}, 0 in {flat:.1%}")
        assert flipped <= 0.005 and error <= 0.1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_turns_that_were_scored_in_other_batches_get_no_credit(policy, trajectories, precision):
    dtype, computing = PRECISIONS[precision]
    low = Policy(copy.deepcopy(policy.model).to(dtype), policy.tokenizer)
    groups = [trajectories[i : i + 4] for i in range(0, 16, 4)]
    with computing():
        scored = score(low, trajectories[:16], PAPER.signal.answers, WRAPPER, 4096)
        noise = log_gain_noise(low, scored, 4096)
        found = [
            score(low, group[:n], PAPER.signal.answers, WRAPPER, 4096).observed.answer_logprob[:1]
            for group in groups
            for n in (1, 2, 3, 4)
        ]
    copies = replace(scored.observed, answer_logprob=torch.cat(found), log_gain_noise=noise)
    assert not PAPER.assign(copies).normalized_gain.any()
    blind = replace(PAPER, credit=replace(PAPER.credit, normalizer=TurnGroup(resolution=0.0)))
    assert blind.assign(copies).normalized_gain.any()  # rounding is there


SETTINGS = {
    "LoRA on bf16 weights": (
        "model/policy=pretrained_lora",
        "model/reference=disabled_adapter",
        "model.policy.dtype=bfloat16",
        "trainer.precision=32-true",
    ),
    "all weights, bf16-mixed": ("model/policy=pretrained", "model/reference=none", "trainer.precision=bf16-mixed"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_first_ratio_is_one_at_a_learning_rate_of_zero(composed, smollm2, tmp_path, name):
    """Two optimizer steps over one rollout set, at the clip range of the paper."""
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"id": c, "contents": f"The capital of {c} is {COUNTRIES[c]}."}) + "\n" for c in COUNTRIES)
    )
    (tmp_path / "questions.jsonl").write_text(
        "".join(
            json.dumps({"question": f"What is the capital of {c}?", "golden_answers": [COUNTRIES[c]]}) + "\n"
            for c in COUNTRIES
        )
    )
    own = (
        "experiment=a2tgpo_pretrained",
        "trainer=default",
        "trainer.max_epochs=1",
        f"model.policy.path={smollm2}",
        *(f"data.tasks.{split}={tmp_path}/questions.jsonl" for split in ("train", "val", "test")),
        "data/retriever=bm25",
        f"data.retriever.corpus_path={tmp_path}/corpus.jsonl",
        f"data.retriever.cache_dir={tmp_path}",
        "data/dialect=search_r1",
        "data.module.prompts_per_iteration=4",
        "data.module.mini_batch_prompts=2",
        "data.module.group_size=4",
        "data.module.max_prompt_tokens=256",
        "data.module.max_response_tokens=96",
        "data.module.max_action_tokens=32",
        "model.optimizer.lr=1e-12",
    )
    metrics = fit(composed(*own, *SETTINGS[name]), []).lightning_module.metrics
    assert metrics["update/max_log_ratio"] <= 1e-4  # of both steps
    assert metrics["update/first_step_turns_outside"] == metrics["update/clip_fraction"] == 0.0
    assert metrics["policy/rollout_gap_max"] > 1e-3  # of the engine, which reads other batches

"""The cached engine equals the obvious one, reads nothing twice, and draws by its keys alone."""

import asyncio
import copy
import math
import random
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from a2tgpo.embedded.names import ENDS
from a2tgpo.embedded.tokenizer import build_tokenizer
from a2tgpo.engines import huggingface
from a2tgpo.engines.huggingface import HuggingFaceEngine
from a2tgpo.engines.sampling import StopStringMatcher, draw, keyed_uniforms
from a2tgpo.rollouts.protocols import Sampling, StepResult
from a2tgpo.rollouts.trajectory import StopReason, Task
from a2tgpo.scoring.batch import collate
from a2tgpo.scoring.score import read
from a2tgpo.system.errors import SettingError
from tests.helpers.loops import loop
from tests.helpers.plain_engine import PlainEngine

FREQUENT_STOPS = (*(end for end in ENDS if end[1] in "ae"), "</search>")
NEVER = ("@@@@",)
QUESTIONS = ("Question: What is the director of Bemi?", "Q", "Question: What is the star?")
PROMPTS = [(group, Task(f"t{group}", question, ("x",))) for group, question in zip((0, 1, 5), QUESTIONS, strict=True)]
KEY = (3, 0, 11)


class Talk:
    """Answers three actions with texts of different lengths; the fourth ends the episode."""

    stop_strings = FREQUENT_STOPS
    deterministic = True

    def __init__(self, task, broken=False):
        self.task, self.broken, self.heard = task, broken, 0

    def prompt(self):
        return self.task.question

    def step(self, action_text):
        self.heard += 1
        if self.broken and self.heard == 2:
            raise SettingError("interrupted")
        if self.heard == 4:
            return StepResult(stop=StopReason.ANSWERED)
        return StepResult("<result>" + " Varo" * (1 + len(action_text) % 5) + "</result>")

    def state(self):
        return None

    def finish(self, stop):
        return {"success": 0.0}


@pytest.fixture
def policy(random_policy):
    return random_policy


def play(policy, engine=None, prompts=PROMPTS, group_size=3, key=KEY, greedy=False, environment=Talk):
    rollout = loop(
        engine or HuggingFaceEngine(max_sessions=64, deterministic=True), environment, max_response_tokens=150
    )
    return rollout.run(policy, prompts, group_size, key, greedy)


def assert_same(trajectories, expected):
    assert [(t.group, t.sample, t.token_ids, t.token_turns, t.stop) for t in trajectories] == [
        (t.group, t.sample, t.token_ids, t.token_turns, t.stop) for t in expected
    ]
    logprobs, wanted = (
        [p for t in ts for turn in t.turns for p in turn.action_logprobs] for ts in (trajectories, expected)
    )
    np.testing.assert_allclose(logprobs, wanted, rtol=0, atol=1e-5)


def extend_all(engine, sessions, new_ids, samplings, close=False):
    async def one(session, *call):
        completion = await engine.extend(session, *call)
        if close:
            engine.close(session)
        return completion

    async def together():
        return await asyncio.gather(*map(one, sessions, new_ids, samplings))

    return asyncio.run(together())


def open_all(engine, policy, prompts, n):
    engine.sync(policy)

    async def together():
        return [session for prompt in prompts for session in await engine.open(prompt, n)]

    return asyncio.run(together())


def samplings(limits, stop_strings=NEVER, key=0):
    return [Sampling(limit, stop_strings, False, (key, row)) for row, limit in enumerate(limits)]


def favour_end(policy, amount):
    """Make the end token more or less likely."""

    def change(module, args, out):
        out.logits[..., policy.tokenizer.eos_token_id] += amount

    policy.model.register_forward_hook(change)


@pytest.fixture
def forwards(policy):
    """Shapes of what the model was fed; actions are as long as they may be."""
    favour_end(policy, -math.inf)
    shapes = []

    def note(module, args, kwargs):
        shapes.append(tuple(args[0].shape))

    policy.model.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


# ---- Against the plain engine ----------------------------------------------------------------------------------------


WARM, NUCLEUS = {"temperature": 1.4}, {"temperature": 0.7, "top_p": 0.8}


@pytest.mark.parametrize("reads", ["block", "segments", pytest.param("tokens", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("greedy", "how"), [(True, {}), (True, NUCLEUS), (False, {}), (False, WARM), (False, NUCLEUS)])
def test_it_plays_as_the_plain_engine_does(policy, greedy, how, reads):
    policy = replace(policy, **how)
    expected = play(policy, PlainEngine(), greedy=greedy)
    assert max(len(t.turns) for t in expected) == 4
    assert_same(play(replace(policy, reads=reads), greedy=greedy), expected)


def test_eager_attention_plays_the_same(policy):
    eager = copy.deepcopy(policy)
    eager.model.set_attn_implementation("eager")
    assert eager.model.config._attn_implementation == "eager"
    assert_same(play(eager), play(policy))


@pytest.mark.parametrize("token_budget", [150, 100_000])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_sampled_logprobs_are_the_scored_ones(policy, token_budget, temperature):
    policy = replace(policy, temperature=temperature)
    batch = collate(play(policy), policy.pad_id)
    scored = read(policy, batch, [], token_budget).tokens.logprobs
    assert (scored < 0).sum() == (batch.turn_ids >= 0).sum() > 200
    torch.testing.assert_close(batch.rollout_logprobs, scored, rtol=0, atol=1e-5)


def test_logprobs_of_a_nucleus_are_above_the_scored_ones_by_at_most_its_mass(policy):
    policy = replace(policy, **NUCLEUS)
    batch = collate(play(policy), policy.pad_id)
    scored = read(policy, batch, [], 100_000).tokens.logprobs
    above = (batch.rollout_logprobs - scored)[batch.turn_ids >= 0]
    assert above.min() > -1e-5 and 0.1 < above.max() < -math.log(NUCLEUS["top_p"]) + 1e-5


def test_dropout_is_off_while_it_samples_and_the_mode_comes_back(policy):
    expected = play(policy)
    for layer in policy.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    policy.model.train()
    assert_same(play(policy), expected)
    assert policy.model.training


# ---- Noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": PROMPTS[::-1]},
        {"prompts": PROMPTS[1:2]},
        {"group_size": 2},
    ],
    ids=["another order", "one prompt alone", "a smaller group"],
)
def test_a_trajectory_depends_on_its_key_alone(policy, changes):
    expected = {(t.group, t.sample): t for t in play(policy)}
    played = play(policy, **changes)
    assert_same(played, [expected[t.group, t.sample] for t in played])


@pytest.mark.parametrize("key", [(4, 0, 11), (3, 1, 11), (3, 0, 12)])
def test_another_seed_or_iteration_plays_otherwise(policy, key):
    changed, before = play(policy, key=key), play(policy)
    assert all(a.token_ids != b.token_ids for a, b in zip(changed, before, strict=True))


def test_in_the_models_own_memory_too_a_trajectory_depends_on_its_key_alone(policy):
    own = replace(policy, reads="segments")
    expected = {(t.group, t.sample): t for t in play(own)}
    few = HuggingFaceEngine(max_sessions=3, deterministic=True)
    for changes in ({"prompts": PROMPTS[::-1]}, {"group_size": 2}, {"engine": few}):
        played = play(own, **changes)
        assert_same(played, [expected[t.group, t.sample] for t in played])


def test_samples_of_a_group_differ(policy):
    assert len({t.token_ids for t in play(policy, group_size=6)}) == 18


def test_noise_is_a_function_of_its_key():
    np.testing.assert_array_equal(keyed_uniforms((1, 2, 3), 4), keyed_uniforms((1, 2, 3), 9)[:4])
    keys = [(1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0), (3, 2, 1)]
    assert len({tuple(keyed_uniforms(key, 2)) for key in keys}) == len(keys)


def test_tokens_are_drawn_by_inverting_the_cdf():
    logits = torch.tensor([0.2, 0.3, 0.5]).log() + 7
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.49, 0.51, 0.999999], dtype=torch.float64)
    ids, logprobs = draw(logits.expand(6, 3), uniforms, greedy=False)
    assert ids.tolist() == [0, 0, 1, 1, 2, 2]
    expected = torch.tensor([0.2, 0.2, 0.3, 0.3, 0.5, 0.5]).log()
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-6)
    assert draw(logits.expand(6, 3), uniforms, greedy=True)[0].tolist() == [2] * 6


@pytest.mark.parametrize(
    ("temperature", "top_p", "probabilities"),
    [
        (1.0, 1.0, (0.1, 0.2, 0.3, 0.4)),
        (0.5, 1.0, (1 / 30, 4 / 30, 9 / 30, 16 / 30)),  # squares
        (1.0, 0.65, (0.0, 0.0, 3 / 7, 4 / 7)),
        (1.0, 0.75, (0.0, 2 / 9, 3 / 9, 4 / 9)),
        (0.5, 0.6, (0.0, 0.0, 9 / 25, 16 / 25)),  # of the distribution at the temperature
        (1.0, 1e-9, (0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_temperature_and_top_p_by_hand(temperature, top_p, probabilities):
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log() - 3
    uniforms = torch.arange(1000, dtype=torch.float64) / 1000  # with 0, on the border of what is left out
    ids, logprobs = draw(logits.expand(1000, 4), uniforms, False, temperature, top_p)
    shares = torch.bincount(ids, minlength=4) / 1000
    torch.testing.assert_close(shares, torch.tensor(probabilities), rtol=0, atol=2e-3)
    expected = torch.tensor(probabilities, dtype=torch.float64).log().float()[ids]
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-6)


def test_temperature_1_and_all_tokens_are_the_plain_draw_bit_for_bit():
    torch.manual_seed(0)
    logits, uniforms = 10 * torch.randn(64, 500), torch.rand(64, dtype=torch.float64)
    logprobs = logits.log_softmax(-1)
    cdf = logprobs.double().exp().cumsum(-1)
    ids = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:])
    drawn, found = draw(logits, uniforms, False, 1.0, 1.0)
    assert torch.equal(drawn[:, None], ids) and torch.equal(found[:, None], logprobs.gather(-1, ids))


# ---- What is read ----------------------------------------------------------------------------------------------------


def test_prompts_are_read_once_and_history_never_again(policy, forwards):
    engine, prompts = HuggingFaceEngine(max_sessions=64, deterministic=True), [range(10, 20), range(30, 33)]
    sessions = open_all(engine, policy, prompts, n=3)
    for turn, result in enumerate([(), (40, 41, 42, 43, 44)]):
        completions = extend_all(engine, sessions, [result] * 6, samplings([4] * 6, key=turn))
        assert {c.finish for c in completions} == {"length"}
    first, second = [(6, 1)] * 4, [(6, 1 + 5)] + [(6, 1)] * 3
    assert forwards == [(2, 9), *first, *second]


@pytest.mark.parametrize("reads", ["block", "segments", pytest.param("tokens", marks=pytest.mark.slow)])
def test_an_episode_reads_its_prompt_once_and_every_later_token_but_the_last_once(policy, forwards, reads):
    engine, prompt, group, tokens, result = (
        HuggingFaceEngine(max_sessions=64, deterministic=True),
        range(10, 30),
        4,
        5,
        (40, 41, 42),
    )
    sessions = open_all(engine, replace(policy, reads=reads), [prompt], n=group)
    for turn in range(3):
        extend_all(engine, sessions, [result if turn else ()] * group, samplings([tokens] * group, key=turn))
    read = sum(height * width for height, width in forwards)
    assert read == (len(prompt) - 1) + group * (1 + 3 * tokens + 2 * len(result) - 1)


@pytest.mark.parametrize(
    ("limits", "heights"),
    [((2, 2, 2, 6), [4, 4, 1, 1, 1, 1]), ((2, 6, 6, 6), [4] * 6), ((1, 3, 3, 5), [4, 4, 4, 1, 1])],
)
def test_finished_rows_leave_the_batch_once_they_are_many(policy, forwards, limits, heights):
    engine = HuggingFaceEngine(max_sessions=64, deterministic=True)
    sessions = open_all(engine, policy, [range(10, 20)], n=4)
    completions = extend_all(engine, sessions, [()] * 4, samplings(limits), close=True)
    assert [len(c.ids) for c in completions] == list(limits)
    assert [height for height, _ in forwards[1:]] == heights


def test_an_action_in_two_parts_is_that_of_one(policy):
    def sample(limits):
        engine = HuggingFaceEngine(max_sessions=64, deterministic=True)
        sessions = open_all(engine, policy, [(1, 2, 3), (4, 5, 6, 7, 8)], 1)
        greedy = [[replace(s, greedy=True) for s in samplings([limit] * 2)] for limit in limits]
        parts = [extend_all(engine, sessions, [()] * 2, sampling) for sampling in greedy]
        return [sum((part.ids for part in action), ()) for action in zip(*parts, strict=True)]

    whole = sample([12])
    assert sample([5, 7]) == sample([1, 10, 1]) == whole and [len(ids) for ids in whole] == [12, 12]


def test_an_interrupted_rollout_leaves_the_engine_usable(policy):
    engine = HuggingFaceEngine(max_sessions=64, deterministic=True)
    with pytest.raises(SettingError, match="interrupted"):
        play(policy, engine, environment=lambda task: Talk(task, broken=task.task_id == "t1"))
    assert_same(play(policy, engine), play(policy))


def test_a_policy_that_gives_nan_samples_nothing(policy):
    with torch.no_grad():
        policy.model.model.norm.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="the policy's log-probs are NaN, so its weights are; expected"):
        play(policy)


# ---- Who is sampled together -----------------------------------------------------------------------------------------


class Recorded(HuggingFaceEngine):
    """Notes how many rows each step had, and the most sessions that were under way."""

    def __init__(self, **how):
        super().__init__(**({"max_sessions": 64, "deterministic": True} | how))
        self.batches, self.most = [], 0

    def _step(self, batch, rows):
        self.batches.append([row.sampling.key for row in rows])
        self.most = max(self.most, sum(session.begun for session in self._open))
        super()._step(batch, rows)


class Slow(Talk):
    """Tools take a few milliseconds, in no order."""

    def step(self, action_text):
        time.sleep(random.random() / 100)
        return super().step(action_text)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("max_sessions", [1, 4, 7, 9])
def test_no_more_are_under_way_than_allowed_and_it_changes_nothing(policy, deterministic, max_sessions):
    engine = Recorded(max_sessions=max_sessions, deterministic=deterministic)
    assert_same(play(policy, engine, environment=Slow), play(policy))
    assert engine.most == max_sessions and max(map(len, engine.batches)) <= max_sessions


def test_deterministic_batches_depend_on_no_clock(policy):
    engines = [Recorded(max_sessions=5) for _ in range(3)]
    for engine, environment in zip(engines, (Talk, Slow, Slow), strict=True):
        play(policy, engine, environment=environment)
    assert engines[0].batches == engines[1].batches == engines[2].batches


def test_a_slow_tool_holds_up_nobody_else(policy):
    """One tool waits until all other episodes are over."""
    over, all_but_one = [], threading.Event()

    class Patient(Talk):
        def step(self, action_text):
            if self.task.task_id == "t1" and self.heard == 0:
                assert all_but_one.wait(30)
            return super().step(action_text)

        def finish(self, stop):
            over.append(self.task.task_id)
            if len(over) == len(PROMPTS) - 1:
                all_but_one.set()
            return super().finish(stop)

    engine = Recorded(deterministic=False)
    assert_same(play(policy, engine, group_size=1, environment=Patient), play(policy, group_size=1))
    assert over[-1] == "t1" and engine.usage.idle > 0


def test_of_the_places_those_of_unfinished_rows_are_taken(policy, forwards):
    engine = Recorded()
    sessions = open_all(engine, policy, [range(10, 20)], n=4)
    extend_all(engine, sessions, [()] * 4, samplings((4, 4, 4, 2)))  # the first token comes with reading
    assert [len(batch) for batch in engine.batches] == [4, 4, 4]
    assert (engine.usage.places, engine.usage.taken) == (12, 10)
    assert engine.take_usage()["engine/places_taken"] == 10 / 12 and engine.usage.places == 0


def test_the_place_of_a_closed_session_is_taken(policy, forwards):
    engine = Recorded(max_sessions=3)
    sessions = open_all(engine, policy, [range(10, 20)], n=4)
    extend_all(engine, sessions, [()] * 4, samplings((4, 4, 2, 2)), close=True)
    assert [[row for _, row in batch] for batch in engine.batches] == [[0, 1, 2], [0, 1, 3], [0, 1]]
    assert forwards == [(1, 9), (3, 1), (3, 1), (1, 1), (3, 1), (2, 1)]


@pytest.mark.parametrize("reads", ["block", "segments"])
def test_long_texts_are_read_in_portions(policy, forwards, monkeypatch, reads):
    expected, whole = play(policy), list(forwards)
    forwards.clear()
    monkeypatch.setattr(huggingface, "PREFILL_POSITIONS", 30)
    assert_same(play(replace(policy, reads=reads)), expected)
    assert max(height * width for height, width in forwards) <= 30 < max(h * w for h, w in whole)


# ---- Where an action ends --------------------------------------------------------------------------------------------


def sample_many(policy, stop_strings, max_tokens=12):
    engine = HuggingFaceEngine(max_sessions=64, deterministic=True)
    sessions = open_all(engine, policy, [range(10, 20)], n=32)
    return extend_all(engine, sessions, [()] * 32, samplings([max_tokens] * 32, stop_strings), close=True)


def test_a_token_that_overshoots_the_stop_text_is_kept_whole(policy):
    decode, stop = policy.tokenizer.decode, "e"
    stopped = [c.ids for c in sample_many(policy, (stop,)) if c.finish == "stop"]
    assert all(stop in decode(ids) and stop not in decode(ids[:-1]) for ids in stopped)
    assert any(not decode(ids).endswith(stop) for ids in stopped)
    assert any(decode(ids).endswith(stop) for ids in stopped)


def test_a_stop_text_may_be_spread_over_tokens():
    tokenizer = build_tokenizer()
    ids = [tokenizer.convert_tokens_to_ids(piece) for piece in ("▁Va", "ro", "▁of")]
    assert [StopStringMatcher(tokenizer, ("aro o",)).complete(ids[: n + 1]) for n in range(3)] == [False, False, True]


def test_the_end_token_ends_an_action_and_is_kept(policy):
    eos = policy.tokenizer.eos_token_id
    favour_end(policy, 4.0)
    completions = sample_many(policy, NEVER)
    ended = [c.ids for c in completions if c.finish == "eos"]
    assert len(ended) > 5 and all(ids[-1] == eos and eos not in ids[:-1] for ids in ended)
    assert all(eos not in c.ids and len(c.ids) == 12 for c in completions if c.finish == "length")


def test_an_action_without_an_end_is_cut_at_its_limit(policy):
    favour_end(policy, -math.inf)
    assert {(c.finish, len(c.ids), len(c.logprobs)) for c in sample_many(policy, NEVER, 3)} == {("length", 3, 3)}


TOKENIZER = build_tokenizer()
ASCII = st.sampled_from(
    [i for i, t in enumerate(TOKENIZER.batch_decode([[i] for i in range(len(TOKENIZER))])) if t.isascii()]
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(ASCII, min_size=1, max_size=12),
    st.sets(st.sampled_from(["a", "of", "o V", "h>", "</search>"]), min_size=1),
)
def test_the_watcher_stops_at_the_first_token_that_completes_a_stop_text(ids, stop_strings):
    watcher = StopStringMatcher(TOKENIZER, tuple(stop_strings))
    texts = [TOKENIZER.decode(ids[: n + 1]) for n in range(len(ids))]
    naive = next((n for n, text in enumerate(texts) if any(stop in text for stop in stop_strings)), None)
    assert next((n for n in range(len(ids)) if watcher.complete(ids[: n + 1])), None) == naive

"""The multi-turn loop, played by written actions in the real search environment: what is kept, and how it ends."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from a2tgpo.engines.scripted import ScriptedEngine
from a2tgpo.retrievers.bm25 import BM25Retriever
from a2tgpo.rollouts.protocols import Completion, StepResult
from a2tgpo.rollouts.tool_health import ToolHealth
from a2tgpo.rollouts.trajectory import Call, CallResult, StopReason, Task, Trajectory, Turn
from a2tgpo.scoring.batch import collate
from a2tgpo.system.errors import SettingError
from tests.helpers.episodes import SEARCH as SEARCH_TOOL
from tests.helpers.episodes import search_qa as search_environment
from tests.helpers.loops import loop
from tests.helpers.shipped import examples, text_tags

PASSAGES = ("The director of Bemi is Varo Tano.", "The birthplace of Varo Tano is Kelu.")
TASK = Task("t", "What is the director of Bemi?", ("Varo Tano",), corpus="films")
SEARCH = "<think> need director</think><search> director of Bemi</search>"
ANSWER = "<think> done</think><answer> Varo Tano</answer>"
KEY = (7, 1)


class RecordingEngine(ScriptedEngine):
    """Remembers what it sampled and read, by sampling key."""

    def __init__(self, script):
        super().__init__(script)
        self.sampled, self.read, self.limits, self.opened = {}, {}, {}, 0

    async def open(self, prompt_ids, n):
        self.opened += n
        return await super().open(prompt_ids, n)

    async def extend(self, session, new_ids, sampling):
        completion = await super().extend(session, new_ids, sampling)
        self.sampled[sampling.key] = completion
        self.read[sampling.key] = tuple(new_ids)
        self.limits[sampling.key] = sampling.max_tokens
        return completion

    def action(self, key):
        """All that was sampled for the action of this key, in one or several parts."""
        parts = [part for other, part in self.sampled.items() if other[: len(key)] == key]
        ids, logprobs = (sum((getattr(part, name) for part in parts), ()) for name in ("ids", "logprobs"))
        return Completion(ids, logprobs, parts[-1].finish)


@dataclass
class Echo:
    """An environment that says `observation` to everything."""

    observation: str
    stop_strings: tuple[str, ...] = ("</search>",)
    deterministic: bool = True

    def prompt(self):
        return "Question:"

    def step(self, action_text):
        return StepResult(self.observation)

    def state(self):
        return None

    def finish(self, stop):
        return {"success": 0.0}


def search_qa(retriever=None):
    retriever = retriever or BM25Retriever({"films": PASSAGES}.__getitem__)
    return search_environment(text_tags("Question: {question}", ("<answer> ", "</answer>")), retriever)


def play(policy, script, prompts=((0, TASK),), group_size=1, environment=None, **limits):
    engine = RecordingEngine(script if callable(script) else lambda key: script)
    return loop(engine, environment or search_qa(), **limits).run(
        policy, prompts, group_size, KEY, greedy=False
    ), engine


def encode(policy, text):
    return tuple(policy.tokenizer(text, add_special_tokens=False).input_ids)


class Broken:
    def search(self, query, topk, corpus=""):
        raise RuntimeError("down")


# ---- How an episode ends ---------------------------------------------------------------------------------------------

ENDS = [
    (StopReason.ANSWERED, [SEARCH, ANSWER], [True, False], 1.0, None),
    (StopReason.ANSWERED, ["<answer> Kelu</answer>"], [False], 0.0, None),
    (StopReason.MAX_TURNS, [SEARCH] * 3, [True, True, False], -1.0, None),
    (StopReason.MAX_TOKENS, [SEARCH, "<think>" + " need" * 60], [True, False], -1.0, None),
    (StopReason.INVALID_ACTION, [SEARCH, "need director"], [True, False], -1.0, None),
    (StopReason.TOOL_FAILURE, [SEARCH] * 2, [True, True], -1.0, Broken()),
]


@pytest.mark.parametrize(("stop", "script", "process", "outcome", "retriever"), ENDS)
def test_every_stop_reason(random_policy, stop, script, process, outcome, retriever):
    (trajectory,), _ = play(random_policy, script, environment=search_qa(retriever))
    assert trajectory.stop is stop
    assert [turn.is_process for turn in trajectory.turns] == process
    assert trajectory.outcome == outcome
    assert trajectory.metrics["calls"] == min(2, script.count(SEARCH))


def test_a_cut_action_counts_for_nothing_even_if_it_holds_an_answer(random_policy):
    cut = len(encode(random_policy, ANSWER)) + 1
    (trajectory,), _ = play(random_policy, [ANSWER + " need need"], max_action_tokens=cut)
    assert trajectory.stop is StopReason.MAX_TOKENS
    assert trajectory.turns[0].action_text == ANSWER + " need"
    assert (trajectory.outcome, trajectory.metrics["em"]) == (-1.0, 0.0)


QUOTING = ["<think> a query goes into <search> x</search>", " need it</think><search> director of Bemi</search>"]


def test_a_stop_text_that_a_thought_quotes_ends_no_action(random_policy):
    (trajectory,), engine = play(random_policy, [*QUOTING, ANSWER])
    assert trajectory.stop is StopReason.ANSWERED and trajectory.outcome == 1.0
    assert trajectory.turns[0].action_text == "".join(QUOTING)
    assert trajectory.turns[0].observation_text == f"<result> {PASSAGES[0]}</result>"
    key = (*KEY, 0, 0)
    assert list(engine.sampled) == [(*key, 0), (*key, 0, 1), (*key, 1)]  # other noise for each part
    assert engine.read[(*key, 0, 1)] == ()
    assert engine.limits[(*key, 0, 1)] == 40 - len(encode(random_policy, QUOTING[0]))


def test_a_thought_that_quotes_and_never_ends_is_cut(random_policy):
    cut = len(encode(random_policy, QUOTING[0]))
    (trajectory,), _ = play(random_policy, [QUOTING[0]], max_action_tokens=cut)
    assert (trajectory.stop, trajectory.metrics["format"]) == (StopReason.MAX_TOKENS, 0.0)


@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_result_that_uses_up_the_budget_is_cut_and_ends_the_episode(random_policy, room):
    budget = len(encode(random_policy, SEARCH)) + room
    (trajectory,), _ = play(random_policy, [SEARCH], max_response_tokens=budget)
    (turn,) = trajectory.turns
    assert trajectory.stop is StopReason.MAX_TOKENS
    assert turn.observation_ids == encode(random_policy, f"<result> {PASSAGES[0]}</result>")[:room]
    assert turn.is_process == bool(room)
    assert len(trajectory.context_lengths) == 1 + bool(room)
    assert len(trajectory.token_ids) == len(trajectory.prompt_ids) + budget


def test_a_result_that_just_fits_ends_the_episode_too(random_policy):
    result = f"<result> {PASSAGES[0]}</result>"
    budget = len(encode(random_policy, SEARCH)) + len(encode(random_policy, result))
    (trajectory,), _ = play(random_policy, [SEARCH], max_response_tokens=budget)
    assert trajectory.stop is StopReason.MAX_TOKENS
    assert trajectory.turns[0].observation_ids == encode(random_policy, result)


def test_the_next_action_gets_what_the_budget_leaves(random_policy):
    used = len(encode(random_policy, SEARCH)) + len(encode(random_policy, f"<result> {PASSAGES[0]}</result>"))
    limits = {"max_response_tokens": used + 2, "max_action_tokens": used}
    (trajectory,), engine = play(random_policy, [SEARCH, ANSWER], **limits)
    assert engine.limits == {(*KEY, 0, 0, 0): used, (*KEY, 0, 0, 1): 2}
    assert trajectory.stop is StopReason.MAX_TOKENS
    assert trajectory.turns[1].action_ids == encode(random_policy, ANSWER)[:2]


def test_an_environment_that_neither_speaks_nor_stops_is_refused(random_policy):
    with pytest.raises(ValueError, match=r"task t: .*neither"):
        play(random_policy, ["need", "need"], environment=lambda task: Echo(""))


# ---- What is kept ----------------------------------------------------------------------------------------------------


def test_tool_text_is_encoded_on_its_own(random_policy):
    script, environment = ["need dir", "need" * 20], lambda task: Echo("ector")
    (trajectory,), _ = play(random_policy, script, environment=environment)
    turn, together = trajectory.turns[0], encode(random_policy, "need director")
    assert turn.observation_ids == encode(random_policy, "ector")
    assert turn.action_ids + turn.observation_ids != together
    assert random_policy.tokenizer.decode(turn.action_ids + turn.observation_ids) == "need director"


def test_only_the_prompt_gets_the_tokenizers_begin_token(random_policy):
    tokenizer = random_policy.tokenizer
    begin = ("<eos>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=[begin])
    (trajectory,), _ = play(random_policy, [SEARCH, ANSWER])
    assert [i for i, token in enumerate(trajectory.token_ids) if token == begin[1]] == [0]


@pytest.mark.parametrize("text", ["</search>", "<answer> Varo Tano</answer>", "<eos>", "<pad>"])
def test_stop_texts_and_end_tokens_of_the_tool_end_nothing(random_policy, text):
    environment = search_qa(BM25Retriever(lambda corpus: [f"director {text} Bemi"]))
    (trajectory,), _ = play(random_policy, [SEARCH, ANSWER], environment=environment)
    assert (trajectory.stop, len(trajectory.turns)) == (StopReason.ANSWERED, 2)


PIECES = st.sampled_from(
    [SEARCH, ANSWER, "<search> Varo</search>", "<answer>", "</search> of", " need", "é", "\n", "<think>", "x</result>"]
)
ACTIONS = st.lists(PIECES, min_size=1, max_size=3).map("".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(ACTIONS, min_size=3, max_size=3), min_size=4, max_size=4), st.integers(1, 70))
def test_the_trained_row_is_what_the_policy_read_and_sampled(random_policy, scripts, budget):
    trajectories, engine = play(
        random_policy,
        lambda key: scripts[2 * key[-2] + key[-1]] * 20,
        [(0, TASK), (1, TASK)],
        group_size=2,
        max_response_tokens=budget,
        max_action_tokens=20,
    )
    batch = collate(trajectories, random_policy.pad_id)
    for row, trajectory in enumerate(trajectories):
        key = (*KEY, trajectory.group, trajectory.sample)
        completions = [engine.action((*key, turn)) for turn in range(len(trajectory.turns))]
        assert [turn.action_ids for turn in trajectory.turns] == [c.ids for c in completions]
        assert [turn.action_logprobs for turn in trajectory.turns] == [c.logprobs for c in completions]
        ids, turn_ids = list(trajectory.prompt_ids), [-1] * len(trajectory.prompt_ids)
        for index, completion in enumerate(completions):
            heard = engine.read.get((*key, index + 1), trajectory.turns[index].observation_ids)
            ids += [*completion.ids, *heard]
            turn_ids += [index] * len(completion.ids) + [-1] * len(heard)
        padding = batch.input_ids.shape[1] - len(ids)
        assert batch.lengths[row] == len(ids) <= len(trajectory.prompt_ids) + budget
        assert batch.input_ids[row].tolist() == ids + [random_policy.pad_id] * padding
        assert batch.turn_ids[row].tolist() == turn_ids + [-1] * padding
        assert torch.equal(batch.rollout_logprobs[row], -(batch.turn_ids[row] >= 0).float())


def test_a_trajectory_says_where_its_beliefs_are(random_policy):
    (trajectory,), _ = play(random_policy, [SEARCH, SEARCH, ANSWER])
    first, second, _ = (len(turn.action_ids) + len(turn.observation_ids) for turn in trajectory.turns)
    prompt = len(trajectory.prompt_ids)
    assert trajectory.context_lengths == (prompt, prompt + first, prompt + first + second)
    assert collate([trajectory], 0).process_mask.tolist() == [[True, True, False]]


# ---- Prompts and order -----------------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_played(random_policy):
    long = Task("long", "What is the director of" + " Bemi" * 30 + "?", ("x",))
    engine = RecordingEngine(lambda key: [ANSWER])
    one_by_one = loop(engine, search_qa(), max_sessions=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ValueError, match=r"max_prompt_tokens=64: tasks with a longer prompt: 1; the longest, long, "
        ):
            one_by_one.run(random_policy, [(0, TASK), (1, long)], 1, KEY, greedy=False)
    assert engine.opened == 0


def test_of_prompts_that_are_too_long_it_is_said_how_much_is_the_same_in_all(random_policy):
    dialect = text_tags("Question: {question}", ("<answer> ", "</answer>"), examples=examples("search_qa"))
    tasks = [Task(str(i), question, ("x",)) for i, question in enumerate(("What Bemi?", "What Varo?"))]
    shown = len(encode(random_policy, dialect.prompt("What", [SEARCH_TOOL])))
    environment = search_environment(dialect, BM25Retriever(lambda corpus: PASSAGES))
    with pytest.raises(ValueError, match=rf"prompt: 2; .* tokens, of which {shown} stand in front of every question"):
        play(random_policy, [ANSWER], list(enumerate(tasks)), environment=environment)


def test_a_prompt_at_the_limit_is_played(random_policy):
    limit = len(encode(random_policy, f"Question: {TASK.question}"))
    assert len(play(random_policy, [ANSWER], max_prompt_tokens=limit)[0]) == 1
    with pytest.raises(ValueError, match=f"has {limit} tokens; expected"):
        play(random_policy, [ANSWER], max_prompt_tokens=limit - 1)


PROMPTS = [(4, TASK), (0, Task("u", "What is the birthplace of Varo Tano?", ("Kelu",), corpus="films")), (2, TASK)]


def told_apart(key):
    return [SEARCH] * (key[-1] % 3) + [f"<answer> {key[-2]} {key[-1]}</answer>"]


def test_trajectories_come_by_group_and_sample(random_policy):
    trajectories, _ = play(random_policy, told_apart, PROMPTS, group_size=3)
    expected = [(group, sample) for group, _ in PROMPTS for sample in range(3)]
    assert [(t.group, t.sample) for t in trajectories] == expected
    assert [t.turns[-1].action_text for t in trajectories] == [told_apart(key)[-1] for key in expected]
    assert [t.task.task_id for t in trajectories] == ["t"] * 3 + ["u"] * 3 + ["t"] * 3


@pytest.mark.parametrize("max_sessions", [1, 2, 3, 5, 6])
def test_playing_a_few_at_a_time_changes_nothing(random_policy, max_sessions):
    at_once, _ = play(random_policy, told_apart, PROMPTS, group_size=3)
    in_parts, _ = play(random_policy, told_apart, PROMPTS, group_size=3, max_sessions=max_sessions)
    assert in_parts == at_once


def test_a_tool_that_fails_is_counted_and_told_of_and_ends_the_run_once_it_never_worked(random_policy, caplog):
    rollout = loop(ScriptedEngine(lambda key: [SEARCH] * 2), search_qa(Broken()))
    played = rollout.run(random_policy, PROMPTS[:1], 7, KEY, greedy=False)
    assert [t.stop for t in played] == [StopReason.TOOL_FAILURE] * 7
    assert sum(t.metrics["tool_failures"] for t in played) == 14
    assert "data.environment.tools.search: 14 of 14 calls failed; the last: RuntimeError: down" in caplog.text
    with pytest.raises(
        SettingError, match=r"tools\.search: none of its last 16 calls .* The last: RuntimeError: down$"
    ):
        rollout.run(random_policy, PROMPTS[:1], 1, KEY, greedy=False)


def called(tool, result):
    """An episode of one call."""
    turn = Turn((1,), (0.0,), (2,), calls=(Call(tool, result, "because"),))
    return Trajectory(Task("t", "q", ("a",)), 0, 0, (1,), (turn,), 0.0, StopReason.MAX_TURNS)


def test_one_call_that_works_is_enough_for_its_tool_and_no_other():
    failed, others = [called("search", CallResult.FAILED)] * 20, [called("other", CallResult.FOUND)] * 20
    ToolHealth().count([*failed, *others, called("search", CallResult.FOUND)])
    with pytest.raises(SettingError, match=r"tools\.search: none of its last 20 calls brought a result.*: because$"):
        ToolHealth().count([*failed, *others])


@pytest.mark.parametrize("result", [CallResult.FOUND, CallResult.REFUSED])
def test_a_tool_that_did_its_work_once_starts_anew(result):
    health = ToolHealth()
    for done in (CallResult.FAILED, result, CallResult.FAILED):
        health.count([called("search", done)] * 15)
    with pytest.raises(SettingError, match="none of its last 16"):
        health.count([called("search", CallResult.FAILED)])


def test_a_tool_that_has_found_something_is_not_broken_because_a_policy_asks_for_nothing():
    health = ToolHealth()
    health.count([called("search", CallResult.REFUSED)] * 15)
    health.count([called("search", CallResult.EMPTY)] * 15)
    with pytest.raises(SettingError, match="none of its last 16"):  # an index that is empty
        health.count([called("search", CallResult.EMPTY)])
    health.count([called("search", CallResult.FOUND)])
    health.count([called("search", CallResult.EMPTY)] * 100)
    health.count([called("search", CallResult.FAILED)] * 15)
    with pytest.raises(SettingError, match="none of its last 16"):
        health.count([called("search", CallResult.FAILED)])

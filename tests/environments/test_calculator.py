"""The calculator: safe arithmetic, problems made from their number, episodes, and training on them."""

import time
from dataclasses import replace
from fractions import Fraction

import pytest
from hydra.utils import instantiate
from lightning import Callback

from a2tgpo.environments.dialects.tool_calls import ToolCalls
from a2tgpo.environments.safe_arithmetic import ExpressionError, evaluate, read_number, write_number
from a2tgpo.rollouts.trajectory import Split, StopReason, Task
from a2tgpo.tasks.word_problems import ArithmeticTasks
from tests.helpers.tiny_runs import SMALL, fit

PROBLEM = Task(
    "t", "Ben has 12 eggs. Ben gives 4 away. Then Ben has 3 times as many. How many eggs does Ben have now?", ("24",),
    reference_calls=("12 - 4", "8 * 3"), evidence=("8", "24"),
)  # fmt: skip


# ---- arithmetic ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("0.1 + 0.2", "0.3"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("12 / 8", "1.5"),
        ("2 ** -3", "0.125"),
        ("-2 ** 2", "-4"),
        ("-1 / 4", "-0.25"),
        ("1 / 3", "0.333333333333"),
        ("2 ** 300", str(2**300)),
        ("5 * 10 ** 15 / 3", "1666666666670000"),
        ("-1 / 3 / 10 ** 9", "-0.000000000333333333333"),
        ("60 *\n1.42", "85.2"),
    ],
)
def test_values_are_exact(expression, value):
    assert write_number(evaluate(expression)) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("9**9**9", "more than 100 digits"),
        ("9**-9**9", "more than 100 digits"),
        ("(9**99)*(9**99)", "more than 100 digits"),
        ("1/9**99/9**99", "more than 100 digits"),
        ("__import__('os').system('true')", "unexpected '_'"),
        ("().__class__", "unexpected '_'"),
        ("lambda: 1", "unexpected 'l'"),
        ("1_000", "unexpected '_'"),
        ("٣ + 1", "unexpected '٣'"),
        ("1\x00+1", "unexpected"),
        ("(" * 99 + "1" + ")" * 99, None),
        ("-" * 199 + "1", "more than 50 deep"),
        ("1+" * 99 + "1", "more than 50 deep"),
        ("1" * 201, "201 characters"),
        ("1" * 101, "more than 100 digits"),
        ("1 / (2 - 2)", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("2 ** 0.5", "whole exponent"),
        ("2 (3)", "operator or a number is missing"),
        ("...", "operator or a number is missing"),
        ("(2 + ", "not one complete expression"),
        ("1 2", "not one complete expression"),
        ("", "not one complete expression"),
    ],
)
def test_what_has_no_value_says_why_at_once(expression, why):
    start = time.perf_counter()
    if why is None:
        assert evaluate(expression) == 1
    else:
        with pytest.raises(ExpressionError, match=why):
            evaluate(expression)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("$1,234.50", Fraction(2469, 2)),
        ("-$5", Fraction(-5)),
        (".5", Fraction(1, 2)),
        ("-3.", Fraction(-3)),
        ("12", Fraction(12)),
        ("twelve", None),
        ("1/2", None),
    ],
)
def test_answers_are_read_as_numbers(text, number):
    assert read_number(text) == number


# ---- problems --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tasks():
    return ArithmeticTasks(4, 1000, 200, 200)


def test_a_problem_is_the_same_whenever_it_is_made(tasks):
    assert list(tasks.split(Split.TEST))[:50] == [tasks.split(Split.TEST)[i] for i in range(50)]
    assert len({task.question for task in tasks.split(Split.TRAIN)}) > 900


def test_no_chain_of_calculations_is_in_two_splits(tasks):
    chains = [{task.reference_calls for task in tasks.split(split)} for split in Split]
    assert not chains[0] & chains[1] and not chains[0] & chains[2] and not chains[1] & chains[2]


def test_the_calculations_of_a_problem_lead_to_its_answer(tasks):
    seen = set()
    for task in tasks.split(Split.TRAIN):
        assert [write_number(evaluate(search)) for search in task.reference_calls] == list(task.evidence)
        assert task.answers == (task.evidence[-1],)
        assert write_number(read_number(task.answers[0])) == task.answers[0] and read_number(task.answers[0]) > 0
        assert all(search.split()[0] in task.question or n for n, search in enumerate(task.reference_calls))
        assert all(search.split()[2] in task.question for search in task.reference_calls)
        seen |= {task.kind} | {search.split()[1] for search in task.reference_calls}
    assert seen == {"1 step", "2 steps", "3 steps", "4 steps", "+", "-", "*", "/"}


def test_the_number_of_steps_is_bounded():
    with pytest.raises(ValueError, match=r"data\.tasks\.max_steps=5: expected an integer >= 1 and <= 4"):
        ArithmeticTasks(5, 1, 1, 1)


# ---- episodes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def play(composed):
    """`play(action, …)`: the results of these actions in PROBLEM, and the metrics of the episode they end."""
    environment = instantiate(composed("data=calculator").data.environment, _convert_="all")

    def run(*actions, task=PROBLEM):
        episode = environment(task)
        results = [episode.step(action) for action in actions]
        assert [result.stop for result in results[:-1]] == [None] * (len(actions) - 1)
        return results, episode.finish(results[-1].stop)

    return run


def calculate(expression):
    return f"<think> next</think><calculator> {expression}</calculator>"


def answer(text):
    return f"<think> done</think><answer> {text}</answer>"


def test_calculations_are_observed_and_the_right_number_is_success(play):
    results, metrics = play(calculate("12 - 4"), calculate("8*3"), answer("24"))
    assert [result.observation for result in results] == ["<result> 8</result>", "<result> 24</result>", ""]
    assert [result.useful for result in results] == [True, True, None]
    assert results[-1].stop is StopReason.ANSWERED
    assert metrics == {
        "success": 1.0,
        "em": 1.0,
        "f1": 1.0,
        "format": 1.0,
        "calls": 2.0,
        "useful_calls": 2.0,
        "early_answer": 0.0,
        "tool_failures": 0.0,
    }


@pytest.mark.parametrize(
    ("text", "em", "f1"),
    [("25", 0, 0), ("2.4", 0, 0), ("-24", 0, 0), ("$24.00", 1, 1), ("24 eggs", 0, 2 / 3), ("eggs", 0, 0)],
)
def test_an_answer_counts_by_its_value(play, text, em, f1):
    _, metrics = play(answer(text))
    assert (metrics["success"], metrics["em"]) == (em, em)
    assert metrics["f1"] == pytest.approx(f1)


def test_a_number_that_was_seen_before_or_leads_nowhere_is_not_useful(play):
    results, metrics = play(calculate("12 - 4"), calculate("8"), calculate("12 + 4"), answer("24"))
    assert [result.useful for result in results[:3]] == [True, False, False]
    assert (metrics["calls"], metrics["useful_calls"], metrics["early_answer"]) == (3, 1, 1)
    unknown, _ = play(calculate("12 - 4"), answer("24"), task=replace(PROBLEM, evidence=()))
    assert unknown[0].useful is None


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("9**9**9", "a number has more than 100 digits"),
        ("__import__", "unexpected '_'; use numbers, + - * / // % ** and parentheses"),
        ("(" * 80, "it is not one complete expression"),
        ("1/0", "division by zero"),
    ],
)
def test_a_hostile_or_malformed_expression_is_an_observation_and_counted(play, expression, why):
    results, metrics = play(calculate(expression), answer("24"))
    assert results[0].observation == f"<result> The calculator failed: {why}.</result>"
    assert results[0].useful is None
    assert metrics["success"] == 1 and metrics["tool_failures"] == 1


def test_an_episode_ends_after_too_many_failures_too_many_calls_or_a_malformed_action(play):
    failed, metrics = play(*[calculate("1 +")] * 3)
    assert failed[-1].stop is StopReason.TOOL_FAILURE and metrics["tool_failures"] == 3 and metrics["success"] == 0
    assert play(*[calculate("1")] * 7)[0][-1].stop is StopReason.MAX_TURNS
    malformed, metrics = play("<search> 12 - 4</search>")
    assert malformed[-1].stop is StopReason.INVALID_ACTION and metrics["format"] == 0 and metrics["success"] == 0


def test_several_native_tool_calls_are_one_turn(composed):
    config = composed("data=calculator", "data/dialect=tool_calls")
    episode = instantiate(config.data.environment, _convert_="all")(PROBLEM)
    assert isinstance(episode.dialect, ToolCalls)
    assert episode.prompt().tools[0]["function"] == {
        "name": "calculator",
        "description": "Computes the value of an arithmetic expression.",
        "parameters": {
            "type": "object",
            "properties": {
                "expression": {"type": "string", "description": "Numbers, + - * / // % ** and parentheses."}
            },
            "required": ["expression"],
        },
    }
    calls = [f'{{"name": "calculator", "arguments": {{"expression": "{e}"}}}}' for e in ("12 - 4", "8 * 3")]
    result = episode.step("".join(f"<tool_call>{call}</tool_call>" for call in calls))
    assert [message["content"] for message in result.observation.messages] == ["8", "24"]
    assert episode.step("<answer>24</answer>").stop is StopReason.ANSWERED
    assert episode.finish(StopReason.ANSWERED)["calls"] == 2


# ---- training --------------------------------------------------------------------------------------------------------


class Watch(Callback):
    """Keeps the rollout set that was trained on."""

    def on_train_end(self, trainer, learner):
        self.trajectories, self.metrics = learner.trajectories, learner.metrics


def test_one_iteration_trains_a_random_policy(composed, policy_dir):
    config = composed("data=calculator", *SMALL, f"paths.policy_dir={policy_dir}", "trainer.max_epochs=1")
    watch = Watch()
    trainer = fit(config, [watch])
    assert trainer.global_step == 2
    assert len(watch.trajectories) == 8
    assert {"train/em", "train/calls", "train/tool_failures"} <= set(watch.metrics)

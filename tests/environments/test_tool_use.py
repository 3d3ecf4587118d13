"""Tools that are typed functions: what the policy is told of them, how they are called, and where an episode stands."""

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.environments.dialects.arguments import argument_from_json, argument_from_text
from a2tgpo.environments.dialects.tool_calls import schema
from a2tgpo.environments.protocols import Action, Parameter, Tool, ToolCall, ToolError
from a2tgpo.environments.tools.calculator import calculate
from a2tgpo.environments.tools.schema import read_tool
from a2tgpo.environments.tools.search import Search
from a2tgpo.retrievers.bm25 import BM25Retriever
from a2tgpo.rollouts.protocols import Forkable, StepResult
from a2tgpo.rollouts.trajectory import Call, CallResult, StopReason, Task
from a2tgpo.system.errors import SettingError
from tests.helpers.episodes import SEARCH, said, search_qa, tool_use
from tests.helpers.shipped import passage_layout, text_tags, tool_calls

SRC = Path(__file__).resolve().parents[2] / "src"
FIRST, SECOND, THIRD = "The director of Bemi is Varo.", "The city of Varo is Kelu.", "The age of Varo is 7."
TASK = Task("t", "How old is the director of Bemi, times 6?", ("42",), evidence=(FIRST, THIRD, "42"))
TAGS = text_tags("Question: {question}", ("<answer> ", "</answer>"))
CALLS = tool_calls("{question}", ("<answer>", "</answer>"), system="", layout=passage_layout())


def search(query: str, task: Task, topk: int = 1) -> list[str]:
    """Finds passages.

    Passages come best first.

    Args:
        query: What to
            look for.
        topk (int): How many.

    Returns:
        The passages.
    """
    return BM25Retriever(lambda corpus: (FIRST, SECOND, THIRD)).search(query, topk, task.corpus)


def repeat(text: str, times: int, gap: float = 0.5, *, loud: bool = False) -> str:
    """Says a text several times."""
    return f"{text * times} {gap} {loud}"


def halve(number: float) -> str:
    """Halves a number."""
    return f"{number / 2:g}"


def count_to(number: int) -> list[str]:
    """Counts."""
    return [str(n) for n in range(1, number + 1)]


def invert(value: bool) -> str:
    """Inverts a truth."""
    return str(not value)


def now() -> str:
    """Tells the time."""
    return "noon"


TYPED = {"halve": halve, "count_to": count_to, "invert": invert, "now": now}


@dataclass(frozen=True)
class Knows:
    """A tool that is an object."""

    text: str

    def __call__(self, about: str) -> str:
        """Tells what it knows.

        Args:
            about: A name.
        """
        return self.text

    def method(self, about: str) -> str:
        """Tells it too."""
        return self.text


# ---- From a function to a tool ---------------------------------------------------------------------------------------


def test_signature_and_docstring_are_the_schema():
    assert read_tool("find", search).tool == Tool(
        "find",
        "Finds passages. Passages come best first.",
        {"query": Parameter(str, "What to look for."), "topk": Parameter(int, "How many.", required=False)},
    )
    assert schema(read_tool("repeat", repeat).tool)["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "times": {"type": "integer"},
            "gap": {"type": "number"},
            "loud": {"type": "boolean"},
        },
        "required": ["text", "times"],
    }


def test_the_search_tool_is_told_of_as_ever():
    assert schema(SEARCH) == {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Searches a collection of texts and returns the best passages.",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string", "description": "What to look for."}},
                "required": ["query"],
            },
        },
    }


@pytest.mark.parametrize("tool", [Knows("x"), Knows("x").method])
def test_an_object_or_a_method_is_a_tool(tool):
    assert [*read_tool("know", tool).tool.parameters] == ["about"]
    assert tool_use(TAGS, {"know": tool})(TASK).step("<know> y</know>").observation == "<result> x</result>"


def test_what_a_partial_binds_is_hidden_and_the_task_is_given():
    read = read_tool("find", partial(search, topk=3))
    assert [*read.tool.parameters] == ["query"] and read.task_parameters == ("task",)
    assert read_tool("repeat", partial(repeat, "x")).tool.parameters.keys() == {"times", "gap", "loud"}
    game = tool_use(TAGS, {"find": partial(search, topk=2)})(TASK)
    assert game.step("<find> Varo age</find>").observation == f"<result> {THIRD} {FIRST}</result>"


def untyped(query) -> str:
    """Finds."""


def undescribed(query: str) -> str:
    return query


def only_arguments(query: str) -> str:
    """Args:
    query: What to look for.
    """


def listed(queries: list[str]) -> str:
    """Finds."""


def maybe(query: str | None) -> str:
    """Finds."""


def many(*queries: str) -> str:
    """Finds."""


def by_position(query: str, /) -> str:
    """Finds."""


def misspelt(query: str) -> str:
    """Finds.

    Args:
        qurey: What to look for.
    """


def unknown_type(query: "Nowhere") -> str:  # noqa: F821
    """Finds."""


class Silent:
    def __call__(self, query: str) -> str:
        return query


NO_TOOLS = [
    ("x", untyped, "parameter 'query' has no type; expected str, int, float, bool, or Task"),
    ("x", lambda query: query, "<lambda> has no docstring; expected one that tells the policy its use"),
    ("x", undescribed, "undescribed has no docstring"),
    ("x", only_arguments, "only_arguments has no docstring"),
    ("x", Silent(), r"Silent\.__call__ has no docstring"),
    ("x", listed, r"parameter 'queries' has type list\[str\]; expected str, int, float, bool, or Task"),
    ("x", maybe, r"parameter 'query' has type str \| None; expected"),
    ("x", many, r"parameter \*queries: str cannot be given by name; expected"),
    ("x", by_position, "cannot be given by name; expected"),
    ("x", misspelt, r"the docstring describes 'qurey'; expected one of the parameters \['query'\]"),
    ("x", unknown_type, "its types cannot be read, name 'Nowhere' is not defined; expected"),
    ("two words", halve, "expected a name of letters, digits, - and _"),
    ("", halve, "expected a name of letters, digits, - and _"),
]


@pytest.mark.parametrize(("name", "function", "message"), NO_TOOLS)
def test_what_is_no_tool_is_refused_by_name(name, function, message):
    with pytest.raises(SettingError, match=rf"^data\.environment\.tools\.{name}: .*{message}"):
        tool_use(CALLS, {name: function})(TASK)


def test_what_cannot_be_called_is_refused_by_name():
    with pytest.raises(SettingError, match=r"^data\.environment\.tools\.x=\{'topk': 3\}: expected a function"):
        tool_use(TAGS, {"x": {"topk": 3}})(TASK)


REFUSED = [
    ({"max_calls": -1}, r"data\.environment\.max_calls=-1: expected an integer >= 0"),
    ({"tool_timeout": 0.0}, r"data\.environment\.tool_timeout=0\.0: expected seconds > 0"),
    ({"max_tool_failures": 0}, r"data\.environment\.max_tool_failures=0: expected an integer >= 1"),
]


@pytest.mark.parametrize(("setting", "message"), REFUSED)
def test_settings_that_cannot_work_are_refused_by_name(setting, message):
    with pytest.raises(SettingError, match=f"^{message}"):
        tool_use(TAGS, TYPED, **setting)(TASK)


def test_a_search_for_nothing_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^data\.environment\.tools\.search\.topk=0: expected an integer >= 1"):
        Search(BM25Retriever(lambda corpus: [FIRST]), 0)


def test_tags_refuse_a_tool_with_two_arguments_and_a_tag_for_two_things():
    def join(left: str, right: str) -> str:
        """Joins."""

    with pytest.raises(SettingError, match=r"^data\.dialect: tags hold one argument, and tool 'join' has \['left', 'r"):
        tool_use(TAGS, {"join": join})(TASK)
    for name in ("answer", "think", "result"):
        with pytest.raises(SettingError, match=rf"^data\.dialect\.call_tags=null: \['{name}'\] taken"):
            tool_use(TAGS, {name: halve})(TASK)
    same = text_tags("{question}", ("<answer>", "</answer>"), call_tags={"halve": "invert"})
    with pytest.raises(SettingError, match=r"^data\.dialect\.call_tags=\{'halve': 'invert'\}: \['invert'\] taken"):
        tool_use(same, TYPED)(TASK)


def test_environments_need_no_torch():
    modules = [
        ".".join(path.relative_to(SRC).with_suffix("").parts)
        for path in sorted((SRC / "a2tgpo" / "environments").rglob("[!_]*.py"))
    ] + ["a2tgpo.rollouts.rewards.outcome"]
    assert len(modules) > 12
    code = f"import sys, {', '.join(modules)}; print({{'torch', 'transformers', 'lightning'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


# ---- Typed arguments -------------------------------------------------------------------------------------------------

WRITTEN = [
    (str, " a b ", "a b"),
    (str, "  ", None),
    (int, " 12 ", 12),
    (int, "-3", -3),
    (int, "+3", 3),
    (int, "3.0", None),
    (int, "1_000", None),
    (int, "٣", None),
    (int, "three", None),
    (int, "", None),
    (int, "9" * 101, None),
    (float, "2.5", 2.5),
    (float, "-.5", -0.5),
    (float, "3.", 3.0),
    (float, "1e3", 1000.0),
    (float, "1e999", None),
    (float, "nan", None),
    (float, "inf", None),
    (float, ".", None),
    (bool, "true", True),
    (bool, " False ", False),
    (bool, "1", None),
    (bool, "yes", None),
]
AS_JSON = [
    (str, '"a"', "a"),
    (str, '" "', None),
    (str, "3", None),
    (str, "null", None),
    (str, "true", None),
    (str, '["a"]', None),
    (int, "3", 3),
    (int, "3.0", None),
    (int, '"3"', None),
    (int, "true", None),
    (float, "2.5", 2.5),
    (float, "3", 3.0),
    (float, '"2.5"', None),
    (float, "true", None),
    (float, "NaN", None),
    (float, "1e999", None),
    (float, "9" * 400, None),
    (bool, "false", False),
    (bool, "0", None),
    (bool, '"false"', None),
]


def same(value, expected):
    return value == expected and type(value) is type(expected)


@pytest.mark.parametrize(("kind", "text", "expected"), WRITTEN)
def test_a_written_argument_has_its_parameter_s_type_or_is_none(kind, text, expected):
    assert same(argument_from_text(text, Parameter(kind)), expected)


@pytest.mark.parametrize(("kind", "text", "expected"), AS_JSON)
def test_a_json_argument_has_its_parameter_s_type_or_is_none(kind, text, expected):
    assert same(argument_from_json(json.loads(text), Parameter(kind)), expected)


TOOLS = [read_tool(name, function).tool for name, function in {**TYPED, "repeat": repeat}.items()]
IN_TAGS = [
    ("<halve> 2.5</halve>", ToolCall("halve", {"number": 2.5})),
    ("<count_to>3</count_to>", ToolCall("count_to", {"number": 3})),
    ("<invert> false </invert>", ToolCall("invert", {"value": False})),
    ("<now></now>", ToolCall("now", {})),
    ("<now> \n</now>", ToolCall("now", {})),
    ("<now> please</now>", None),
    ("<halve> two</halve>", None),
    ("<count_to> 2.5</count_to>", None),
    ("<invert> maybe</invert>", None),
    ("<halve></halve>", None),
]


@pytest.mark.parametrize(("text", "call"), IN_TAGS)
def test_a_tag_s_body_is_the_first_argument(text, call):
    assert TAGS.parse(text, TOOLS[:4]) == (Action((call,)) if call else None)


AS_CALLS = [
    ("halve", '{"number": 3}', {"number": 3.0}),
    ("invert", '{"value": false}', {"value": False}),
    ("now", "{}", {}),
    ("repeat", '{"text": "a", "times": 2}', {"text": "a", "times": 2}),
    ("repeat", '{"loud": true, "times": 2, "text": "a"}', {"text": "a", "times": 2, "loud": True}),
    ("repeat", '{"text": "a"}', None),
    ("repeat", '{"text": "a", "times": 2.5}', None),
    ("repeat", '{"text": "a", "times": 2, "gap": null}', None),
    ("repeat", '{"text": "a", "times": 2, "pitch": 1}', None),
    ("halve", '{"number": "3"}', None),
    ("now", '{"zone": "x"}', None),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), AS_CALLS)
def test_a_native_call_needs_arguments_of_the_right_names_and_types(name, arguments, expected):
    action = CALLS.parse(f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>', TOOLS)
    assert action == (Action((ToolCall(name, expected),)) if expected is not None else None)


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("<halve> 5</halve>", "2.5"),
        ("<count_to> 3</count_to>", "1 2 3"),
        ("<count_to> 0</count_to>", "Nothing was found."),
        ("<invert> TRUE</invert>", "False"),
        ("<now></now>", "noon"),
    ],
)
def test_typed_tools_are_played(action, text):
    assert tool_use(TAGS, TYPED)(TASK).step(action).observation == f"<result> {text}</result>"


def test_a_malformed_argument_ends_the_episode():
    game = tool_use(TAGS, TYPED)(TASK)
    assert game.step("<halve> five</halve>") == StepResult(stop=StopReason.INVALID_ACTION)
    assert game.finish(StopReason.INVALID_ACTION)["calls"] == 0.0


# ---- Several tools ---------------------------------------------------------------------------------------------------


def native(*calls):
    return "".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>" for name, arguments in calls
    )


ACTIONS = {
    "tags": (
        TAGS,
        "<search> director of Bemi</search>",
        "<calculator> 7 * 6</calculator>",
        "<think> so</think><answer> 42</answer>",
        "<search> x</calculator>",
    ),
    "native": (
        CALLS,
        native(("search", {"query": "director of Bemi"})),
        native(("calculator", {"expression": "7 * 6"})),
        "<answer>42</answer>",
        native(("search", {"expression": "7 * 6"})),
    ),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_two_tools_are_played_in_one_episode(name):
    dialect, look, compute, answer, malformed = ACTIONS[name]
    game = tool_use(dialect, {"search": search, "calculator": calculate}, max_calls=5)(TASK)
    found, computed = game.step(look), game.step(compute)
    mark = "<result> {}</result>" if name == "tags" else "{}"
    assert said(found.observation) == [mark.format(FIRST)] and said(computed.observation) == [mark.format("42")]
    assert (found.useful, computed.useful) == (True, True)
    assert game.fork().step(malformed).stop is StopReason.INVALID_ACTION
    assert game.step(answer).stop is StopReason.ANSWERED
    metrics = game.finish(StopReason.ANSWERED)
    assert (metrics["success"], metrics["calls"], metrics["useful_calls"]) == (1.0, 2.0, 2.0)


def test_the_policy_is_told_of_both_tools():
    tools = {"search": search, "calculator": calculate}
    assert tool_use(TAGS, tools)(TASK).stop_strings == ("</search>", "</calculator>", "</answer>")
    told = tool_use(CALLS, tools)(TASK).prompt().tools
    assert [tool["function"]["name"] for tool in told] == ["search", "calculator"]


def test_both_tools_in_one_native_action():
    def broken(query: str) -> str:
        """Breaks."""
        raise RuntimeError("down")

    game = tool_use(CALLS, {"search": search, "calculator": calculate, "broken": broken}, max_calls=4)(TASK)
    calls = [("calculator", {"expression": "6 * 7"}), ("broken", {"query": "x"}), ("search", {"query": "age"})]
    result = game.step(native(*calls))
    assert said(result.observation) == ["42", "The broken failed.", THIRD]
    assert (result.useful, result.stop) == (True, None)
    assert result.calls == (
        Call("calculator", CallResult.FOUND),
        Call("broken", CallResult.FAILED, "RuntimeError: down"),
        Call("search", CallResult.FOUND),
    )
    assert game.step(native(*calls)).stop is StopReason.MAX_TURNS  # three, and one is left
    metrics = game.finish(StopReason.MAX_TURNS)
    assert (metrics["calls"], metrics["useful_calls"], metrics["tool_failures"]) == (3.0, 2.0, 1.0)


def test_a_call_is_useful_where_it_is_the_first_to_bring_its_evidence():
    game = tool_use(CALLS, {"search": search}, max_calls=4)(TASK)
    result = game.step(native(("search", {"query": "director"}), ("search", {"query": "director of Bemi"})))
    assert result.useful and game.finish(StopReason.MAX_TURNS)["useful_calls"] == 1.0
    assert game.step(native(("search", {"query": "city"}))).useful is False


def test_a_call_is_useful_where_it_is_the_first_to_bring_a_passage_of_a_page():
    found = iter(
        [['"Varo"\nA person.', '"Bemi"\nA film.'], ['"Bemi"\nIts star.'], ['"Bemi" is a film.'], ['"Kelu"\nA city.']]
    )

    def look(query: str) -> list[str]:
        """Looks it up."""
        return next(found)

    game = tool_use(TAGS, {"look": look}, max_calls=4)(Task("t", "q", ("a",), evidence=('"Bemi"', '"Kelu"')))
    assert [game.step("<look> x</look>").useful for _ in range(4)] == [True, False, False, True]
    assert game.finish(StopReason.MAX_TURNS)["useful_calls"] == 2.0


def test_an_action_is_named_by_what_it_does():
    def names(*texts):
        game = tool_use(TAGS, {"search": search}, max_calls=4)(TASK)
        return [game.step(text).action for text in texts]

    first, thought, other = names(
        "<search> director of Bemi</search>",
        "<think> so</think><search>director of Bemi</search>",
        "<search>x</search>",
    )
    assert first == thought != other and first is not None
    answers = [names(f"{body}")[0] for body in ("<answer> Kelu</answer>", "<think> so</think><answer>Kelu </answer>")]
    assert answers[0] == answers[1] and answers[0] not in (first, other)
    assert Action((ToolCall("f", {"a": 1, "b": 2}),)).name == Action((ToolCall("f", {"b": 2, "a": 1}),)).name
    assert names("neither call nor answer") == [None]


def test_pieces_are_new_once():
    found = iter([["a", "b"], ["b", "c", "c"], "c", "d", []])

    def look(query: str) -> str | list[str]:
        """Looks it up."""
        return next(found)

    game = tool_use(TAGS, {"look": look}, max_calls=5)(TASK)
    assert [game.step("<look> x</look>").n_new_pieces for _ in range(5)] == [2, 1, 0, 1, 0]
    assert game.step("<answer> d</answer>").n_new_pieces == 0


def test_without_evidence_nothing_is_said_of_useful_calls():
    game = tool_use(TAGS, {"search": search})(Task("t", "q", ("a",)))
    assert game.step("<search> director of Bemi</search>").useful is None
    metrics = game.finish(StopReason.MAX_TURNS)
    assert metrics["calls"] == 1.0 and "useful_calls" not in metrics


def test_no_call_that_succeeded_leaves_usefulness_unknown():
    def refuses(query: str) -> str:
        """Refuses."""
        raise ToolError("ask somebody else")

    result = tool_use(TAGS, {"oracle": refuses})(TASK).step("<oracle> x</oracle>")
    assert result.observation == "<result> The oracle failed: ask somebody else.</result>"
    assert (result.useful, result.calls) == (None, (Call("oracle", CallResult.REFUSED, "ask somebody else"),))


def test_an_empty_list_is_empty_and_a_text_is_not():
    game = tool_use(TAGS, TYPED)(TASK)
    results = [game.step(call).calls[0].result for call in ("<count_to> 0</count_to>", "<now></now>")]
    assert results == [CallResult.EMPTY, CallResult.FOUND]


@pytest.mark.parametrize("result", [7, None, ["a", 7], {"a": "b"}])
def test_a_tool_that_returns_something_else_ends_the_run(result):
    def odd(query: str) -> str:
        """Is odd."""
        return result

    with pytest.raises(SettingError, match=r"^data\.environment\.tools\.odd: .*expected a text or a list of texts"):
        tool_use(TAGS, {"odd": odd})(TASK).step("<odd> x</odd>")


def test_a_tool_that_finds_its_setting_wrong_ends_the_run():
    def misplaced(query: str) -> str:
        """Looks into a file."""
        raise SettingError("data.environment.tools.misplaced.path=x: no such file")

    with pytest.raises(SettingError, match="no such file"):
        tool_use(TAGS, {"misplaced": misplaced})(TASK).step("<misplaced> x</misplaced>")


def test_a_tool_is_set_by_override(composed):
    config = composed("data.environment.tools.search.topk=3", "data.environment.max_calls=4")
    game = instantiate(config.data.environment, _convert_="all")(TASK)
    assert (game.tools["search"].topk, game.max_calls, game.deterministic) == (3, 4, True)


def test_a_second_tool_is_added_by_override(composed):
    calculator = "+data.environment.tools.calculator"
    target = "_target_=a2tgpo.environments.tools.calculator.calculate"
    config = composed(f"{calculator}.{target}", f"{calculator}._partial_=true")
    game = instantiate(config.data.environment, _convert_="all")(Task("t", "q", ("a",)))
    assert list(game.tools) == ["search", "calculator"]
    assert game.step("<calculator> 2 ** 5</calculator>").observation == "<result> 32</result>"


# ---- Where an episode stands -----------------------------------------------------------------------------------------

QUERIES = ("director", "city", "age", "nothing at all", "director of Bemi", "Varo")
LOOKS = st.lists(st.sampled_from(QUERIES), max_size=6)


def looking(queries, **changes):
    retriever = BM25Retriever(lambda corpus: (FIRST, SECOND, THIRD))
    game = search_qa(TAGS, retriever, **({"max_calls": 20} | changes))(TASK)
    return game, [game.step(f"<search> {query}</search>") for query in queries]


def test_the_state_is_the_set_of_pieces_seen():
    (start, _), (one, _), (two, _) = looking([]), looking(["director"]), looking(["director", "city"])
    assert len({start.state(), one.state(), two.state()}) == 3
    assert two.state() == looking(["city", "director", "city"])[0].state()
    assert start.state() == looking(["nothing at all"])[0].state()  # nothing was found
    assert all(len(game.state()) == 16 and int(game.state(), 16) >= 0 for game in (start, one, two))


@given(LOOKS, LOOKS)
def test_states_are_equal_exactly_where_the_same_pieces_were_seen(first, second):
    found = [
        {r.observation for r in looking(queries)[1] if r.calls[0].result is CallResult.FOUND}
        for queries in (first, second)
    ]
    states = [looking(queries)[0].state() for queries in (first, second)]
    assert (states[0] == states[1]) == (found[0] == found[1])


def test_the_state_is_the_same_in_every_process():
    assert looking([])[0].state() == "71857576257465c7"
    assert looking(["director", "city"])[0].state() == "d66ce25d88532791"


def test_pieces_that_look_alike_when_joined_are_told_apart():
    def say(text: str) -> list[str]:
        """Says the parts of a text."""
        return text.split("|")

    games = [tool_use(TAGS, {"say": say})(TASK) for _ in range(2)]
    for game, text in zip(games, ('a", "b', "a|b"), strict=True):
        game.step(f"<say> {text}</say>")
    assert games[0].state() != games[1].state()


@given(LOOKS, LOOKS, LOOKS)
def test_a_fork_and_its_original_hear_nothing_of_each_other(before, in_fork, after):
    def look(game, queries):
        return [game.step(f"<search> {query}</search>") for query in queries]

    def stands(game):
        return game.state(), game.finish(StopReason.MAX_TURNS)

    original, _ = looking(before, max_calls=10)
    stood, copy = stands(original), original.fork()
    assert isinstance(original, Forkable)
    assert stands(copy) == stood
    forked = look(copy, in_fork)
    copy.step("<answer> 42</answer>")
    assert stands(original) == stood
    assert original.finish(StopReason.ANSWERED)["success"] == 0.0  # the answer was given in the fork
    alone, _ = looking(before, max_calls=10)
    assert look(original, after) == look(alone, after)
    assert stands(original) == stands(alone)
    again, _ = looking(before, max_calls=10)
    assert forked == look(again, in_fork)
    assert copy.state() == again.state()


def test_failures_of_a_fork_are_its_own():
    def fails(query: str) -> str:
        """Fails."""
        raise RuntimeError

    game = tool_use(TAGS, {"fails": fails})(TASK)
    for episode in (game.fork(), game):
        assert [episode.step("<fails> x</fails>").stop for _ in range(2)] == [None, StopReason.TOOL_FAILURE]

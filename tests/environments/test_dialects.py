"""Every dialect of `configs/data/dialect`: what it promises to environments, beliefs and readers of transcripts."""

from functools import partial
from pathlib import Path

import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from a2tgpo.environments.protocols import Action, ToolCall
from a2tgpo.retrievers.bm25 import BM25Retriever
from a2tgpo.rollouts.trajectory import StopReason, Task
from a2tgpo.system.errors import SettingError
from tests.helpers.episodes import SEARCH, said, search_qa
from tests.helpers.shipped import passage_layout, text_tags, tool_calls

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "data" / "dialect").glob("*.yaml"))
QUERY = {
    "text_tags": "<think> a</think><search> the capital</search>",
    "chat_tags": "<think> a</think><search> the capital</search>",
    "a_tgpo": "<think>a</think><search>the capital</search>",
    "search_r1": "<think>a</think>\n<search> the capital </search>",
    "tool_calls": '<tool_call>\n{"name": "search", "arguments": {"query": "the capital"}}\n</tool_call>',
    "igpo": "<think>\na\n</think>\n\n"
    '<tool_call>\n{"name": "search", "arguments": {"query": "the capital"}}\n</tool_call>',
}
PASSAGE = '"France"\nThe capital is Paris.'
RESULT = {
    "text_tags": f"<result> {PASSAGE}</result>",
    "chat_tags": f"<result>{PASSAGE}</result>\n",
    "a_tgpo": "<result>\n(1) France\nThe capital is Paris.\n</result>\n",
    "search_r1": "\n\n<information>Doc 1(Title: France) The capital is Paris.</information>\n\n",
    "tool_calls": "[1] France\nThe capital is Paris.",
    "igpo": "[1] France\nThe capital is Paris.",
}


@pytest.fixture(params=NAMES)
def named(request, composed):
    config = composed(f"data/dialect={request.param}")
    return request.param, instantiate(OmegaConf.to_container(config.data.dialect, resolve=True), _convert_="all")


def test_an_answer_inside_the_wrapper_is_a_well_formed_action(named):
    _, dialect = named
    before, after = dialect.answer_wrapper
    for answer in ("Paris", "x {y} z", "1,000 km"):
        assert dialect.parse(before + answer + after, [SEARCH]) == Action(answer=answer)


def test_an_episode_is_played_in_it(named):
    name, dialect = named
    retriever = BM25Retriever(lambda corpus: (PASSAGE, "Rome is old."))
    task = Task("t", "What is the capital of France?", ("Paris",), evidence=(PASSAGE,))
    game = search_qa(dialect, retriever)(task)
    assert dialect.parse(QUERY[name], [SEARCH]) == Action((ToolCall("search", {"query": "the capital"}),))
    result = game.step(QUERY[name])
    assert (said(result.observation), result.stop, result.useful) == ([RESULT[name]], None, True)
    assert game.step("Paris".join(dialect.answer_wrapper)).stop is StopReason.ANSWERED
    assert game.finish(StopReason.ANSWERED)["success"] == 1.0


def test_the_question_stands_in_the_prompt_as_it_is(named):
    _, dialect = named
    question = "Who wrote {this} and {0}?"
    prompt = dialect.prompt(question, [SEARCH])
    text = prompt if isinstance(prompt, str) else prompt.messages[-1]["content"]
    assert text.count(question) == 1


def test_a_call_may_have_another_tag_than_its_tool():
    dialect = text_tags("{question}", ("<answer>", "</answer>"), call_tags={"search": "query"})
    assert dialect.stop_strings([SEARCH]) == ("</query>", "</answer>")
    assert dialect.parse("<query>a</query>", [SEARCH]) == Action((ToolCall("search", {"query": "a"}),))
    assert dialect.parse("<search>a</search>", [SEARCH]) is None
    assert dialect.observe(["<query>b</query>"], [SEARCH]) == "<result> [query]b[/query]</result>"


BOXES = {
    r"Not \boxed{Rome} but \boxed{\text{Paris}} ": r"\text{Paris}",
    r"\boxed{Paris} (see {note})": "Paris",
    r"\boxed{A}, which is not {B}": "A",
    r"\boxed{a {b {c {d}}}} {": "a {b {c {d}}}",
    "\\boxed{two\nlines}}": "two\nlines",
    r"\boxed{}": None,
    r"\boxed{A} \boxed{B": None,
    r"\boxed{A {B}": None,
    "Paris": None,
}


@pytest.mark.parametrize("body", BOXES)
def test_the_last_box_up_to_its_own_brace_is_the_answer(composed, body):
    dialect = instantiate(composed("data/dialect=a_tgpo").data.dialect, _convert_="all")
    expected = BOXES[body] and Action(answer=BOXES[body])
    assert dialect.parse(f"<answer>{body}</answer>", [SEARCH]) == expected


@pytest.mark.parametrize("piece", ["<think>", "<answer>", "<tool_call>", r"\boxed{", "<answer>{", "</think><think>"])
def test_an_action_of_many_openings_costs_no_time(named, piece):
    _, dialect = named  # a pattern that goes back for each opening takes from seconds to hours
    for text in (piece * (50_000 // len(piece)), f"<answer>{piece * (50_000 // len(piece))}</answer>"):
        action = dialect.parse(text, [SEARCH])
        assert action is None or action.answer


TAGS = ("think", "search", "information", "answer")


@given(st.lists(st.sampled_from([f"<{s}{t}>" for t in TAGS for s in ("", "/")] + ["x", " ", "<", ">"]), max_size=12))
def test_no_result_leaves_a_tag_of_the_dialect_in_it(pieces):
    tags = ("<information>", "</information>")
    template = "{result}".join(tags)
    dialect = text_tags("{question}", ("<answer>", "</answer>"), result_tag="information", result_template=template)
    observation = dialect.observe(["".join(pieces)], [SEARCH]).removeprefix(tags[0]).removesuffix(tags[1])
    assert not any(f"<{s}{t}>" in observation for t in TAGS for s in ("", "/"))


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ('"A"\nb\nc', "1|A|b\nc"),
        ("b", "1||b"),
        ("b\nc", "1||b\nc"),
        ('"\nc', '1||"\nc'),
        ('"A" of "B"\nc', '1|A" of "B|c'),
    ],
)
def test_a_passage_has_a_title_if_its_first_line_is_one(contents, expected):
    assert passage_layout(template="{index}|{title}|{text}")([contents]) == expected


def test_passages_are_numbered_and_separated():
    assert passage_layout(template="{index}. {contents}", separator="; ")(["a", "b"]) == "1. a; 2. b"
    assert passage_layout(nothing="none")([]) == "none"


EXAMPLE = {
    "question": "What is the capital of France?",
    "turns": [
        {"calls": [{"tool": "search", "arguments": {"query": "capital of France"}}], "results": [[PASSAGE]]},
    ],
    "answer": "Paris",
}


def with_turn(**changes):
    return EXAMPLE | {"turns": [EXAMPLE["turns"][0] | changes]}


def calling(tool, **arguments):
    return with_turn(calls=[{"tool": tool, "arguments": arguments}])


def test_of_several_calls_in_a_worked_turn_each_is_an_action_where_a_tag_holds_one():
    calls = EXAMPLE["turns"][0]["calls"] * 2
    example = with_turn(thought="Twice.", calls=calls, results=["one", [PASSAGE]])
    dialect = text_tags("{question}", ("<think>So.</think> <answer>", "</answer>"), examples={"twice": example})
    dialect.stop_strings([SEARCH])
    assert dialect.prompt("Who?", [SEARCH]) == (
        "What is the capital of France?<think>Twice.</think> <search>capital of France</search><result> one</result>"
        f"<search>capital of France</search><result> {PASSAGE}</result><think>So.</think> <answer>Paris</answer>\n\n"
        "Who?"
    )


UNREADABLE = {
    "no such tool": calling("lookup", query="x"),
    "no such argument": calling("search", key="x"),
    "no argument": calling("search"),
    "another type": calling("search", query=["x"]),
    "a tag in the query": calling("search", query="</search><answer>x</answer></tool_call>"),
    "a tag in the answer": EXAMPLE | {"answer": "</answer>"},
    "fewer results than calls": with_turn(calls=EXAMPLE["turns"][0]["calls"] * 2),
}


@pytest.mark.parametrize("example", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("make", [text_tags, tool_calls])
def test_a_worked_episode_that_the_dialect_would_not_read_is_refused_by_name(make, example):
    dialect = make("{question}", ("<answer>", "</answer>"), examples={"first": EXAMPLE, "second": example})
    with pytest.raises(SettingError, match=r"^data\.dialect\.examples\.second: .*; expected "):
        search_qa(dialect, BM25Retriever(lambda corpus: (PASSAGE,)))(Task("t", "Who?", ("x",)))


REFUSED = [
    (
        lambda: text_tags("{question}", ("<answer>", ""), examples={"one": {"question": "x", "answer": "y"}}),
        r"data\.dialect\.examples=.*: expected in one \{question, turns, answer\}",
    ),
    (
        lambda: tool_calls("{question}", ("<answer>", ""), examples={"one": with_turn(calls=[{"tool": "search"}])}),
        r"data\.dialect\.examples=.*: expected in one in turns a list of \{calls, results\} and possibly thought",
    ),
    *(
        (
            partial(make, "{question}", ("<answer>", ""), assistant_prefix=prefix),
            r"data\.dialect\.assistant_prefix=.*: expected a text that opens no tag but, at its end, <think>",
        )
        for make in (text_tags, tool_calls)
        for prefix in ("<search>", "<think> I need", "<tool_call>\n")
    ),
    (
        lambda: passage_layout(template="{contents} {score}"),
        r"data\.dialect\.layout\.template='\{contents\} \{score\}': expected",
    ),
    (
        lambda: text_tags("no slot", ("<answer>", "")),
        r"data\.dialect\.prompt_template='no slot': expected a text with \{question\} in it",
    ),
    (
        lambda: tool_calls("no slot", ("<answer>", "")),
        r"data\.dialect\.prompt_template='no slot': expected a text with \{question\} in it",
    ),
    (
        lambda: text_tags("{question}", ("<answer>", ""), result_tag="info"),
        r"data\.dialect\.result_template='<result> .*': expected \{result\} inside the tag .*result_tag=info",
    ),
    (lambda: text_tags("{question}", ("", "</answer>")), r"data\.dialect\.answer_wrapper=.*: expected"),
    (lambda: tool_calls("{question}", ("<answer>",)), r"data\.dialect\.answer_wrapper=.*: expected"),
    *(
        (
            partial(make, "{question}", ("<answer>", ""), answer_pattern=pattern),
            r"data\.dialect\.answer_pattern=.*expected a regular expression with a group",
        )
        for make in (text_tags, tool_calls)
        for pattern in ("(", ".*", None, 3)
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_settings_that_cannot_work_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()

"""What an action text means, what the search tool may say, and how an episode is counted and judged."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.environments.matching import exact_match, f1, normalize_answer
from a2tgpo.environments.protocols import Action, ToolCall
from a2tgpo.retrievers.bm25 import BM25Retriever
from a2tgpo.rollouts.protocols import StepResult
from a2tgpo.rollouts.trajectory import Call, CallResult, StopReason, Task
from a2tgpo.system.errors import SettingError
from tests.helpers.episodes import SEARCH as TOOL
from tests.helpers.episodes import search_qa
from tests.helpers.shipped import text_tags

FIRST, SECOND = "The director of Bemi is Varo Tano.", "The birthplace of Varo Tano is Kelu."
PASSAGES = (FIRST, SECOND, "The star of Bemi is Dosi Pafe.")
TASK = Task("t", "What is the birthplace of the director of Bemi?", ("Kelu", "Kelu City"), evidence=(FIRST, SECOND))
DIALECT = text_tags("Question: {question}", ("<answer> ", "</answer>"))
SEARCH, ANSWER = "<search> director of Bemi</search>", "<answer> Kelu</answer>"


class Says:
    """A retriever that always does the same thing."""

    def __init__(self, act):
        self.act = act

    def search(self, query, topk, corpus=""):
        return self.act()


def raising(error):
    def act():
        raise error

    return Says(act)


def episode(retriever=None, task=TASK, **changes):
    return search_qa(DIALECT, retriever or BM25Retriever(lambda corpus: PASSAGES), **changes)(task)


# ---- The tag dialect -------------------------------------------------------------------------------------------------


def searching(query):
    return Action((ToolCall("search", {"query": query}),))


def answering(answer):
    return Action(answer=answer)


MEANINGS = {
    "a search": ("<search> x y</search>", searching("x y")),
    "an answer": ("<answer>x</answer>", answering("x")),
    "text around the action counts for nothing": ("well <search>x</search>", searching("x")),
    "several lines in the body": ("<search>\n x\ny </search>", searching("x\ny")),
    "a thought before the action": ("<think> a</think><search>x</search>", searching("x")),
    "several thoughts": ("<think>a</think><think>\nb</think><answer>x</answer>", answering("x")),
    "a thought inside the body": ("<answer>x<think>a</think>y</answer>", answering("x y")),
    "an answer inside a thought": ("<think><answer>no</answer></think><answer>x</answer>", answering("x")),
    "a stray tag inside a thought": ("<think><search></think><answer>x</answer>", answering("x")),
    "surplus text": ("<search>x</search>\n\nand", searching("x")),
    "surplus tags": ("<search>x</search></answer><result>", searching("x")),
    "two searches: the first one": ("<search>x</search><search>y</search>", searching("x")),
    "search, then answer: the search": ("<search>x</search><answer>y</answer>", searching("x")),
    "answer, then search: the answer": ("<answer>x</answer><search>y</search>", answering("x")),
    "angle brackets that are no tag": ("<answer>x < y > z <b></answer>", answering("x < y > z <b>")),
    "nothing": ("", None),
    "text alone": ("Kelu", None),
    "a thought alone": ("<think> a</think>", None),
    "an action only inside a thought": ("<think><answer>x</answer></think>", None),
    "unclosed": ("<search>x", None),
    "never opened": ("x</search>", None),
    "closed by the other tag": ("<search>x</answer>", None),
    "opened twice": ("<search>x<search>y</search>", None),
    "a stray closing tag first": ("</answer><answer>x</answer>", None),
    "an answer inside a search": ("<search>x<answer>y</answer></search>", None),
    "a search inside an answer": ("<answer><search>x</search></answer>", None),
    "a result of its own making": ("<result>x</result><answer>y</answer>", None),
    "a result inside the body": ("<search>x</result></search>", None),
    "a thought that does not end": ("<think> a<answer>x</answer>", None),
    "a thought that never began": ("a</think><answer>x</answer>", None),
    "a thought inside a thought": ("<think><think>a</think></think><answer>x</answer>", None),
    "capitals": ("<SEARCH>x</SEARCH>", None),
    "a body of blanks": ("<search> \n</search>", None),
    "an empty body": ("<answer></answer>", None),
    "a body that is a thought": ("<answer><think>x</think></answer>", None),
    "tags that a thought splits": ("<sea<think>a</think>rch>x</search>", None),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_every_text_has_one_meaning(name):
    text, action = MEANINGS[name]
    assert DIALECT.parse(text, [TOOL]) == action


@pytest.mark.parametrize("text", [text for text, action in MEANINGS.values() if action is None])
def test_a_malformed_action_ends_the_episode(text):
    game = episode()
    assert game.step(text) == StepResult(stop=StopReason.INVALID_ACTION)
    metrics = game.finish(StopReason.INVALID_ACTION)
    assert (metrics["format"], metrics["calls"], metrics["em"], metrics["success"]) == (0.0, 0.0, 0.0, 0.0)


HOSTILE = [
    "</result>",
    "<answer>x</answer>",
    "<search>",
    "</think>",
    "<think></search>",
    "<<search>search>",
    "</</result>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_tool_text_creates_no_tags(text):
    result = DIALECT.observe([f"before {text} after"], [TOOL])
    inside = result.removeprefix("<result>").removesuffix("</result>")
    assert len(inside) == len(result) - len("<result></result>")
    assert not any(
        f"<{slash}{tag}>" in inside for tag in ("think", "search", "result", "answer") for slash in ("", "/")
    )
    assert not any(stop in result for stop in DIALECT.stop_strings([TOOL]))


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("make", [lambda text: Says(lambda: [text]), lambda text: raising(RuntimeError(text))])
def test_tool_text_cannot_end_the_episode(text, make):
    game = episode(make(text))
    result = game.step(SEARCH)
    assert result.stop is None
    assert result.observation.count("<result>") == result.observation.count("</result>") == 1
    assert game.step(ANSWER).stop is StopReason.ANSWERED
    assert game.finish(StopReason.ANSWERED)["em"] == 1.0


# ---- Searching -------------------------------------------------------------------------------------------------------


def test_the_search_is_answered_by_the_best_passages():
    found = (Call("search", CallResult.FOUND),)
    assert episode().step(SEARCH) == StepResult(
        f"<result> {FIRST}</result>",
        useful=True,
        calls=found,
        action='[null, [["search", {"query": "director of Bemi"}]]]',
        n_new_pieces=1,
    )
    assert (
        episode(topk=2).step("<search> Bemi director</search>").observation
        == f"<result> {FIRST} {PASSAGES[2]}</result>"
    )


def test_the_prompt_is_the_template():
    assert episode().prompt() == f"Question: {TASK.question}"


def test_one_search_more_than_allowed_ends_the_episode():
    game = episode()
    assert [game.step(SEARCH).stop for _ in range(3)] == [None, None, StopReason.MAX_TURNS]
    assert game.finish(StopReason.MAX_TURNS)["calls"] == 2.0


def test_an_answer_is_taken_after_the_last_search():
    game = episode(max_calls=0)
    assert game.step(ANSWER).stop is StopReason.ANSWERED


def test_evidence_is_useful_once():
    game = episode(max_calls=5)
    searches = ("director of Bemi", "director of Bemi", "star of Bemi", "birthplace of Varo Tano")
    assert [game.step(f"<search> {query}</search>").useful for query in searches] == [True, False, False, True]
    assert game.finish(StopReason.MAX_TURNS)["useful_calls"] == 2.0


def test_usefulness_is_unknown_without_evidence():
    assert episode(task=Task("t", "q", ("a",))).step(SEARCH).useful is None


def test_an_empty_result_says_so_and_is_no_failure():
    game = episode(Says(lambda: []))
    result = game.step(SEARCH)
    assert (result.observation, result.useful, result.stop) == ("<result> Nothing was found.</result>", False, None)
    assert game.finish(StopReason.MAX_TURNS)["tool_failures"] == 0.0


def test_words_that_no_passage_holds_find_nothing():
    assert BM25Retriever(lambda corpus: PASSAGES).search("zzz qqq", 3) == []


def test_a_corpus_without_passages_is_refused_by_name():
    with pytest.raises(ValueError, match="corpus 'films' holds no passages"):
        BM25Retriever(lambda corpus: []).search("x", 1, "films")


@pytest.mark.parametrize("error", [RuntimeError("no index"), ConnectionError("no index"), KeyError("no index")])
def test_a_failed_search_becomes_news_for_the_policy(error):
    game = episode(raising(error))
    result = game.step(SEARCH)
    assert result.stop is None and result.useful is None
    assert result.observation == "<result> The search failed.</result>"
    assert result.calls == (Call("search", CallResult.FAILED, f"{type(error).__name__}: {error}"),)
    assert game.finish(StopReason.MAX_TURNS)["tool_failures"] == 1.0


def test_a_slow_search_is_given_up():
    release = threading.Event()
    game = episode(Says(lambda: release.wait(60)), tool_timeout=0.05)
    result = game.step(SEARCH)
    release.set()
    assert result.observation == "<result> The search failed.</result>"
    assert result.calls[0].why == "no answer within data.environment.tool_timeout=0.05 seconds"
    assert game.finish(StopReason.MAX_TURNS)["tool_failures"] == 1.0


def test_a_wrong_setting_ends_the_run():
    with pytest.raises(SettingError, match="corpus '' holds no passages"):
        episode(BM25Retriever(lambda corpus: [])).step(SEARCH)


@pytest.mark.parametrize("limit", [1, 3])
def test_too_many_failures_end_the_episode(limit):
    game = episode(raising(RuntimeError()), max_calls=9, max_tool_failures=limit)
    assert [game.step(SEARCH).stop for _ in range(limit)] == [None] * (limit - 1) + [StopReason.TOOL_FAILURE]
    assert game.finish(StopReason.TOOL_FAILURE)["tool_failures"] == float(limit)


# ---- Judging ---------------------------------------------------------------------------------------------------------

JUDGED = [
    ("Kelu", StopReason.ANSWERED, 1.0, 1.0),
    ("the KELU!", StopReason.ANSWERED, 1.0, 1.0),
    ("Kelu City", StopReason.ANSWERED, 1.0, 1.0),
    ("Kelu Town", StopReason.ANSWERED, 0.0, 2 / 3),
    ("Bemi", StopReason.ANSWERED, 0.0, 0.0),
    (None, StopReason.INVALID_ACTION, 0.0, 0.0),
    (None, StopReason.MAX_TURNS, 0.0, 0.0),
    (None, StopReason.MAX_TOKENS, 0.0, 0.0),
    (None, StopReason.TOOL_FAILURE, 0.0, 0.0),
]


@pytest.mark.parametrize(("answer", "stop", "em", "overlap"), JUDGED)
def test_every_end_is_judged(answer, stop, em, overlap):
    game = episode()
    if answer is not None:
        assert game.step(f"<answer>{answer}</answer>").stop is stop
    metrics = game.finish(stop)
    assert metrics == {
        "success": em,
        "em": em,
        "f1": pytest.approx(overlap, abs=1e-12),
        "format": float(stop not in (StopReason.INVALID_ACTION, StopReason.MAX_TOKENS)),
        "calls": 0.0,
        "useful_calls": 0.0,
        "early_answer": float(stop is StopReason.ANSWERED),
        "tool_failures": 0.0,
    }


def test_an_answer_whose_action_was_cut_is_not_judged():
    game = episode()
    game.step(ANSWER)
    assert game.finish(StopReason.MAX_TOKENS)["success"] == 0.0


def test_a_task_without_answers_can_be_played():
    game = episode(task=Task("open", "q", ()))
    metrics = game.finish(game.step(ANSWER).stop)
    assert (metrics["success"], metrics["em"], metrics["f1"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Kelu,\tCity!", "kelu city"),
        ("A man and an Apple", "man and apple"),
        ("theatre anthem", "theatre anthem"),
        ("U.S.A.", "usa"),
        ("a-b", "ab"),
        ("don't", "dont"),
        ("1,000", "1000"),
        ("Ünal – Kelu", "ünal – kelu"),
        ("the", ""),
    ],
)
def test_answers_are_normalised_as_in_squad(text, expected):
    assert normalize_answer(text) == expected


PIECES = [
    "the",
    "a",
    "The The",
    "!",
    "...",
    "\u0301",
    "e",
    "é",
    "İ",
    "ß",
    " ",
    "\n",
    "Kelu",
    "3.5",
    "’",
    "。",
    "_",
    "\x00",
]
texts = st.lists(st.sampled_from(PIECES), max_size=5).map("".join) | st.text(max_size=5)


@given(answer=texts, accepted=st.lists(texts, max_size=3))
def test_exact_match_is_never_more_than_f1(answer, accepted):
    assert 0.0 <= exact_match(answer, accepted) <= f1(answer, accepted) <= 1.0
    assert exact_match(answer, [answer]) == f1(answer, [answer]) == float(bool(answer.split()))


@pytest.mark.parametrize(
    ("answer", "accepted", "em", "overlap"),
    [
        ("Kelu", ("kelu",), 1.0, 1.0),
        ("Kelu", ("Dosi", "The Kelu."), 1.0, 1.0),
        ("Varo Tano", ("Tano Varo",), 0.0, 1.0),
        ("Varo", ("Varo Tano",), 0.0, 2 / 3),  # precision 1, recall 1/2
        ("Varo Varo Tano", ("Varo Dosi",), 0.0, 0.4),  # one common word: precision 1/3, recall 1/2
        ("Varo", ("Dosi Pafe", "Varo Tano Kelu"), 0.0, 0.5),  # the best of several
        ("Varo", ("Dosi",), 0.0, 0.0),
        ("the", ("Dosi",), 0.0, 0.0),
        ("...", ("!!!",), 0.0, 0.0),  # nothing is left of either: their own characters are compared
        ("!!!", ("!!!",), 1.0, 1.0),
        ("The", ("A",), 0.0, 0.0),
        ("The The", ("the",), 0.0, 2 / 3),
        ("the the", ("The The",), 1.0, 1.0),
        (" ", (" ",), 0.0, 0.0),
        ("Beyonce\u0301", ("Beyonc\u00e9",), 1.0, 1.0),  # the same characters, written in two ways
        # as SQuAD's script has it, and with it published figures:
        ("don’t", ("don't",), 0.0, 0.0),
        ("２０２０", ("2020",), 0.0, 0.0),
        ("東京。", ("東京",), 0.0, 0.0),
        ("C++", ("C#",), 1.0, 1.0),
        ("35", ("3.5",), 1.0, 1.0),
        ("Varo", (), 0.0, 0.0),
    ],
)
def test_exact_match_and_f1_by_hand(answer, accepted, em, overlap):
    assert exact_match(answer, accepted) == em
    assert f1(answer, accepted) == pytest.approx(overlap, abs=1e-12)

"""Every parser takes every text: it reads it or says in its own words what is wrong. A million texts, two minutes."""

import json
import re
import string
from pathlib import Path
from random import Random

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from a2tgpo.environments.judges.answer_match import AnswerMatch
from a2tgpo.environments.judges.numeric import Numeric
from a2tgpo.environments.protocols import Action
from a2tgpo.environments.safe_arithmetic import ExpressionError, read_number
from a2tgpo.environments.tools.calculator import calculate
from a2tgpo.environments.tools.schema import read_tool
from a2tgpo.retrievers.bm25 import BM25Retriever
from a2tgpo.retrievers.http import HttpRetriever, RetrievalError
from a2tgpo.retrievers.passages import read_document
from a2tgpo.rollouts.protocols import Chat
from a2tgpo.rollouts.thinking import END_THINK, THINK, cut_out, only_quoted, without_thoughts
from a2tgpo.rollouts.trajectory import Split, Task
from a2tgpo.system.jsonl import read_json
from a2tgpo.tasks.question_files import open_questions
from a2tgpo.tasks.question_rows import Layout
from tests.helpers.episodes import SEARCH, said
from tests.helpers.grammar import JSON, text, value
from tests.helpers.shipped import settings

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
DIALECTS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "data" / "dialect").glob("*.yaml"))
N = 50_000
"""Texts a test."""


def lookup(query: str, year: int = 0, exact: bool = False, weight: float = 1.0) -> str:
    """Looks something up."""
    return query


TOOLS = [SEARCH, read_tool("lookup", lookup).tool]


def texts(seed):
    random = Random(seed)
    return (text(random) for _ in range(N))


@pytest.fixture
def dialect(request, composed):
    config = composed(f"data/dialect={request.param}").data.dialect
    return instantiate(OmegaConf.to_container(config, resolve=True), _convert_="all")


def require_well_formed(action):
    """An answer with some text in it, or calls of known tools with arguments of their types."""
    if action is None:
        return
    assert isinstance(action, Action) and bool(action.calls) != bool(action.answer and action.answer.strip())
    for call in action.calls:
        (tool,) = (tool for tool in TOOLS if tool.name == call.name)
        assert {name for name, p in tool.parameters.items() if p.required} <= call.arguments.keys()
        for name, argument in call.arguments.items():
            assert type(argument) is tool.parameters[name].type and (argument != "" or argument.strip())


@pytest.mark.parametrize("dialect", DIALECTS, indirect=True)
def test_an_action_is_well_formed_or_malformed(dialect):
    random = Random(1)
    opening, closing = dialect.answer_wrapper
    well_formed = 0
    for body in texts(0):
        whole = random.choice(
            (body, opening + body + closing, f"<tool_call>{body}</tool_call>", f"<search>{body}</search>")
        )
        action = dialect.parse(whole, TOOLS)
        require_well_formed(action)
        well_formed += action is not None
    assert N / 20 < well_formed < N  # both kinds are tried


@pytest.mark.parametrize("dialect", DIALECTS, indirect=True)
def test_a_result_speaks_for_nobody(dialect):
    stops = dialect.stop_strings(TOOLS)
    frame = "".join(said(dialect.observe([""], TOOLS)))
    for result in texts(2):
        observation = dialect.observe([result, result], TOOLS)
        shown = "".join(said(observation))
        assert not any(stop in shown for stop in stops)
        assert isinstance(observation, Chat) or all(shown.count(tag) == frame.count(tag) for tag in tags(dialect))
        assert dialect.layout([result]) and dialect.layout([])


def tags(dialect):
    return [f"<{slash}{tag}>" for tag in ("think", "search", dialect.result_tag, "answer") for slash in ("", "/")]


@pytest.mark.parametrize("dialect", DIALECTS, indirect=True)
def test_a_question_stands_in_its_prompt_as_it_is(dialect):
    for question in texts(3):
        prompt = dialect.prompt(question, TOOLS)
        assert question in (prompt if isinstance(prompt, str) else prompt.messages[-1]["content"])


def test_thoughts_and_calls_are_cut_out_as_a_pattern_would():
    for whole in texts(4):
        assert without_thoughts(whole) == re.sub(f"{THINK}.*?{END_THINK}", " ", whole, flags=re.DOTALL)
        outside, inside = cut_out(whole, "<tool_call>", "</tool_call>")
        assert inside == re.findall("<tool_call>(.*?)</tool_call>", whole, re.DOTALL)
        assert "".join(outside) == re.sub("<tool_call>.*?</tool_call>", "", whole, flags=re.DOTALL)
        assert not only_quoted(["</search>"], whole) or "</search>" in whole


@pytest.mark.parametrize("dialect", ["a_tgpo"], indirect=True)
def test_a_box_ends_at_its_own_brace(dialect):
    for body in texts(5):
        if any(tag in body for tag in tags(dialect)):
            continue
        action = dialect.parse(f"<answer>{body}</answer>", TOOLS)
        assert (action and action.answer) == boxed(body.strip())


def boxed(body):
    """The last box, brace by brace; None where it is blank, open, or nested more than three deep."""
    _, box, rest = body.rpartition("\\boxed{")
    depth = 1
    for i, character in enumerate(rest if box else ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth > 4:
            return None
        if depth == 0:
            return rest[:i].strip() or None
    return None


@pytest.mark.parametrize("judge", [AnswerMatch(), Numeric()])
def test_a_match_is_a_share_and_exact_only_where_it_is_whole(judge):
    random = Random(6)
    for answer in texts(7):
        accepted = tuple(random.choice((answer, text(random, 3))) for _ in range(random.randint(0, 3)))
        found = judge(answer, Task("t", "q", accepted))
        assert found["success"] == found["em"] and 0.0 <= found["em"] <= found["f1"] <= 1.0


def test_a_sum_has_a_value_or_a_reason():
    random, values = Random(8), 0
    for expression in texts(9):
        expression = (
            expression if random.random() < 0.5 else "".join(random.choice("0123456789.+-*/%() ") for _ in range(9))
        )
        read_number(expression)
        try:
            result = calculate(expression)
        except ExpressionError as error:
            assert str(error)
        else:
            assert read_number(result) is not None
            values += 1
    assert values > N / 100


def test_json_is_a_value_of_plain_text_or_an_error():
    random, values = Random(10), 0
    for _ in range(N):
        line = random.choice((json.dumps(value(random, ("a", "b"))), "".join(random.choices(JSON, k=5)))).encode()
        if random.random() < 0.3 and line:
            line = bytearray(line)
            line[random.randrange(len(line))] = random.randrange(256)
        try:
            found = read_json(bytes(line))
        except ValueError as error:
            assert str(error)
        else:
            json.dumps(found, ensure_ascii=False).encode()  # no half of a surrogate pair is left
            values += 1
    assert N / 5 < values < N


ROW_NAMES = (
    "question",
    "prompt",
    "extra_info",
    "reward_model",
    "reward_spec",
    "golden_answers",
    "ground_truth",
    "answer",
)
ROW_NAMES += (
    "solution",
    "target",
    "value",
    "aliases",
    "answer_aliases",
    "role",
    "content",
    "id",
    "data_source",
    "user",
    "title",
    "sentences",
    "sent_id",
    "paragraph_text",
    "is_supporting",
    "idx",
    "paragraph_support_idx",
)
RESTING = ("context", "supporting_facts", "paragraphs", "question_decomposition", "metadata")


def paragraphs(random):
    """What a file of MuSiQue might hold that somebody got wrong in one place."""
    numbers = ("idx", "paragraph_support_idx")
    texts = {name: random.choice("ab") for name in ("title", "paragraph_text", "question", "answer")}
    return [texts | {name: random.choice((0, 1, value(random, ROW_NAMES, 2))) for name in numbers} for _ in range(2)]


def test_a_row_is_a_question_or_is_named(tmp_path):
    random, tasks = Random(11), 0
    for index in range(N):
        row = value(random, ROW_NAMES)
        row = row if isinstance(row, dict) else {}
        row |= {"question": row.get("question", "q")} if random.random() < 0.5 else {"prompt": row.get("prompt", "q")}
        row.setdefault(random.choice(("answer", "golden_answers")), value(random, ROW_NAMES, 1))
        row |= {name: value(random, (*ROW_NAMES, *RESTING)) for name in RESTING if random.random() < 0.1}
        if random.random() < 0.1:
            row |= {"paragraphs": paragraphs(random), "question_decomposition": paragraphs(random)}
        try:
            task = Layout.detect(row, "dev.jsonl", "dev", "Question:").task(row, index)
        except ValueError as error:
            assert str(error).startswith(f"dev.jsonl, row {index}, column ")
        else:
            assert task.question.strip() and task.answers and all(answer.strip() for answer in task.answers)
            tasks += 1
    assert tasks > N / 10


def test_a_question_file_is_read_or_its_line_is_named(tmp_path):
    random = Random(12)
    for _ in range(N // 20):
        path = tmp_path / f"dev{random.choice(('.jsonl', '.json', '.csv', '.tsv'))}"
        rows = [json.dumps(value(random, ROW_NAMES)) for _ in range(random.randint(0, 3))]
        rows += [json.dumps({"question": text(random), "answer": text(random)})]
        path.write_bytes("\n".join(rows).encode(random.choice(("utf-8", "utf-8", "utf-16")), "surrogatepass"))
        try:
            list(open_questions("data.tasks.train", str(path), Split.TRAIN))
        except ValueError as error:
            assert str(path) in str(error)


PASSAGE_NAMES = ("result", "document", "contents", "text", "title", "id", "score", "passages")


def test_an_answer_of_a_retrieval_server_is_passages_or_an_error():
    retriever, random, found = HttpRetriever(**settings("data/retriever/http")), Random(13), 0
    for _ in range(N):
        answer = value(random, PASSAGE_NAMES)
        if random.random() < 0.7:
            answer = {"result": [[value(random, PASSAGE_NAMES, 2) for _ in range(random.randint(0, 2))]]}
        try:
            passages = retriever._read(answer)
        except RetrievalError as error:
            assert str(error).startswith("data.retriever.url=")
        else:
            assert all(passage.strip() for passage in passages)
            found += bool(passages)
    retriever.close()
    assert found > N / 200


def test_a_document_has_an_id_and_contents_or_a_field_is_named():
    random = Random(14)
    for _ in range(N):
        try:
            name, contents = read_document(value(random, PASSAGE_NAMES))
        except ValueError as error:
            assert "expected" in str(error)
        else:
            assert isinstance(name, str) and contents.strip()


def test_a_query_finds_passages_of_its_words_or_nothing():
    passages = ('"France"\nThe capital is Paris.', "Apollo 9 followed in 1969.", "it's 3.5 for a", string.punctuation)
    retriever = BM25Retriever(lambda corpus: passages)
    for query in texts(15):
        found = retriever.search(query, 3)
        assert set(found) <= set(passages) and (query.strip() or not found)

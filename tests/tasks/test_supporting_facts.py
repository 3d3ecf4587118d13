"""What a question rests on, read from the sets that say it, and the corpus of the passages that come with them."""

import importlib.util
import json
import subprocess
import sys

import pytest

from a2tgpo.retrievers.corpus_bm25 import CorpusBM25
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.tasks.question_files import open_questions
from tests.helpers.published import (
    HOTPOTQA,
    HOTPOTQA_PASSAGES,
    MUSIQUE,
    MUSIQUE_PASSAGES,
    TWO_WIKI,
    TWO_WIKI_PASSAGES,
    in_columns,
)
from tests.helpers.tiny_runs import ROOT

SCRIPT = ROOT / "scripts" / "make_corpus.py"
FLASHRAG = {
    "id": "dev_0",
    "question": TWO_WIKI["question"],
    "golden_answers": ["Brooklyn"],
    "metadata": {key: in_columns(TWO_WIKI, "content")[key] for key in ("type", "supporting_facts", "context")},
}
AS_TEXT = {key: json.dumps(value) if isinstance(value, list) else value for key, value in TWO_WIKI.items()}
HOTPOTQA_STEPS = (("First for Women", '"First for Women"'), ("Arthur's Magazine", '"Arthur\'s Magazine"'))
TWO_WIKI_STEPS = (("Move (1970 film)", '"Move (1970 film)"'), ("Stuart Rosenberg", '"Stuart Rosenberg"'))
MUSIQUE_STEPS = (
    ("Green performer", '"Green"\nGreen is an album by Steve Hillage.'),
    ("Which band was Steve Hillage in?", '"Steve Hillage"'),
)
PUBLISHED = {
    "hotpotqa.json": (HOTPOTQA, HOTPOTQA_STEPS, HOTPOTQA_PASSAGES),
    "hotpotqa.jsonl": (in_columns(HOTPOTQA), HOTPOTQA_STEPS, HOTPOTQA_PASSAGES),
    "hotpotqa.parquet": (in_columns(HOTPOTQA), HOTPOTQA_STEPS, HOTPOTQA_PASSAGES),
    "two_wiki.json": (TWO_WIKI, TWO_WIKI_STEPS, TWO_WIKI_PASSAGES),
    "two_wiki.parquet": (AS_TEXT, TWO_WIKI_STEPS, TWO_WIKI_PASSAGES),
    "flashrag.jsonl": (FLASHRAG, TWO_WIKI_STEPS, TWO_WIKI_PASSAGES),
    "musique.jsonl": (MUSIQUE, MUSIQUE_STEPS, MUSIQUE_PASSAGES),
    "musique.parquet": (MUSIQUE, MUSIQUE_STEPS, MUSIQUE_PASSAGES),
}


@pytest.fixture(scope="module")
def make_corpus():
    spec = importlib.util.spec_from_file_location("make_corpus", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path):
    return list(open_questions("data.tasks.test", path, Split.TEST))


def steps(task):
    return tuple(zip(task.reference_calls, task.evidence, strict=True))


def message(path):
    with pytest.raises(ValueError) as raised:
        read(path)
    return str(raised.value)


# ---- what the answer rests on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_say_what_the_answer_rests_on(write, name):
    row, expected, _ = PUBLISHED[name]
    [task] = read(write([row], name))
    assert steps(task) == expected
    assert task.question == row["question"] and task.task_id.endswith(row.get("_id", row.get("id")))


def test_aliases_of_musique_are_accepted(write):
    assert read(write([MUSIQUE], "a.jsonl"))[0].answers == ("Gong", "Gong band")


def test_without_steps_the_supporting_paragraphs_count(write):
    row = {key: value for key, value in MUSIQUE.items() if key != "question_decomposition"}
    assert steps(read(write([row], "a.jsonl"))[0]) == (
        ("Green", '"Green"\nGreen is an album by Steve Hillage.'),  # the question names it, the other follows from it
        ("Steve Hillage", '"Steve Hillage"'),
    )


def test_a_title_that_stands_inside_another_word_is_not_named_by_the_question(write):
    facts = [["Green", 0], ["Greenland", 0]]
    row = {**HOTPOTQA, "question": "Who rules Greenland?", "supporting_facts": facts}
    assert read(write([row], "a.json"))[0].reference_calls == ("Greenland", "Green")


@pytest.mark.parametrize(
    "change",
    [
        {"supporting_facts": None},
        {"supporting_facts": []},
        {"context": None},
        {"context": "a text", "supporting_facts": None},
    ],
)
def test_a_row_that_does_not_say_it_leaves_it_unknown(write, change):
    assert steps(read(write([{**HOTPOTQA, **change}], "a.json"))[0]) == ()


def test_a_question_that_its_paragraphs_cannot_answer_leaves_it_unknown(write):
    first, second = MUSIQUE["question_decomposition"]
    row = {**MUSIQUE, "question_decomposition": [first, {**second, "paragraph_support_idx": None}]}
    assert steps(read(write([row], "a.jsonl"))[0]) == ()


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        ({**HOTPOTQA, "supporting_facts": ["First for Women"]}, "supporting_facts", "pairs [title, sent_id], or lists"),
        (
            {**HOTPOTQA, "supporting_facts": {"title": ["a"], "sent_id": []}},
            "supporting_facts",
            "pairs [title, sent_id]",
        ),
        ({**HOTPOTQA, "supporting_facts": "First for Women"}, "supporting_facts", "pairs [title, sent_id], or lists"),
        (
            {**FLASHRAG, "metadata": {"supporting_facts": 7, "context": {}}},
            "metadata.supporting_facts",
            "pairs [title, sent_id], or lists title and sent_id of one length",
        ),
        ({**MUSIQUE, "paragraphs": ["a"]}, "paragraphs", "a list of objects with title and paragraph_text"),
        ({**MUSIQUE, "question_decomposition": [7]}, "question_decomposition", "a list of objects with question and"),
        (
            {**MUSIQUE, "paragraphs": MUSIQUE["paragraphs"][:2]},
            "question_decomposition.paragraph_support_idx",
            "the idx of one of 2 paragraphs",
        ),
    ],
)
def test_a_column_of_another_form_is_refused(write, row, column, expected):
    path = write([row], "a.json")
    said = message(path)
    assert said.startswith(f"{path}, row 0, column {column}: got ") and f"; expected {expected}" in said


# ---- the corpus ------------------------------------------------------------------------------------------------------


def documents(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_corpus_of_published_files(write, make_corpus, tmp_path, name):
    row, _, passages = PUBLISHED[name]
    output = tmp_path / "corpus.jsonl"
    assert make_corpus.write_corpus([write([row, row], name)], output) == (2, len(passages))
    assert documents(output) == [{"id": i, "contents": contents} for i, contents in enumerate(passages)]


def test_the_corpus_of_several_files_from_the_shell(write, tmp_path):
    paths = [write([HOTPOTQA], "a.json"), write([MUSIQUE], "b.jsonl"), write([in_columns(HOTPOTQA)], "c.parquet")]
    output = tmp_path / "new" / "corpus.jsonl"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *paths, "--output", str(output)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"6 passages of 3 questions in {output}\n")
    assert [document["contents"] for document in documents(output)] == HOTPOTQA_PASSAGES + MUSIQUE_PASSAGES


def test_reference_calls_find_their_evidence_in_the_corpus(write, make_corpus, tmp_path):
    paths = [write([row], name) for name, (row, _, _) in PUBLISHED.items()]
    make_corpus.write_corpus(paths, tmp_path / "corpus.jsonl")
    retriever = CorpusBM25(str(tmp_path / "corpus.jsonl"), str(tmp_path / "index"), k1=1.5, b=0.75)
    for path in paths:
        for call, shown in steps(read(path)[0]):
            assert any(passage.startswith(shown) for passage in retriever.search(call, topk=3))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"question": "q", "answer": "x"},
            "row 1: no passages in its columns question, answer; expected context (Hotp",
        ),
        ({**HOTPOTQA, "context": [["T", "text"]]}, "row 1, column context: got 'text'; expected the sentences of a"),
        ({**HOTPOTQA, "context": "text"}, "row 1, column context: got 'text'; expected pairs [title, sentences], or"),
    ],
)
def test_a_file_that_brings_no_passages_leaves_the_old_corpus(write, make_corpus, tmp_path, row, expected):
    output = tmp_path / "corpus.jsonl"
    output.write_text("old")
    path = write([HOTPOTQA, row], "a.jsonl")
    with pytest.raises(ValueError) as raised:
        make_corpus.write_corpus([path], output)
    assert str(raised.value).startswith(f"{path}, ") and expected in str(raised.value)
    assert output.read_text() == "old" and list(tmp_path.glob("*.part")) == []


def test_questions_whose_passages_are_all_empty_are_refused(write, make_corpus, tmp_path):
    path = write([{**HOTPOTQA, "context": []}], "a.json")
    with pytest.raises(ValueError, match="no passages; expected questions that come with some"):
        make_corpus.write_corpus([path], tmp_path / "corpus.jsonl")

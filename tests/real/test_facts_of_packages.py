"""scripts/make_facts.py over the packages of the extra `facts`: what the task of real facts promises."""

import json
import re
import subprocess
import sys
from collections import defaultdict

import pytest

from a2tgpo.retrievers.corpus_bm25 import CorpusBM25
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.tasks.question_files import open_questions
from tests.helpers.tiny_runs import ROOT

pytestmark = pytest.mark.real


def make(directory, *options):
    command = [sys.executable, str(ROOT / "scripts" / "make_facts.py"), "--output", str(directory), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("facts"))


@pytest.fixture(scope="module")
def splits(folder):
    return {
        name: list(open_questions("test", f"{folder}/{name}.jsonl", Split.TEST)) for name in ("train", "val", "test")
    }


def documents(folder):
    texts = [
        json.loads(line)["contents"] for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return {title[1:-1]: text for title, _, text in (contents.partition("\n") for contents in texts)}


def test_there_are_enough_questions_of_two_and_three_steps(splits):
    assert len(splits["train"]) >= 1000 and len(splits["val"]) >= 100 and len(splits["test"]) >= 300
    for tasks in splits.values():
        assert sum(task.kind == "3 steps" for task in tasks) >= len(tasks) / 5


def test_a_question_has_one_right_answer(splits):
    answers = defaultdict(set)
    for task in (task for tasks in splits.values() for task in tasks):
        answers[task.question].add(task.answers)
    assert all(len(found) == 1 for found in answers.values())


def test_known_facts_are_right(splits):
    found = {task.question: task.answers[0] for tasks in splits.values() for task in tasks}
    known = {
        "What is the currency of the country whose capital is Nairobi?": "Kenyan Shilling",
        "What is the capital of the country whose main language is Icelandic?": "Reykjavik",
        "What is the capital of the country where Osaka lies?": "Tokyo",
        "What is the main language of the country where Szeged lies?": "Hungarian",
        "What is the symbol of the element that Clemens Winkler discovered?": "Ge",
        "What is the atomic number of the element that Johann Gadolin discovered?": "39",
    }
    asked = {question: answer for question, answer in known.items() if question in found}
    assert len(asked) >= 3 and all(found[question] == answer for question, answer in asked.items())


def test_no_entity_of_the_test_is_in_a_train_question(splits):
    names = {name for task in splits["test"] for name in (task.reference_calls[0], *task.answers)}
    held_out = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, names))})(?!\w)")
    for task in splits["train"]:
        assert not held_out.search(task.question) and not names & {*task.answers, *task.reference_calls}


def test_documents_lead_from_the_question_to_the_answer(folder, splits):
    texts = documents(folder)
    for task in (task for tasks in splits.values() for task in tasks):
        titles = task.reference_calls
        for title, found in zip(titles, (*titles[1:], task.answers[0]), strict=True):
            assert found in texts[title]
    assert not any("nan" in text.split() or "None" in text for text in texts.values())


def test_reference_calls_find_their_documents_first(folder, splits, tmp_path):
    retriever = CorpusBM25(str(folder / "corpus.jsonl"), str(tmp_path), k1=1.5, b=0.75)
    calls = [pair for task in splits["test"] for pair in zip(task.reference_calls, task.evidence, strict=True)]
    hits = sum(retriever.search(call, topk=1)[0].startswith(page) for call, page in calls)
    assert hits / len(calls) > 0.95


def test_a_seed_gives_the_same_files(folder, tmp_path):
    again, other = make(tmp_path / "a"), make(tmp_path / "b", "--seed", "1")
    for name in ("corpus", "train", "val", "test"):
        made = [(directory / f"{name}.jsonl").read_bytes() for directory in (folder, again, other)]
        assert made[0] == made[1] and (made[1] == made[2]) == (name == "corpus")

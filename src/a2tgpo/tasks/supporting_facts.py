"""The passages that come with a question, and those that its answer rests on.

| layout | passages | what the answer rests on |
|---|---|---|
| HotpotQA, 2WikiMultihopQA; FlashRAG has both under `metadata` | `context` | the titles in `supporting_facts` |
| MuSiQue | `paragraphs` | those of the steps of `question_decomposition`, or the ones that are `is_supporting` |

`context` and `supporting_facts` are lists of pairs, or columns, or either as a text of JSON.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from a2tgpo.retrievers.passages import page, titled
from a2tgpo.system.jsonl import read_json

Refuse = Callable[[str, object, str], NoReturn]
"""Raises ValueError, given a column, what stands there, and what was expected."""
Row = Mapping[str, Any]
CONTEXT, FACTS, PARAGRAPHS, STEPS = "context", "supporting_facts", "paragraphs", "question_decomposition"
SECONDS = {CONTEXT: ("sentences", "content"), FACTS: ("sent_id",)}
"""What may stand beside a title, where a column holds columns."""
_ANSWER_OF_STEP = re.compile(r"#\d+")


def passages(row: Row, refuse: Refuse) -> list[str] | None:
    """Contents of the passages that come with the question; those without text are left out. None where `row` has no
    column for them."""
    if (found := _holder(row, CONTEXT)) is not None:
        pairs = [(title, _text(sentences, found, refuse)) for title, sentences in _pairs(found, CONTEXT, refuse)]
    elif row.get(PARAGRAPHS) is not None:
        pairs = [(one["title"], one["paragraph_text"]) for one in _paragraphs(row, refuse)]
    else:
        return None
    return [titled(title, text) for title, text in pairs if text.strip()]


def steps(row: Row, question: str, refuse: Refuse) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The searches that lead to the answer, and what each must bring: a page, or one passage where several have its
    title. Empty where the row does not say it of every step."""
    if (found := _holder(row, CONTEXT, FACTS)) is not None:
        titles = dict.fromkeys(title for title, _ in _pairs(found, FACTS, refuse))
        pairs = [(title, page(title)) for title in titles]
    elif row.get(PARAGRAPHS) is not None:
        pairs = _steps_of_paragraphs(row, refuse)
    else:
        pairs = []
    if row.get(STEPS) is None:
        pairs.sort(key=lambda pair: _is_not_named(pair[0], question))
    return tuple(call for call, _ in pairs), tuple(shown for _, shown in pairs)


def _holder(row: Row, *columns: str) -> tuple[str, Row] | None:
    """What holds all of `columns`: the row, or its metadata; and how its columns are called in errors."""
    for prefix, place in (("", row), ("metadata.", row.get("metadata"))):
        if isinstance(place, Mapping) and all(place.get(column) is not None for column in columns):
            return prefix, place
    return None


def _pairs(found: tuple[str, Row], column: str, refuse: Refuse) -> list[tuple[str, Any]]:
    """What `column` holds: titles, each with what stands beside it."""
    prefix, place = found
    given = _read(place[column])
    if isinstance(given, Mapping):
        beside = next((given[name] for name in SECONDS[column] if name in given), None)
        lists = isinstance(given.get("title"), list) and isinstance(beside, list) and len(given["title"]) == len(beside)
        given = list(zip(given["title"], beside, strict=True)) if lists else None
    if not isinstance(given, list) or not all(_is_pair(one) for one in given):
        second = SECONDS[column][0]
        refuse(prefix + column, place[column], f"pairs [title, {second}], or lists title and {second} of one length")
    return given


def _read(value: object) -> object:
    """`value`, or what its text says in JSON; None where it says nothing."""
    try:
        return read_json(value.encode()) if isinstance(value, str) else value
    except ValueError:
        return None


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)


def _text(sentences: object, found: tuple[str, Row], refuse: Refuse) -> str:
    """Some files begin each sentence with a blank, others do not."""
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        refuse(f"{found[0]}{CONTEXT}", sentences, "the sentences of a passage: a list of strings")
    return " ".join(filter(None, (sentence.strip() for sentence in sentences)))


def _is_not_named(title: str, question: str) -> bool:
    """Only what the question names can be searched for at once: what follows from it comes later."""
    name = re.escape(title.partition(" (")[0])
    return re.search(rf"(?<!\w){name}(?!\w)", question, re.IGNORECASE) is None


def _paragraphs(row: Row, refuse: Refuse) -> list[Row]:
    given = _read(row[PARAGRAPHS])
    if not isinstance(given, list) or not all(_has_texts(one, "title", "paragraph_text") for one in given):
        refuse(PARAGRAPHS, row[PARAGRAPHS], "a list of objects with title and paragraph_text")
    return given


def _has_texts(value: object, *names: str) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(name), str) for name in names)


def _steps_of_paragraphs(row: Row, refuse: Refuse) -> list[tuple[str, str]]:
    paragraphs = _paragraphs(row, refuse)
    titles = Counter(one["title"] for one in paragraphs)
    shown = [
        page(one["title"]) if titles[one["title"]] == 1 else titled(one["title"], one["paragraph_text"])
        for one in paragraphs
    ]
    if row.get(STEPS) is None:
        return [(one["title"], text) for one, text in zip(paragraphs, shown, strict=True) if one.get("is_supporting")]
    given = _read(row[STEPS])
    if not isinstance(given, list) or not all(_has_texts(step, "question", "answer") for step in given):
        refuse(STEPS, row[STEPS], "a list of objects with question and answer")
    needed = [step.get("paragraph_support_idx") for step in given]
    if None in needed:  # a question that cannot be answered from its paragraphs
        return []
    numbers = [one.get("idx", i) for i, one in enumerate(paragraphs)]
    if unknown := [number for number in needed if number not in numbers]:
        refuse(f"{STEPS}.paragraph_support_idx", unknown[0], f"the idx of one of {len(paragraphs)} paragraphs")
    known = {f"#{number}": step["answer"] for number, step in enumerate(given, 1)}
    calls = [_ANSWER_OF_STEP.sub(lambda hit: known.get(hit[0], hit[0]), step["question"]) for step in given]
    found = [shown[numbers.index(number)] for number in needed]
    return [(call.replace(" >> ", " "), text) for call, text in zip(calls, found, strict=True)]

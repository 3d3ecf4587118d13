"""Facts as a task: questions for each split, which hold entities out, and the files."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from a2tgpo.retrievers.passages import titled
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.jsonl import write_jsonl
from a2tgpo.tasks.facts import Facts, Question

SHARES = {Split.TEST: 0.25, Split.VALIDATION: 0.1, Split.TRAIN: 0.65}
"""Of the countries, and of the elements that were found in none of them."""
SIZES = {Split.TEST: 400, Split.VALIDATION: 200, Split.TRAIN: 2000}
"""At most so many questions are drawn for a split."""


def draw(blocks: Sequence[Sequence[Question]], seed: int) -> dict[Split, list[Question]]:
    """Questions for each split, from blocks of its own. None of a later split speaks of what an earlier one asks about
    or answers, in the order test, validation, train."""
    rng = Random(seed)
    left = rng.sample(blocks, len(blocks))
    drawn: dict[Split, list[Question]] = {}
    for part, share in SHARES.items():
        count = len(left) if part is Split.TRAIN else round(share * len(blocks))
        taken, left = left[:count], left[count:]
        names = {name for questions in drawn.values() for q in questions for name in (q.titles[0], *q.answers)}
        held_out = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(names))) or '(?!)'})(?!\w)")
        free = [q for block in taken for q in block if not held_out.search(" ".join((q.text, *q.answers)))]
        drawn[part] = rng.sample(free, min(SIZES[part], len(free)))
    return drawn


def write_task(facts: Facts, seed: int, directory: Path) -> dict[str, int]:
    """`corpus.jsonl` for the retrievers, and the questions of each split in the layout of HotpotQA; how many lines each
    file has."""
    documents = facts.documents()
    files: dict[str, list[dict[str, Any]]] = {
        "corpus": [
            {"id": i, "contents": titled(title, " ".join(text))} for i, (title, text) in enumerate(documents.items())
        ]
    }
    for split, questions in draw(facts.blocks(), seed).items():
        files[split] = [_row(f"{split}-{i}", question, documents) for i, question in enumerate(questions)]
    for name, lines in files.items():
        write_jsonl(directory / f"{name}.jsonl", lines)
    return {f"{name}.jsonl": len(lines) for name, lines in files.items()}


def _row(name: str, question: Question, documents: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "_id": name,
        "question": question.text,
        "golden_answers": question.answers,
        "data_source": f"{len(question.titles)} steps",
        "supporting_facts": [(title, 0) for title in question.titles],
        "context": [(title, documents[title]) for title in question.titles],
    }

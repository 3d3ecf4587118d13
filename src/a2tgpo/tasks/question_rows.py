"""A row of a question file, in any of the known layouts, as a question and its accepted answers.

| layout | question | ground truth |
|---|---|---|
| verl, Search-R1, A-TGPO | `extra_info.question`, or the prompt's last user message | `reward_model.ground_truth` |
| IGPO, DR-Venus | the same | the same: one string, aliases joined by `<|answer_split|>` |
| SkyRL | the same | `reward_spec.ground_truth` |
| FlashRAG | `question` | `golden_answers` |
| TRL | the prompt's last user message | `ground_truth`, `answer` or `solution` |
| HotpotQA, 2WikiMultihopQA | `question` | `answer` |
| MuSiQue | `question` | `answer` and `answer_aliases` |
| TriviaQA | `Question` | `Answer.Value` and `Answer.Aliases`; on the hub all in lower case |
| Bamboogle | `Question` | `Answer` |
| PopQA | `question` | `possible_answers` |
| DPR | `question` | `answers` |

The ground truth is a string, a list of strings, also as a text of JSON, or either under `target` or `value`; aliases
may stand beside it. What a question rests on is read by `supporting_facts.py`.
"""

import re
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.jsonl import read_json
from a2tgpo.tasks.supporting_facts import steps

ALIAS_SEPARATOR = "<|answer_split|>"
TRUTH_PATHS = (
    ("reward_model", "ground_truth"),
    ("reward_spec", "ground_truth"),
    ("golden_answers",),
    ("ground_truth",),
    ("answer",),
    ("solution",),
    ("Answer",),
    ("possible_answers",),
    ("answers",),
)
"""Where accepted answers stand: the first whose column a file has is the one."""
ALIASES = {"value": "aliases", "Value": "Aliases", "target": "aliases"}
"""Under what names an object holds the ground truth and its aliases."""
QUESTION_COLUMNS = ("question", "Question", "extra_info", "prompt")
ID_COLUMNS = ("id", "_id", "question_id", "QuestionId")
_LIST_AS_TEXT = re.compile(r"""\[\s*(['"]).*\1\s*\]""", re.DOTALL)


@dataclass(frozen=True)
class Layout:
    """Where one file keeps its questions and its accepted answers.

    `source` names the file in errors, `name` in task ids; what a prompt holds up to the first `question_marker` is
    instruction and dropped. Rows are counted from 0. Ids need not differ: a question is told from others by its place.
    """

    source: str
    name: str
    columns: frozenset[str]
    truth: tuple[str, ...]
    question_marker: str | None

    @classmethod
    def detect(cls, columns: Collection[str], source: str, name: str, question_marker: str | None) -> "Layout":
        """The layout that `columns` speak of. Raises ValueError where they hold no question or no ground truth."""
        truth = next((path for path in TRUTH_PATHS if path[0] in columns), None)
        for kind, found, expected in (
            ("ground truth", truth is not None, [path[0] for path in TRUTH_PATHS]),
            ("question", not frozenset(QUESTION_COLUMNS).isdisjoint(columns), QUESTION_COLUMNS),
        ):
            if not found:
                raise ValueError(
                    f"{source}: no {kind} in its columns {', '.join(sorted(columns))}; "
                    f"expected one of {', '.join(expected)}"
                )
        return cls(source, name, frozenset(columns), truth, question_marker)

    def task(self, row: Mapping[str, object], index: int) -> Task:
        """Row number `index` in the normal form. Raises ValueError naming file, row and column of what is wrong."""
        question = self._question(row, index)
        answers = self._answers(row, index)
        own_id = next((row[column] for column in ID_COLUMNS if row.get(column) is not None), index)
        source = row.get("data_source")
        calls, evidence = steps(row, question, partial(refuse, self.source, index))
        return Task(
            task_id=f"{self.name}/{own_id}",
            question=question,
            answers=answers,
            reference_calls=calls,
            evidence=evidence,
            kind=source if isinstance(source, str) and source else self.name,
        )

    def _question(self, row: Mapping[str, object], index: int) -> str:
        extra = row.get("extra_info")
        named = next((column for column in ("question", "Question") if column in self.columns), None)
        if named is not None:
            column, text = named, row.get(named)
        elif isinstance(extra, Mapping) and extra.get("question") is not None:
            column, text = "extra_info.question", extra["question"]
        else:
            column, text = "prompt", self._from_prompt(row.get("prompt"), index)
        if not isinstance(text, str) or not text.strip():
            refuse(self.source, index, column, text, "a question: text that is not blank")
        return text.strip()

    def _from_prompt(self, prompt: object, index: int) -> object:
        """The last user message, or the whole of a prompt that is text, from its marker on."""
        text = prompt
        if isinstance(prompt, list):
            if not all(isinstance(message, Mapping) for message in prompt):
                refuse(self.source, index, "prompt", prompt, "messages with role and content")
            said = [message.get("content") for message in prompt if message.get("role") == "user"]
            text = said[-1] if said else None
        if not isinstance(text, str):
            refuse(
                self.source, index, "prompt", prompt, "text, or messages of which one has role user and text as content"
            )
        return text.split(self.question_marker, 1)[-1] if self.question_marker else text

    def _answers(self, row: Mapping[str, object], index: int) -> tuple[str, ...]:
        path, truth = self.truth, row.get(self.truth[0])
        if len(path) == 2:
            if not isinstance(truth, Mapping) or path[1] not in truth:
                refuse(self.source, index, path[0], truth, f"an object with {path[1]}")
            truth = truth[path[1]]
        aliases = row.get("answer_aliases") if path == ("answer",) else None
        beside = ("answer_aliases",)
        if isinstance(truth, Mapping):
            name = next((name for name in ALIASES if name in truth), "target")
            path, beside = (*path, name), (*path, ALIASES[name])
            truth, aliases = truth.get(name), truth.get(ALIASES[name])
        texts = [
            *self._texts(index, path, truth),
            *(self._texts(index, beside, aliases) if aliases is not None else ()),
        ]
        answers = tuple(dict.fromkeys(filter(None, (t.strip() for text in texts for t in text.split(ALIAS_SEPARATOR)))))
        if not answers:
            refuse(self.source, index, ".".join(path), truth, "at least one accepted answer")
        return answers

    def _texts(self, index: int, path: tuple[str, ...], value: object) -> list[str]:
        """The strings of `value`, which stands at `path`."""
        column, expected = ".".join(path), "a string or a list of strings"
        texts = _listed(value) if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            refuse(self.source, index, column, value, expected)
        if any(_LIST_AS_TEXT.fullmatch(text.strip()) for text in texts):
            refuse(self.source, index, column, value, f"{expected}, not the text of a list")
        return texts


def refuse(source: str, index: int, column: str, got: object, expected: str) -> NoReturn:
    """Raise ValueError: row `index` of `source` holds at `column` something else than what was expected."""
    found = f"got {reprlib.repr(got)}; expected {expected}"
    raise ValueError(f"{source}, row {index}, column {column}: {found} (rows are counted from 0)")


def _listed(text: str) -> list[str]:
    """The list that `text` writes in JSON, as tables do whose cells are texts; else `text` alone."""
    try:
        return read_json(text.encode()) if _LIST_AS_TEXT.fullmatch(text.strip()) else [text]
    except ValueError:
        return [text]

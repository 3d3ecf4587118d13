"""A row of a question file, in any of the known layouts, as a question and its accepted answers.

| layout | question | ground truth |
|---|---|---|
| verl, Search-R1, A-TGPO | `extra_info.question`, or the prompt's last user message | `reward_model.ground_truth` |
| IGPO, DR-Venus | the same | the same: one string, aliases joined by `<|answer_split|>` |
| SkyRL | the same | `reward_spec.ground_truth` |
| FlashRAG | `question` | `golden_answers` |
| TRL | the prompt's last user message | `ground_truth`, `answer` or `solution` |
| MuSiQue, TriviaQA | `question` | `answer` and `answer_aliases`; `answer.value` and `answer.aliases` |

The ground truth is a string, a list of strings, or either under `target` or `value`; aliases may stand beside it.
"""

import re
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from a2tgpo.rollouts.trajectory import Task

ALIAS_SEPARATOR = "<|answer_split|>"
TRUTH_PATHS = (
    ("reward_model", "ground_truth"),
    ("reward_spec", "ground_truth"),
    ("golden_answers",),
    ("ground_truth",),
    ("answer",),
    ("solution",),
)
"""Where accepted answers stand: the first whose column a file has is the one."""
QUESTION_COLUMNS = ("question", "extra_info", "prompt")
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
        own_id, source = row.get("id"), row.get("data_source")
        return Task(
            task_id=f"{self.name}/{index if own_id is None else own_id}",
            question=question,
            answers=answers,
            kind=source if isinstance(source, str) and source else self.name,
        )

    def _question(self, row: Mapping[str, object], index: int) -> str:
        extra = row.get("extra_info")
        if "question" in self.columns:
            column, text = "question", row.get("question")
        elif isinstance(extra, Mapping) and extra.get("question") is not None:
            column, text = "extra_info.question", extra["question"]
        else:
            column, text = "prompt", self._from_prompt(row.get("prompt"), index)
        if not isinstance(text, str) or not text.strip():
            self._refuse(index, column, text, "a question: text that is not blank")
        return text.strip()

    def _from_prompt(self, prompt: object, index: int) -> object:
        """The last user message, or the whole of a prompt that is text, from its marker on."""
        text = prompt
        if isinstance(prompt, list):
            if not all(isinstance(message, Mapping) for message in prompt):
                self._refuse(index, "prompt", prompt, "messages with role and content")
            said = [message.get("content") for message in prompt if message.get("role") == "user"]
            text = said[-1] if said else None
        if not isinstance(text, str):
            self._refuse(index, "prompt", prompt, "text, or messages of which one has role user and text as content")
        return text.split(self.question_marker, 1)[-1] if self.question_marker else text

    def _answers(self, row: Mapping[str, object], index: int) -> tuple[str, ...]:
        path, truth = self.truth, row.get(self.truth[0])
        if len(path) == 2:
            if not isinstance(truth, Mapping) or path[1] not in truth:
                self._refuse(index, path[0], truth, f"an object with {path[1]}")
            truth = truth[path[1]]
        aliases = row.get("answer_aliases") if path == ("answer",) else None
        beside = ("answer_aliases",)
        if isinstance(truth, Mapping):
            name = "value" if "value" in truth else "target"
            path, beside = (*path, name), (*path, "aliases")
            truth, aliases = truth.get(name), truth.get("aliases")
        texts = [
            *self._texts(index, path, truth),
            *(self._texts(index, beside, aliases) if aliases is not None else ()),
        ]
        answers = tuple(dict.fromkeys(filter(None, (t.strip() for text in texts for t in text.split(ALIAS_SEPARATOR)))))
        if not answers:
            self._refuse(index, ".".join(path), truth, "at least one accepted answer")
        return answers

    def _texts(self, index: int, path: tuple[str, ...], value: object) -> list[str]:
        """The strings of `value`, which stands at `path`."""
        column, expected = ".".join(path), "a string or a list of strings"
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            self._refuse(index, column, value, expected)
        if any(_LIST_AS_TEXT.fullmatch(text.strip()) for text in texts):
            self._refuse(index, column, value, f"{expected}, not the text of a list")
        return texts

    def _refuse(self, index: int, column: str, got: object, expected: str) -> None:
        raise ValueError(
            f"{self.source}, row {index}, column {column}: got {reprlib.repr(got)}; expected {expected} "
            "(rows are counted from 0)"
        )

"""What the dialects share: how an answer is written."""

import re

from a2tgpo.environments.protocols import Action


def require_answers(answer_wrapper: tuple[str, str], answer_pattern: str) -> None:
    """Raises ValueError unless `answer_wrapper` is a text before and a text after the answer, and `answer_pattern` a
    regular expression with a group."""
    if len(answer_wrapper) != 2 or not answer_wrapper[0]:
        raise ValueError(
            f"data.dialect.answer_wrapper={answer_wrapper!r}: expected [text before, text after], "
            "with some text before the answer"
        )
    expected = (
        f"data.dialect.answer_pattern={answer_pattern!r}: expected a regular expression with the answer in group 1"
    )
    try:
        groups = re.compile(answer_pattern).groups
    except (re.error, TypeError) as error:
        raise ValueError(f"{expected}: {error}") from error
    if not groups:
        raise ValueError(expected)


def written_answer(pattern: str, text: str) -> Action | None:
    """The answer in group 1 of the first match of `pattern`, None where there is none or it is blank."""
    match = re.search(pattern, text, re.DOTALL)
    answer = (match[1] or "").strip() if match else ""
    return Action(answer=answer) if answer else None

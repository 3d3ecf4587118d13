"""What the dialects share: how an answer is written."""

import re

from a2tgpo.environments.protocols import Action


def require_wrapper(answer_wrapper: tuple[str, str]) -> None:
    """Raises ValueError unless `answer_wrapper` is a text before and a text after the answer."""
    if len(answer_wrapper) != 2 or not answer_wrapper[0]:
        raise ValueError(
            f"data.dialect.answer_wrapper={answer_wrapper!r}: expected [text before, text after], "
            "with some text before the answer"
        )


def written_answer(pattern: str, text: str) -> Action | None:
    """The answer in group 1 of the first match of `pattern`, None where there is none or it is blank."""
    match = re.search(pattern, text, re.DOTALL)
    answer = (match[1] or "").strip() if match else ""
    return Action(answer=answer) if answer else None

"""What the dialects share: how an answer is written, and what stands before an action."""

import re

from a2tgpo.environments.protocols import Action
from a2tgpo.rollouts.thinking import END_THINK, THINK, without_thoughts


def require_wrapper(answer_wrapper: tuple[str, str]) -> None:
    """Raises ValueError unless `answer_wrapper` is a text before and a text after the answer."""
    if len(answer_wrapper) != 2 or not answer_wrapper[0]:
        raise ValueError(
            f"data.dialect.answer_wrapper={answer_wrapper!r}: expected [text before, text after], "
            "with some text before the answer"
        )


def require_prefix(prefix: str) -> None:
    """Raises ValueError where `prefix` begins an action: what goes on with it could be read and valued by nobody."""
    if "<" in without_thoughts(prefix).rstrip().removesuffix(THINK):
        raise ValueError(
            f"data.dialect.assistant_prefix={prefix!r}: expected a text that opens no tag but, at its end, {THINK}"
        )


def written_answer(pattern: str, text: str) -> Action | None:
    """The answer in group 1 of the first match of `pattern`, None where there is none or it is blank."""
    match = re.search(pattern, text, re.DOTALL)
    answer = (match[1] or "").strip() if match else ""
    return Action(answer=answer) if answer else None


def leading_blanks(text: str) -> str:
    """The blanks and line breaks that `text` begins with."""
    return text[: len(text) - len(text.lstrip())]


def write_thought(thought: str, answer_wrapper: tuple[str, str]) -> str:
    """`thought` as the answer's wrapper writes its own, with the blanks around it; empty where the wrapper has none."""
    before, tag, rest = answer_wrapper[0].partition(THINK)
    own, end, after = rest.partition(END_THINK)
    if not thought or not end:
        return ""
    blanks = leading_blanks(own), leading_blanks(own[::-1])[::-1]
    return f"{before}{tag}{blanks[0]}{thought}{blanks[1]}{end}{leading_blanks(after)}"

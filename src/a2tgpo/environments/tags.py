"""The text-tag dialect: what an action means, and how a tool result is written."""

import re
from dataclasses import dataclass

ACTION_TAGS = ("search", "answer")
STOP_TEXTS = tuple(f"</{tag}>" for tag in ACTION_TAGS)

_THINK = re.compile(r"<think>.*?</think>", re.DOTALL)
_TAG = re.compile(r"</?(?:think|search|result|answer)>")


@dataclass(frozen=True)
class Action:
    """One well-formed action: a search or an answer."""

    tag: str
    body: str


def parse_action(text: str) -> Action | None:
    """The action `text` stands for, or None where it is not well-formed.

    A thought counts as a blank; all that follows the first closing action tag (the end of a token that overshot the
    stop text) is dropped. What remains must hold exactly one opening and one closing tag, of the same kind, with a
    body that is not blank: several tags, nested tags, a stray or unclosed tag are all malformed.
    """
    text = _THINK.sub(" ", text)
    ends = [text.find(stop) + len(stop) for stop in STOP_TEXTS if stop in text]
    if not ends:
        return None
    text = text[: min(ends)]
    tags = _TAG.findall(text)
    for tag in ACTION_TAGS:
        if tags == [f"<{tag}>", f"</{tag}>"]:
            body = text.split(f"<{tag}>")[1].removesuffix(f"</{tag}>").strip()
            return Action(tag, body) if body else None
    return None


def format_result(text: str) -> str:
    """A tool result as the policy sees it. Tags inside `text` lose their angle brackets: a tool cannot speak for
    the policy, close its own result or end the episode."""
    return f"<result> {_TAG.sub(lambda tag: f'[{tag.group()[1:-1]}]', text)}</result>"

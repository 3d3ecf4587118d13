"""What a policy thinks before it acts, between the tags that reasoning models and their chat templates use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK, END_THINK = "<think>", "</think>"
_TAIL = 8
"""Tokens within which a thought's opening tag ends a text, with the blanks behind it."""


def cut_out(text: str, opening: str, closing: str) -> tuple[list[str], list[str]]:
    """The parts of `text` outside of what stands between `opening` and the next `closing`, and the parts inside.

    What is opened and never closed is outside. The time is linear, whatever `text` is; `opening.*?closing` would read
    all of the rest again for each opening that is never closed.
    """
    outside, inside, end = [], [], 0
    while (start := text.find(opening, end)) >= 0 and (stop := text.find(closing, start + len(opening))) >= 0:
        outside.append(text[end:start])
        inside.append(text[start + len(opening) : stop])
        end = stop + len(closing)
    return [*outside, text[end:]], inside


def without_thoughts(text: str) -> str:
    """`text` with a blank in place of each thought that ends."""
    return " ".join(cut_out(text, THINK, END_THINK)[0])


def only_quoted(stop_strings: Sequence[str], text: str) -> bool:
    """Does `text` hold stop texts inside thoughts, where they end nothing, and none outside?"""
    said = without_thoughts(text).partition(THINK)[0]
    return any(stop in text for stop in stop_strings) and not any(stop in said for stop in stop_strings)


def overshoot(stop_strings: Sequence[str], text: str) -> str:
    """What the last token of a stopped action wrote behind the stop text; empty where there is none."""
    return min((text.rpartition(stop)[2] for stop in stop_strings if stop in text), key=len, default="")


def opened_thought(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The tag of the thought that the policy goes on with after `ids`, where a chat template opened one; else empty."""
    return THINK if tokenizer.decode(ids[-_TAIL:]).rstrip().endswith(THINK) else ""


def gone_on_with(text: str, opened: str) -> str:
    """What is left of `text` where its thought, or else one that it has not, is `opened` already."""
    if not opened:
        return text
    own = text.lstrip()
    return own.removeprefix(THINK).lstrip() if own.startswith(THINK) else f"{END_THINK}\n\n{text}"


def prefixed(prefix: str, text: str) -> str:
    """`text` behind a `prefix` that may open its thought."""
    return prefix + gone_on_with(text, THINK if prefix.rstrip().endswith(THINK) else "")

"""What a policy thinks before it acts, between the tags that reasoning models and their chat templates use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK, END_THINK = "<think>", "</think>"
_THOUGHT = re.compile(f"{THINK}.*?{END_THINK}", re.DOTALL)
_TAIL = 8
"""Tokens within which a thought's opening tag ends a text, with the blanks behind it."""


def without_thoughts(text: str) -> str:
    """`text` with a blank in place of each thought that ends."""
    return _THOUGHT.sub(" ", text)


def only_quoted(stop_strings: Sequence[str], text: str) -> bool:
    """Does `text` hold stop texts inside thoughts, where they end nothing, and none outside?"""
    said = without_thoughts(text).partition(THINK)[0]
    return any(stop in text for stop in stop_strings) and not any(stop in said for stop in stop_strings)


def opened_thought(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The tag of the thought that the policy goes on with after `ids`, where a chat template opened one; else empty."""
    return THINK if tokenizer.decode(ids[-_TAIL:]).rstrip().endswith(THINK) else ""

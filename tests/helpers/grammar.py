"""Texts made of the pieces that parsers look for, and JSON values, from a seed."""

from random import Random
from typing import Any

TAGS = tuple(
    f"<{slash}{tag}>"
    for tag in ("think", "search", "result", "answer", "information", "tool_call", "function", "parameter")
    for slash in ("", "/")
)
XML = ("<function=search>", "<function=", "<parameter=query>", "<parameter=", "</function>", "</parameter>")
JSON = (
    *('{"name": "search", "arguments": {"query": "x"}}', '{"name": "search", "arguments": ', '{"query": ', '"x"', "}}"),
    *("{", "}", "[", "]", ":", ",", '"', "\\", '\\"', "\\ud83d", "\\u0000", "null", "true", "NaN", "1e999", "9" * 400),
)
BOXES = ("\\boxed{", "\\boxed{}", "\\boxed{Paris}", "\\text{", "{{", "}}", "\\{", "\\boxed")
CONTROL = (
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "<|endoftext|>",
    "</s>",
    "<eos>",
    "<pad>",
    "<|answer_split|>",
    "Question:",
)
ODD = (
    "\x00",
    "\u202e",
    "\u200f",
    "\ufeff",
    "\ud800",
    "\udfff",
    "\u0301",
    "é",
    "İ",
    "ß",
    "😀",
    "東京。",
    "２",
    "\u2028",
    "\x85",
    "\r\n",
)
WORDS = (
    "a",
    "the",
    "Paris",
    "Varo Lint",
    " ",
    "\n",
    "\t",
    "",
    "x" * 300,
    "it's",
    "C++",
    "3.5",
    "-1",
    "1,000",
    "$7",
    "'",
    '"T"\nb',
)
SUMS = (
    "1",
    "2.5",
    ".5",
    "1e9",
    "**",
    "*",
    "/",
    "//",
    "%",
    "+",
    "-",
    "(",
    ")",
    "((",
    "))",
    " ",
    "9" * 60,
    "0",
    "_",
    "j",
)
PIECES = (TAGS, XML, JSON, BOXES, CONTROL, ODD, WORDS)


def text(random: Random, most: int = 12) -> str:
    """Up to `most` pieces in a row; of sums alone now and then."""
    kinds = (SUMS,) if random.random() < 0.1 else PIECES
    return "".join(random.choice(random.choice(kinds)) for _ in range(random.randint(0, most)))


def value(random: Random, names: tuple[str, ...], depth: int = 4) -> Any:
    """A JSON value whose objects have some of `names` as keys."""
    kind = random.randrange(5 if depth == 0 else 8)
    if kind < 3:
        return text(random, 4)
    if kind < 5:
        return random.choice((None, True, False, 0, -7, 3.5, float("nan"), 10**400))
    if kind == 5:
        return [value(random, names, depth - 1) for _ in range(random.randint(0, 3))]
    return {random.choice(names): value(random, names, depth - 1) for _ in range(random.randint(0, 4))}

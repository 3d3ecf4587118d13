"""How an answer is compared with the accepted ones: SQuAD-style normalisation, exact match and F1."""

import re
import string
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, accepted: Iterable[str]) -> float:
    """1.0 if `answer` equals one of `accepted` after normalisation, else 0.0."""
    return float(normalize_answer(answer) in {normalize_answer(gold) for gold in accepted})


def f1(answer: str, accepted: Iterable[str]) -> float:
    """Best word-level F1 between `answer` and one of `accepted`, in [0, 1]; 0 where there is none."""
    words = normalize_answer(answer).split()
    return max((_f1(words, normalize_answer(gold).split()) for gold in accepted), default=0.0)


def _f1(words: list[str], gold: list[str]) -> float:
    common = sum((Counter(words) & Counter(gold)).values())
    return 2 * common / (len(words) + len(gold)) if common else 0.0

"""How an answer is compared with the accepted ones: the rules of SQuAD's script, which published EM figures follow."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single blanks; accents composed (NFC)."""
    lowered = unicodedata.normalize("NFC", text).lower()
    return " ".join(_ARTICLES.sub(" ", lowered.translate(_PUNCTUATION)).split())


def compared_words(text: str) -> list[str]:
    """The words of `text` that are compared: those of its normal form, or, of a text like "!!!" or "The The" that has
    none, its own in lower case."""
    return normalize_answer(text).split() or text.lower().split()


def exact_match(answer: str, accepted: Iterable[str]) -> float:
    """1.0 if `answer` equals one of `accepted` after normalisation, else 0.0; never more than `f1`."""
    words = compared_words(answer)
    return float(any(words == compared_words(gold) for gold in accepted)) if words else 0.0


def f1(answer: str, accepted: Iterable[str]) -> float:
    """Best word-level F1 between `answer` and one of `accepted`, in [0, 1]; 0 where there is none."""
    words = compared_words(answer)
    return max((_f1(words, compared_words(gold)) for gold in accepted), default=0.0)


def _f1(words: list[str], gold: list[str]) -> float:
    common = sum((Counter(words) & Counter(gold)).values())
    return 2 * common / (len(words) + len(gold)) if common else 0.0

"""In-process BM25 (bm25s) over one or many small collections of passages."""

import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from a2tgpo.retrievers.protocols import EmptyCorpus
from a2tgpo.retrievers.without_jax import Tokenized, bm25s

WORD = r"(?u)\b(?:\w\w+|\d)\b"
"""What is indexed and searched for."""
BLOCK = 1024
"""Scores of which `threshold` looks at the best alone."""

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for DEBUG when imported


class BM25Retriever:
    """Finds the passages that share the most telling words with a query.

    `passages` maps the name of a corpus to its passages; an index is built at first use and the last `max_indexes`
    are kept. `b` says how much a passage is held to be long: 0 not at all, 1 in proportion.
    """

    def __init__(self, passages: Callable[[str], Sequence[str]], max_indexes: int = 512, b: float = 0.75) -> None:
        self._passages, self._b = passages, b
        self._index = lru_cache(maxsize=max_indexes)(self._build)

    def _build(self, corpus: str) -> tuple[bm25s.BM25, tuple[str, ...]]:
        passages = tuple(self._passages(corpus))
        if not passages:
            raise EmptyCorpus(f"data.retriever: corpus {corpus!r} holds no passages; expected at least one")
        index = bm25s.BM25(b=self._b)
        index.index(tokenize(passages), show_progress=False)
        return index, passages

    def search(self, query: str, topk: int, corpus: str = "") -> list[str]:
        """The `topk` passages of `corpus` that score best for `query`, best first; none that shares no word with it."""
        index, passages = self._index(corpus)
        return [passages[position] for position, _ in best(index, query, topk)]


def tokenize(texts: Iterable[str]) -> Tokenized:
    """Words of at least two letters, and numbers, in lower case, without English stop words; reads `texts` once.

    A word is what stands between blanks and punctuation: languages that write none between words (Chinese, Japanese,
    Thai) are not cut into words. Accents are composed (NFC).
    """
    return bm25s.tokenize(_composed(texts), token_pattern=WORD, stopwords="en", show_progress=False)


def _words(query: str) -> list[str]:
    """The words of a query, as `tokenize` has them."""
    settings = {"token_pattern": WORD, "stopwords": "en", "show_progress": False}
    return bm25s.tokenize([*_composed([query])], return_ids=False, **settings)[0]


def _composed(texts: Iterable[str]) -> Iterator[str]:
    return (unicodedata.normalize("NFC", text) for text in texts)


def best(index: bm25s.BM25, query: str, topk: int) -> list[tuple[int, float]]:
    """Position and score of the `topk` passages that score best, best first; none that shares no word with `query`.

    Of passages that score the same, the earlier comes first.
    """
    known = [word for word in _words(query) if word in index.vocab_dict]
    if not known:
        return []
    scores = index.get_scores(known)
    candidates = np.flatnonzero(scores >= threshold(scores, topk))
    ranked = candidates[np.argsort(-scores[candidates], kind="stable")][:topk]
    return [(int(position), float(scores[position])) for position in ranked]


def threshold(scores: Float[ndarray, " N"], topk: int) -> float:
    """A positive bound that few scores reach besides the best `topk`: the `topk`-th best maximum of a block.

    Over millions of scores one pass of maxima takes less than half the time of finding the `topk`-th best of them.
    """
    least = float(np.finfo(scores.dtype).tiny)
    blocks = len(scores) // BLOCK
    if blocks < topk:
        return least
    maxima = scores[: blocks * BLOCK].reshape(blocks, BLOCK).max(axis=1)
    return max(least, float(np.partition(maxima, -topk)[-topk]))

"""In-process BM25 (bm25s) over one or many small collections of passages."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import bm25s
import numpy as np
from bm25s.tokenization import Tokenized

from a2tgpo.interfaces import EmptyCorpus

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for DEBUG when imported


class BM25Retriever:
    """Finds the passages that share the most telling words with a query.

    `passages` maps the name of a corpus to its passages; an index is built at first use and the last `max_indexes`
    are kept.
    """

    def __init__(self, passages: Callable[[str], Sequence[str]], max_indexes: int = 512) -> None:
        self._passages = passages
        self._index = lru_cache(maxsize=max_indexes)(self._build)

    def _build(self, corpus: str) -> tuple[bm25s.BM25, tuple[str, ...]]:
        passages = tuple(self._passages(corpus))
        if not passages:
            raise EmptyCorpus(f"data.retriever: corpus {corpus!r} holds no passages; expected at least one")
        index = bm25s.BM25()
        index.index(tokenize(passages), show_progress=False)
        return index, passages

    def search(self, query: str, topk: int, corpus: str = "") -> list[str]:
        """The `topk` passages of `corpus` that score best for `query`, best first; none that shares no word with it."""
        index, passages = self._index(corpus)
        return [passages[position] for position, _ in best(index, query, topk)]


def tokenize(texts: Iterable[str]) -> Tokenized:
    """Words of at least two letters in lower case, without English stop words; reads `texts` once."""
    return bm25s.tokenize(texts, stopwords="en", show_progress=False)


def best(index: bm25s.BM25, query: str, topk: int) -> list[tuple[int, float]]:
    """Position and score of the `topk` passages that score best, best first; none that shares no word with `query`.

    Of passages that score the same, the earlier comes first.
    """
    words = bm25s.tokenize([query], stopwords="en", return_ids=False, show_progress=False)[0]
    known = [word for word in words if word in index.vocab_dict]
    if not known:
        return []
    scores = index.get_scores(known)
    topk = min(topk, len(scores))
    candidates = np.flatnonzero((scores >= np.partition(scores, -topk)[-topk]) & (scores > 0))
    ranked = candidates[np.argsort(-scores[candidates], kind="stable")][:topk]
    return [(int(position), float(scores[position])) for position in ranked]

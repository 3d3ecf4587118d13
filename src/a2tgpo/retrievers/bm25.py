"""In-process BM25 (bm25s) over one or many small collections of passages."""

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache

import bm25s

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
        index.index(_tokenize(passages), show_progress=False)
        return index, passages

    def search(self, query: str, topk: int, corpus: str = "") -> list[str]:
        """The `topk` passages of `corpus` that score best for `query`, best first; none that shares no word with it."""
        index, passages = self._index(corpus)
        words = [word for word in _tokenize([query])[0] if word in index.vocab_dict]
        if not words:
            return []
        scores = index.get_scores(words)
        ranked = sorted(range(len(passages)), key=lambda i: (-scores[i], i))[:topk]
        return [passages[i] for i in ranked if scores[i] > 0]


def _tokenize(texts: Sequence[str]) -> list[list[str]]:
    return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)

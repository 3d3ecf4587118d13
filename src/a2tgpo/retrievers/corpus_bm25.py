"""BM25 (bm25s) over a corpus of your own; index and passages are read from disk as they are needed."""

from collections.abc import Sequence
from pathlib import Path

from a2tgpo.retrievers.bm25 import WORD, best, tokenize
from a2tgpo.retrievers.corpus import KEY, Corpus, write_offsets
from a2tgpo.retrievers.index_cache import cached_index
from a2tgpo.retrievers.protocols import EmptyCorpus, Passage
from a2tgpo.retrievers.without_jax import bm25s
from a2tgpo.system.settings import require_all


class CorpusBM25:
    """Finds the passages of a JSON-lines corpus that share the most telling words with a query.

    The index is built when the object is, once for a file and its settings, and memory-mapped from `cache_dir` ever
    after. `k1` says how soon repeating a word stops counting, `b` how much long passages are held back.
    """

    def __init__(self, corpus_path: str, cache_dir: str, k1: float, b: float) -> None:
        require_all({"k1": k1, "b": b}, "data.retriever")
        self._path, self._k1, self._b = Path(corpus_path), k1, b
        settings = {"kind": "bm25", "k1": k1, "b": b, "word": WORD, "bm25s": bm25s.__version__}
        directory = cached_index(self._path, Path(cache_dir), settings, self._build)
        self._index = bm25s.BM25.load(directory, mmap=True)
        self._corpus = Corpus(self._path, directory)

    def _build(self, directory: Path) -> None:
        write_offsets(self._path, directory)
        words = tokenize(Corpus(self._path, directory).contents())
        if not words.vocab:
            raise EmptyCorpus(f"{KEY}={self._path}: holds no words to search for; expected some besides stop words")
        index = bm25s.BM25(k1=self._k1, b=self._b)
        index.index(words, show_progress=False)
        index.save(directory, show_progress=False)

    def search(self, query: str, topk: int, corpus: str = "") -> list[str]:
        """The contents of the best `topk` passages, best first. All tasks share one corpus: `corpus` is not read."""
        (found,) = self.search_many([query], topk)
        return [passage.contents for passage in found]

    def search_many(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
        """For each query its best `topk` passages, best first; none that shares no word with it."""
        return [
            [Passage(*self._corpus[position], score) for position, score in best(self._index, query, topk)]
            for query in queries
        ]

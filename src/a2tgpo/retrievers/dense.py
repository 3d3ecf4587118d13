"""Dense retrieval: a sentence encoder (sentence-transformers) and exact search over its vectors (faiss)."""

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from a2tgpo.retrievers.corpus import Corpus, write_offsets
from a2tgpo.retrievers.index_cache import cached_index, fingerprint
from a2tgpo.retrievers.protocols import Passage
from a2tgpo.system.errors import SettingError
from a2tgpo.system.files import read_json_file
from a2tgpo.system.model_source import require_model_source, why_unread
from a2tgpo.system.settings import require

VECTORS = "vectors.faiss"
PROMPTS = "config_sentence_transformers.json"
"""Where an encoder says what it was trained to see before a text."""
PASSAGE_PROMPTS = ("document", "passage", "corpus")
"""The names that a prompt of passages may have there."""


class DenseRetriever:
    """Finds the passages of a JSON-lines corpus whose vectors have the largest cosine with that of a query.

    The encoder `model` is a folder or a hub id. What it was trained to see before a query and before a passage is given
    by the prefixes; None takes what the encoder's own files say. Vectors are made when the object is, once for a file,
    a model and its settings, and memory-mapped from `cache_dir` ever after; making them needs memory for all of them (4
    bytes a dimension).
    """

    def __init__(
        self,
        corpus_path: str,
        cache_dir: str,
        model: str,
        query_prefix: str | None,
        passage_prefix: str | None,
        batch_size: int,
        device: str,
    ) -> None:
        require("data.retriever.batch_size", batch_size)
        faiss, sentence_transformers = _libraries()
        self._path, self._batch_size = Path(corpus_path), batch_size
        require_model_source("data.retriever.model", model)
        try:
            self._encoder = sentence_transformers.SentenceTransformer(model, device=device)
        except (OSError, ValueError) as error:
            said = why_unread(model, error)
            raise ValueError(f"data.retriever.model={model}: {said}; expected a folder or a hub id") from error
        self._query_prefix, self._passage_prefix = _prefixes(model, query_prefix, passage_prefix)
        self._encoding = threading.Lock()  # fast tokenizers cannot be used by two threads at once
        settings = {"kind": "dense", "model": _identity(model), "passage_prefix": self._passage_prefix}
        directory = cached_index(self._path, Path(cache_dir), settings, self._build)
        mapped = faiss.IO_FLAG_MMAP_IFC  # IO_FLAG_MMAP reads all of a flat index
        self._index = faiss.read_index(str(directory / VECTORS), mapped)
        self._corpus = Corpus(self._path, directory)

    def _build(self, directory: Path) -> None:
        faiss, _ = _libraries()
        write_offsets(self._path, directory)
        corpus = Corpus(self._path, directory)
        index = faiss.IndexFlatIP(self._encoder.get_embedding_dimension())
        chunk = 64 * self._batch_size  # the encoder sorts the texts of a chunk by length
        for start in range(0, len(corpus), chunk):
            positions = range(start, min(start + chunk, len(corpus)))
            index.add(self._encode([corpus[position][1] for position in positions], self._passage_prefix))
        faiss.write_index(index, str(directory / VECTORS))

    def _encode(self, texts: list[str], prefix: str) -> Any:
        settings = {"batch_size": self._batch_size, "normalize_embeddings": True, "show_progress_bar": False}
        with self._encoding:
            return self._encoder.encode(texts, prompt=prefix, **settings)

    def search(self, query: str, topk: int, corpus: str = "") -> list[str]:
        """The contents of the best `topk` passages, best first. All tasks share one corpus: `corpus` is not read."""
        (found,) = self.search_many([query], topk)
        return [passage.contents for passage in found]

    def search_many(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
        """For each query its best `topk` passages, best first; all queries go through the encoder together."""
        vectors = self._encode(list(queries), self._query_prefix)
        cosines, positions = self._index.search(vectors, min(topk, len(self._corpus)))
        return [
            [Passage(*self._corpus[position], score) for position, score in zip(*row, strict=True)]
            for row in zip(positions.tolist(), cosines.tolist(), strict=True)
        ]


def _libraries() -> tuple[Any, Any]:
    """The two packages of the extra `dense`. Raises ValueError where one is missing."""
    for name in ("faiss", "sentence_transformers"):
        if find_spec(name) is None:
            raise ValueError(
                f"data/retriever=dense: the package {name!r} is not installed; expected the extra 'dense': "
                "pip install --editable '.[dense]'"
            )
    import faiss
    import sentence_transformers

    return faiss, sentence_transformers


def _prefixes(model: str, query: str | None, passage: str | None) -> tuple[str, str]:
    """The prefixes as given, or else as the encoder's files say: where they name one prompt, the other may be none.

    Raises SettingError where one is neither given nor said.
    """
    given = {"query_prefix": query, "passage_prefix": passage}
    if missing := [name for name, prefix in given.items() if prefix is None]:
        from transformers.utils import cached_file

        file = cached_file(model, PROMPTS, _raise_exceptions_for_missing_entries=False)
        prompts = read_json_file(Path(file)).get("prompts") if file else None
        if not prompts:
            raise SettingError(
                f"data.retriever.{missing[0]}=null: the files of {model} name no prompts; expected the text that this "
                f"encoder was trained to see before a {missing[0].removesuffix('_prefix')}, '' for none"
            )
        said = {"query_prefix": prompts.get("query", "")}
        said["passage_prefix"] = next((prompts[name] for name in PASSAGE_PROMPTS if name in prompts), "")
        given |= {name: said[name] for name in missing}
    return given["query_prefix"], given["passage_prefix"]


def _identity(model: str) -> dict[str, str] | str:
    """The files of a local encoder, or the hub id: another encoder under the same name needs other vectors."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    return {
        path.relative_to(folder).as_posix(): fingerprint(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }

"""A real encoder behind the dense retriever."""

import json

import pytest

from a2tgpo.retrievers.dense import DenseRetriever

PASSAGES = ("Kenya is a country in Africa.", "Helium is a noble gas.", "The violin has four strings.")


def test_the_passage_that_means_the_same_is_found_first(minilm, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": n, "contents": text}) + "\n" for n, text in enumerate(PASSAGES)))
    settings = {"batch_size": 8, "device": "cpu", "cache_dir": str(tmp_path / "cache"), "model": str(minilm)}
    retriever = DenseRetriever(str(corpus), query_prefix="", passage_prefix="", **settings)
    for query, text in zip(("an African nation", "a chemical element", "a musical instrument"), PASSAGES, strict=True):
        assert retriever.search(query, 1) == [text]
    with pytest.raises(ValueError, match="expected"):  # its files do not say what stands before a text
        DenseRetriever(str(corpus), query_prefix=None, passage_prefix=None, **settings)

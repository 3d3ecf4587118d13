"""Retrieval from a corpus of one's own: what is found, what stays on disk, what is refused."""

import json
import math
import multiprocessing
import random
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, BertTokenizerFast

from a2tgpo.retrievers import bm25 as bm25_module
from a2tgpo.retrievers.bm25 import BM25Retriever, threshold
from a2tgpo.retrievers.corpus_bm25 import CorpusBM25
from a2tgpo.retrievers.dense import DenseRetriever
from a2tgpo.retrievers.protocols import EmptyCorpus, PassageRetriever
from a2tgpo.system.errors import SettingError
from tests.helpers.shipped import corpus_bm25

TEXTS = (
    '"Bemi"\nThe director of Bemi is Varo Tano.',
    '"Varo Tano"\nThe birthplace of Varo Tano is Kelu.',
    '"Kelu"\nKelu is a city; its mayor is Öne Sil.',
    '"Kelu again"\nKelu is a city; its mayor is Öne Sil.',
)
WORDS = [f"w{i}" for i in range(50)]


def write(path, texts):
    path.write_text("".join(json.dumps({"id": i, "contents": text}) + "\n" for i, text in enumerate(texts)))
    return str(path)


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "corpus.jsonl", TEXTS)


@pytest.fixture
def bm25(corpus, tmp_path):
    return corpus_bm25(corpus, str(tmp_path / "cache"))


@pytest.fixture
def encoder(tmp_path):
    """A BERT of two layers with random weights, as a plain Hugging Face folder."""
    words = sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(TEXTS).lower())))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "passage", ":", *words]
    (tmp_path / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    for part in (BertModel(BertConfig(vocab_size=len(tokenizer), **shape)), tokenizer):
        part.save_pretrained(tmp_path / "encoder")
    return str(tmp_path / "encoder")


def dense(corpus, tmp_path, encoder, passage_prefix="passage: ", query_prefix="query: "):
    return DenseRetriever(corpus, str(tmp_path / "cache"), encoder, query_prefix, passage_prefix, 2, "cpu")


def indexes(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())


# ---- BM25 ------------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_formula(bm25):
    """Lucene's BM25 with k1 1.5 and b 0.75, by hand: 'varo' is in 2 of 4 passages, 'birthplace' in one."""
    lengths = (5, 6, 7, 8)  # words of two letters and more, without stop words
    mean = sum(lengths) / 4

    def weight(containing, times, length):
        idf = math.log(1 + (4 - containing + 0.5) / (containing + 0.5))
        return idf * times / (times + 1.5 * (1 - 0.75 + 0.75 * length / mean))

    (found,) = bm25.search_many(["birthplace of Varo"], 2)
    assert [passage.id for passage in found] == ["1", "0"]
    expected = [weight(1, 1, 6) + weight(2, 2, 6), weight(2, 1, 5)]
    assert [passage.score for passage in found] == pytest.approx(expected, abs=1e-6)


def test_a_corpus_on_disk_is_searched_like_one_in_memory(tmp_path):
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(300)]
    on_disk = corpus_bm25(write(tmp_path / "corpus.jsonl", texts), str(tmp_path / "cache"))
    in_memory = BM25Retriever(lambda corpus: texts)
    for query in (" ".join(draw.choices(WORDS, k=3)) for _ in range(50)):
        assert on_disk.search(query, 5) == in_memory.search(query, 5)


def test_fewer_passages_asked_for_are_the_best_of_more(bm25):
    assert [bm25.search("mayor of Kelu city", topk) for topk in (1, 2, 9)] == [
        [TEXTS[2]],
        [*TEXTS[2:]],
        [*TEXTS[2:], TEXTS[1]],
    ]


@pytest.mark.parametrize("query", ["nobody knows", "the of is", "", "!?", "é"])
def test_a_query_that_shares_no_word_finds_nothing(bm25, query):
    assert bm25.search(query, 3) == []


def test_title_and_text_make_the_contents(tmp_path):
    path = tmp_path / "corpus.jsonl"
    documents = ['{"id": "x", "title": "Bemi", "text": "A film."}', "", '{"id": "y", "title": "?", "contents": "Kelu"}']
    documents += ['{"id": 1, "title": "", "text": "A star."}', '{"id": 2, "text": "A seat."}']
    path.write_text("\n".join(documents))
    bm25 = corpus_bm25(str(path), str(tmp_path / "cache"))
    assert bm25.search("film", 1) == ['"Bemi"\nA film.'] and bm25.search("kelu", 1) == ["Kelu"]
    assert bm25.search("star", 1) == ["A star."] and bm25.search("seat", 1) == ["A seat."]


def test_numbers_of_one_digit_and_composed_accents_are_words():
    texts = ("Apollo 8 flew first", "Apollo 9 followed", "Beyonce\u0301 sings", "vitamin a")
    retriever = BM25Retriever(lambda corpus: texts)
    assert retriever.search("Apollo 9", 1) == [texts[1]]
    assert retriever.search("Beyonc\u00e9", 1) == retriever.search("beyonce\u0301", 1) == [texts[2]]
    assert retriever.search("a", 1) == []


def test_a_corpus_that_is_rewritten_under_way_ends_the_run(bm25, corpus):
    with open(corpus, "r+") as file:
        file.truncate(9)
    with pytest.raises(SettingError, match=r"corpus\.jsonl, row \d: the file was changed while it was in use"):
        bm25.search("birthplace of Varo", 2)


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text(r'{"id": 1, "contents": "smile \ud83d film \ud83d\ude00"}')
    assert corpus_bm25(str(path), str(tmp_path / "cache")).search("film", 1) == ["smile ? film \N{GRINNING FACE}"]


@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), min_size=1, max_size=60),
    topk=st.integers(1, 8),
    block=st.integers(1, 9),
)
def test_no_score_of_the_best_is_below_the_threshold(scores, topk, block):
    with patch.object(bm25_module, "BLOCK", block):
        least = threshold(np.array(scores, dtype=np.float32), topk)
    assert least > 0 and all(score >= least for score in sorted(scores, reverse=True)[:topk] if score > 0)


# ---- The cache -------------------------------------------------------------------------------------------------------


def test_a_second_start_reads_the_index_and_finds_the_same(bm25, corpus, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.suffix == ".npy"}
    again = corpus_bm25(corpus, str(tmp_path / "cache"))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.search_many(["Varo", "Kelu"], 3) == bm25.search_many(["Varo", "Kelu"], 3)


def test_other_contents_and_other_settings_get_an_index_of_their_own(bm25, corpus, tmp_path):
    corpus_bm25(corpus, str(tmp_path / "cache"), k1=0.9)
    assert len(indexes(tmp_path)) == 2
    write(tmp_path / "corpus.jsonl", ["something else"])
    assert corpus_bm25(corpus, str(tmp_path / "cache")).search("else", 1) == ["something else"]
    assert len(indexes(tmp_path)) == 3


def search_in_a_process(corpus, cache, answers):
    answers.put(corpus_bm25(corpus, cache).search("birthplace", 1))


def test_processes_that_start_at_once_share_one_index(corpus, tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    arguments = (corpus, str(tmp_path / "cache"), answers)
    processes = [context.Process(target=search_in_a_process, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=30) for _ in processes] == [[TEXTS[1]]] * 4
    for process in processes:
        process.join()
    assert len(indexes(tmp_path)) == 1


def test_a_build_that_was_cut_short_is_made_again(bm25, corpus, tmp_path):
    (name,) = indexes(tmp_path)
    complete = tmp_path / "cache" / name
    complete.rename(complete.with_name(f"{name}.unfinished"))
    (complete.with_name(f"{name}.unfinished") / "offsets.npy").write_bytes(b"half")
    assert corpus_bm25(corpus, str(tmp_path / "cache")).search("birthplace", 1) == [TEXTS[1]]
    assert indexes(tmp_path) == [name]


# ---- Bad corpora -----------------------------------------------------------------------------------------------------

GOOD = '{"id": 0, "contents": "fine"}\n'
BAD_LINES = [
    ("not json", "line 2: expected one JSON object in UTF-8"),
    ('["a"]', "line 2, expected a JSON object, found list"),
    ('{"contents": "a"}', "line 2, field 'id': expected a text or an integer, found no such field"),
    ('{"id": 1}', "line 2, field 'contents': expected a text that is not blank, found no such field"),
    ('{"id": 1, "contents": 7}', "line 2, field 'contents': expected a text that is not blank, found 7"),
    ('{"id": 1, "contents": " "}', "line 2, field 'contents': expected a text that is not blank, found ' '"),
    ('{"id": 1, "title": 7, "text": "a"}', "line 2, field 'title': expected a text that is not blank, found 7"),
    ("\udcff", "line 2: expected one JSON object in UTF-8"),
    ("[" * 9999, "line 2: expected one JSON object in UTF-8: nested too deep"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named_and_leaves_no_index(tmp_path, line, message):
    path = tmp_path / "corpus.jsonl"
    path.write_text(GOOD + line + "\n" + GOOD, errors="surrogateescape")
    for _ in range(2):
        with pytest.raises(ValueError, match=re.escape(f"data.retriever.corpus_path={path}: {message}")):
            corpus_bm25(str(path), str(tmp_path / "cache"))


@pytest.mark.parametrize("contents", ["", "\n\n", '{"id": 1, "contents": "the of"}'])
def test_an_empty_corpus_ends_the_run(tmp_path, contents):
    (tmp_path / "corpus.jsonl").write_text(contents)
    with pytest.raises(EmptyCorpus, match=r"^data\.retriever\.corpus_path=.*: holds no "):
        corpus_bm25(str(tmp_path / "corpus.jsonl"), str(tmp_path / "cache"))


def test_a_missing_corpus_and_wrong_settings_are_named(corpus, tmp_path):
    for settings, message in (
        ({"k1": -1.0}, "k1=-1.0"),
        ({"b": 1.5}, "b=1.5"),
        ({"corpus_path": "nowhere"}, "corpus_path=nowhere"),
    ):
        with pytest.raises(ValueError, match=rf"^data\.retriever\.{message}: .*expected"):
            corpus_bm25(**({"corpus_path": corpus, "cache_dir": str(tmp_path)} | settings))


def test_the_yamls_build_what_they_name(composed, corpus, tmp_path, encoder):
    paths = [f"data.retriever.corpus_path={corpus}", f"data.retriever.cache_dir={tmp_path / 'cache'}"]
    bm25 = instantiate(composed("data/retriever=bm25", *paths).data.retriever)
    paths += [
        f"data.retriever.model={encoder}",
        "data.retriever.query_prefix='query: '",
        "data.retriever.passage_prefix=",
    ]
    dense = instantiate(composed("data/retriever=dense", *paths).data.retriever)
    assert isinstance(bm25, CorpusBM25) and isinstance(dense, DenseRetriever)
    assert [len(retriever.search("Varo Tano", 2)) for retriever in (bm25, dense)] == [2, 2]


# ---- Dense -----------------------------------------------------------------------------------------------------------


def test_dense_search_ranks_by_cosine(corpus, tmp_path, encoder):
    retriever = dense(corpus, tmp_path, encoder, passage_prefix="query: ")  # so that a passage can ask for itself
    for text, found in zip(TEXTS, retriever.search_many(TEXTS, 9), strict=True):
        assert found[0].contents == text and found[0].score == pytest.approx(1.0, abs=1e-5)
        scores = [passage.score for passage in found]
        assert len(scores) == len(TEXTS) and scores == sorted(scores, reverse=True) and scores[1] < 0.9999
    assert retriever.search(TEXTS[1], 1) == [TEXTS[1]]


def test_dense_cache_depends_on_encoder_and_prefix(corpus, tmp_path, encoder):
    first = dense(corpus, tmp_path, encoder).search_many(["Varo", "Kelu"], 3)
    assert dense(corpus, tmp_path, encoder).search_many(["Varo", "Kelu"], 3) == first
    assert len(indexes(tmp_path)) == 1
    assert dense(corpus, tmp_path, encoder, passage_prefix="").search_many(["Varo", "Kelu"], 3) != first
    BertModel(BertConfig.from_pretrained(encoder)).save_pretrained(encoder)
    dense(corpus, tmp_path, encoder)
    assert len(indexes(tmp_path)) == 3


E5 = ("query: ", "passage: ")


@pytest.mark.parametrize(
    ("prompts", "given", "expected"),
    [
        ({"query": "q: ", "document": "d: "}, (None, None), ("q: ", "d: ")),
        ({"query": "q: ", "passage": "p: "}, (None, None), ("q: ", "p: ")),
        ({"query": "Represent this: "}, (None, None), ("Represent this: ", "")),
        ({"query": "q: ", "document": "d: "}, ("", None), ("", "d: ")),
        ({"query": "q: ", "document": "d: "}, E5, E5),
        ({}, E5, E5),
        (None, ("", ""), ("", "")),
        (None, (None, ""), "query_prefix=null: the files of {encoder} name no prompts; expected .* before a query"),
        ({}, ("", None), "passage_prefix=null: the files of {encoder} name no prompts; expected .* before a passage"),
    ],
)
def test_prefixes_are_given_or_the_encoders_own(corpus, tmp_path, encoder, prompts, given, expected):
    if prompts is not None:
        (Path(encoder) / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    if isinstance(expected, str):
        with pytest.raises(SettingError, match=rf"^data.retriever.{expected.format(encoder=encoder)}, '' for none"):
            dense(corpus, tmp_path, encoder, given[1], given[0])
        return
    found = dense(corpus, tmp_path, encoder, given[1], given[0]).search_many(["Varo", "Kelu"], 3)
    assert found == dense(corpus, tmp_path, encoder, expected[1], expected[0]).search_many(["Varo", "Kelu"], 3)
    assert len(indexes(tmp_path)) == 1


def test_a_missing_encoder_and_a_missing_package_are_named(corpus, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^data\.retriever\.model=/nowhere/x: .*expected"):
        dense(corpus, tmp_path, "/nowhere/x")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        ValueError, match=r"^data/retriever=dense: the package 'faiss' is not installed; expected the extra"
    ):
        dense(corpus, tmp_path, "any")


def test_what_has_scores_can_be_served(bm25):
    assert isinstance(bm25, PassageRetriever)
    assert not isinstance(BM25Retriever(lambda corpus: TEXTS), PassageRetriever)


JAX = """
import sys
from pathlib import Path
(Path(sys.argv[1]) / "jax").mkdir()
(Path(sys.argv[1]) / "jax" / "__init__.py").write_text("")
(Path(sys.argv[1]) / "jax" / "lax.py").write_text("raise SystemExit('started')")
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "imported":
    import jax
from a2tgpo.retrievers import corpus_bm25
print("jax" in sys.modules, corpus_bm25.bm25s.selection.JAX_IS_AVAILABLE)
"""


@pytest.mark.parametrize("before", ["imported", "not imported"])
def test_jax_is_not_started_for_the_best_of_a_few_scores(tmp_path, before):
    done = subprocess.run([sys.executable, "-c", JAX, tmp_path, before], capture_output=True, text=True, check=True)
    assert done.stdout == f"{before == 'imported'} False\n"

"""The retrieval server over real sockets: both protocols, bad requests, batches, its end."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from omegaconf import OmegaConf

from a2tgpo.retrievers.batching import Batcher
from a2tgpo.retrievers.http import HttpRetriever
from a2tgpo.retrievers.protocols import Passage
from a2tgpo.retrievers.server import MAX_BODY, RetrievalServer
from tests.helpers.shipped import corpus_bm25

ROOT = Path(__file__).parents[2]
TEXTS = ('"Bemi"\nThe director of Bemi is Varo Tano.', '"Varo Tano"\nThe birthplace of Varo Tano is Kelu.')
OPTIONS = {"host": "127.0.0.1", "port": 0, "topk": 3, "window": 0.002, "max_batch": 64}


class Slow:
    """Finds the query itself, `topk` times, once it is let; remembers what it was asked for together."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()

    def search_many(self, queries, topk):
        self.batches.append(list(queries))
        assert self.go.wait(10)
        if "bad" in queries:
            raise RuntimeError("bad query")
        return [[Passage(str(rank), query, -rank) for rank in range(topk)] for query in queries]


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": i, "contents": text}) + "\n" for i, text in enumerate(TEXTS)))
    return str(path)


@pytest.fixture
def bm25(corpus, tmp_path):
    return corpus_bm25(corpus, str(tmp_path / "cache"))


@pytest.fixture
def server(bm25):
    with RetrievalServer(bm25, **OPTIONS) as running:
        yield running


@pytest.fixture
def client():
    with httpx2.Client(trust_env=False, timeout=10) as opened:
        yield opened


# ---- Answers ---------------------------------------------------------------------------------------------------------


def test_search_r1_protocol_with_scores(server, client, bm25):
    queries = ["birthplace of Varo", "nobody knows", "Bemi"]
    answer = client.post(server.url, json={"queries": queries, "topk": 2, "return_scores": True})
    expected = [
        [{"document": {"id": p.id, "contents": p.contents}, "score": p.score} for p in found]
        for found in bm25.search_many(queries, 2)
    ]
    assert (answer.status_code, answer.json()) == (200, {"result": expected})
    assert [len(found) for found in expected] == [2, 0, 1]


def test_without_scores_the_documents_are_bare(server, client):
    answer = client.post(server.url, json={"queries": ["birthplace"], "topk": 2, "return_scores": False})
    assert answer.json() == {"result": [[{"id": "1", "contents": TEXTS[1]}]]}


def test_skyrl_protocol_and_the_default_topk(server, client):
    one = client.post(server.url, json={"query": "Varo", "return_scores": True}).json()
    assert one == client.post(server.url, json={"queries": ["Varo"], "topk": 3, "return_scores": True}).json()
    assert [item["document"]["contents"] for item in one["result"][0]] == [TEXTS[1], TEXTS[0]]


def test_no_queries_no_results(server, client):
    assert client.post(server.url, json={"queries": []}).json() == {"result": []}


def test_health(server, client):
    assert client.get(server.url.replace("retrieve", "health")).json() == {"status": "ok"}


def test_it_listens_on_this_machine_alone_unless_told_otherwise():
    assert OmegaConf.load(ROOT / "configs" / "serve.yaml").host == "127.0.0.1"


# ---- Bad requests ----------------------------------------------------------------------------------------------------

BAD = [
    (b"{", "expected a JSON object in UTF-8"),
    (b"\xff", "expected a JSON object in UTF-8"),
    (b"[]", "expected a JSON object with either 'queries'"),
    (b"{}", "expected a JSON object with either 'queries'"),
    (b'{"queries": ["a"], "query": "a"}', "expected a JSON object with either 'queries'"),
    (b'{"queries": "a"}', "'queries': expected a list of texts"),
    (b'{"queries": [1]}', "'queries': expected a list of texts"),
    (b'{"query": null}', "'query': expected one text"),
    (b'{"query": "a", "topk": 0}', "'topk': expected an integer from 1 to 1000, found 0"),
    (b'{"query": "a", "topk": true}', "'topk': expected an integer"),
    (b'{"query": "a", "topk": "3"}', "'topk': expected an integer"),
    (b'{"query": "a", "return_scores": 1}', "'return_scores': expected true or false, found 1"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
def test_a_bad_body_gets_one_clear_error(server, client, body, message):
    answer = client.post(server.url, content=body)
    assert answer.status_code == 400 and list(answer.json()) == ["error"]
    assert message in answer.json()["error"]
    assert client.post(server.url, json={"query": "Bemi"}).status_code == 200


def test_requests_that_are_no_search_are_refused(server, client):
    assert client.get(server.url).status_code == 404
    assert client.post(server.url + "/more", json={"query": "Bemi"}).status_code == 404
    assert client.put(server.url, json={}).json() == {"error": "Unsupported method ('PUT')"}
    assert client.post(server.url, content=iter([b"{}"])).status_code == 411  # sent in chunks, without a length


def test_a_body_that_is_too_large_is_not_read(server):
    with socket.create_connection(server.server_address) as connection:
        connection.sendall(f"POST /retrieve HTTP/1.1\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n".encode())
        answer = connection.makefile("rb").read().decode()  # up to the end of the connection
    assert answer.startswith("HTTP/1.1 413") and f"expected at most {MAX_BODY} bytes" in answer


@pytest.mark.parametrize(("name", "value"), [("port", 70000), ("topk", 0), ("max_batch", 0), ("window", -1.0)])
def test_wrong_settings_are_named(bm25, name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value}: expected"):
        RetrievalServer(bm25, **OPTIONS | {name: value})


# ---- Batches ---------------------------------------------------------------------------------------------------------


def test_it_listens_at_an_ipv6_address_too(bm25, client):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with RetrievalServer(bm25, **(OPTIONS | {"host": "::1"})) as server:
        assert server.url.startswith("http://[::1]:")
        assert HttpRetriever(server.url, "search_r1", 5.0, 5.0, 0, 1, 0).search("Varo", 1) == bm25.search("Varo", 1)


def test_requests_that_wait_together_are_searched_together():
    retriever = Slow()
    batcher = Batcher(retriever, window=0.0, max_batch=5)
    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(batcher.search_many, ["first"], 1)
        wait_for(lambda: retriever.batches)
        others = [pool.submit(batcher.search_many, [f"q{i}"], 1 + i % 3) for i in range(9)]
        wait_for(lambda: batcher._waiting.qsize() == 9)
        retriever.go.set()
        assert [len(found) for found in first.result()] == [1]
        for i, other in enumerate(others):
            assert other.result() == [[Passage(str(rank), f"q{i}", -rank) for rank in range(1 + i % 3)]]
    batcher.close()
    assert [len(batch) for batch in retriever.batches] == [1, 5, 4]


def test_a_search_that_raises_is_a_server_error_and_the_next_one_works(client, caplog):
    retriever = Slow()
    retriever.go.set()
    with RetrievalServer(retriever, **OPTIONS) as server:
        answer = client.post(server.url, json={"query": "bad"})
        assert (answer.status_code, answer.json()) == (500, {"error": "RuntimeError: bad query"})
        assert client.post(server.url, json={"query": "good"}).status_code == 200
    assert "a search failed" in caplog.text


def test_a_bad_query_fails_nobody_else_in_its_batch():
    batcher = Batcher(retriever := Slow(), window=0.0, max_batch=5)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher.search_many, ["first"], 1)
        wait_for(lambda: retriever.batches)
        others = {query: pool.submit(batcher.search_many, [query], 1) for query in ("a", "bad", "b")}
        wait_for(lambda: batcher._waiting.qsize() == 3)
        retriever.go.set()
        assert [len(answer.result()) for answer in (first, others["a"], others["b"])] == [1, 1, 1]
        with pytest.raises(RuntimeError, match="bad query"):
            others["bad"].result()
    batcher.close()


def test_a_large_body_is_not_kept_waiting_for_its_go_ahead(server):
    host, port = server.url.removeprefix("http://").removesuffix("/retrieve").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        body = b'{"query": "Bemi"}'
        head = f"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert connection.recv(1024).startswith(b"HTTP/1.1 200")


def test_many_clients_at_once_each_get_their_own_answer(server):
    def ask(i):
        with httpx2.Client(trust_env=False, timeout=10) as client:
            found = client.post(server.url, json={"query": ("Bemi", "birthplace")[i % 2], "topk": 1}).json()
        return found["result"][0][0]["contents"]

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(64))) == list(TEXTS) * 32


# ---- The end ---------------------------------------------------------------------------------------------------------


def test_on_leaving_what_was_asked_is_answered_and_idle_connections_end(client):
    retriever, before = Slow(), threading.active_count()
    with ThreadPoolExecutor(1) as pool:
        with RetrievalServer(retriever, **OPTIONS) as server:
            client.get(server.url)  # leaves an idle connection
            asked = pool.submit(httpx2.post, server.url, json={"query": "late"}, trust_env=False)
            wait_for(lambda: retriever.batches)
            threading.Timer(0.1, retriever.go.set).start()
        assert asked.result().status_code == 200
    with pytest.raises(httpx2.ConnectError):
        client.post(server.url, json={"query": "Bemi"})
    assert threading.active_count() == before


def start(corpus, tmp_path, *overrides):
    command = [sys.executable, str(ROOT / "src" / "serve.py"), f"data.retriever.corpus_path={corpus}"]
    command += [f"data.retriever.cache_dir={tmp_path / 'cache'}", *overrides]
    return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_script_serves_until_a_signal(corpus, tmp_path, client, number):
    process = start(corpus, tmp_path, "port=0")
    line = process.stdout.readline()
    assert line.startswith("serving CorpusBM25 at http://127.0.0.1:")
    url = line.split()[-1]
    assert client.post(url, json={"query": "Bemi", "topk": 1}).json()["result"][0][0]["contents"] == TEXTS[0]
    process.send_signal(number)
    output, notices = process.communicate(timeout=20)
    assert output == "stopped\n" and notices.startswith(f"building the index of {corpus}") and notices.count("\n") == 1
    assert process.returncode == 0


@pytest.mark.slow
def test_the_script_says_in_one_line_what_is_wrong(server, corpus, tmp_path):
    port = server.server_address[1]
    output, errors = start(corpus, tmp_path, f"port={port}").communicate(timeout=60)
    assert output == "" and errors.count("\n") == 1
    assert errors.startswith(f"error: port={port}, host=127.0.0.1: Address already in use; expected a free port")

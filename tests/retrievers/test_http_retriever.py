"""The retrieval client: against our server, against one that misbehaves, and in rollouts and training on either."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hydra.utils import instantiate

import train
from a2tgpo.embedded.demonstrations import answer_action, search_action
from a2tgpo.engines.scripted import ScriptedEngine
from a2tgpo.retrievers.http import HttpRetriever, RetrievalError
from a2tgpo.retrievers.server import RetrievalServer
from a2tgpo.rollouts.trajectory import Split, StopReason
from a2tgpo.rollouts.transcripts import render
from a2tgpo.system.errors import SettingError
from tests.helpers.misbehaving_server import FOUND, TEXTS, Counting, FailsFirst, Misbehaving, passages
from tests.helpers.shipped import corpus_bm25
from tests.helpers.tiny_runs import SHIPPED, SMALL

QUICK = {"timeout": 0.5, "total_timeout": 4.0, "retries": 2, "max_concurrent": 16, "cache_size": 100}
RUBBISH = (
    b"<html>",
    b"[]",
    b'{"result": 1}',
    b'{"result": [[], []]}',
    b'{"result": [{}]}',
    b'{"result": [[{"id": "1"}]]}',
)


@pytest.fixture
def retriever():
    """`retriever(url, …)`: a client with short time limits."""
    opened = []

    def build(url, protocol="search_r1", **settings):
        opened.append(HttpRetriever(url, protocol, **(QUICK | settings)))
        return opened[-1]

    yield build
    for client in opened:
        client.close()


@pytest.fixture
def bm25(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": i, "contents": text}) + "\n" for i, text in enumerate(TEXTS)))
    return corpus_bm25(str(path), str(tmp_path / "cache"))


# ---- A server that behaves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["search_r1", "skyrl"])
def test_served_search_finds_what_the_search_in_process_finds(bm25, retriever, protocol):
    with RetrievalServer(bm25, "127.0.0.1", 0, topk=3, window=0.001, max_batch=8) as server:
        client = retriever(server.url, protocol, timeout=2.0)
        queries = ["birthplace of Varo", "Bemi", "nobody knows", "Varo Tano", "é"]
        with ThreadPoolExecutor(16) as pool:
            served = list(pool.map(lambda query: client.search(query, 2), queries * 10))
        assert served == [bm25.search(query, 2) for query in queries] * 10
        client.close()


@pytest.mark.parametrize(("protocol", "asked"), [("search_r1", {"queries": ["Varo"]}), ("skyrl", {"query": "Varo"})])
def test_each_protocol_sends_its_own_fields(retriever, protocol, asked):
    with Misbehaving(lambda n: FOUND) as server:
        assert retriever(server.url, protocol).search("Varo", 2, "a corpus") == [TEXTS[1]]
    assert server.asked == [asked | {"topk": 2, "return_scores": True}]


@pytest.mark.parametrize(
    "item", [{"contents": "a"}, {"document": {"contents": "a", "title": "t", "text": "x"}}, {"id": 1, "contents": "a"}]
)
def test_bare_documents_and_documents_without_id_are_read(retriever, item):
    with Misbehaving(lambda n: json.dumps({"result": [[item]]}).encode()) as server:
        assert retriever(server.url).search("Varo", 1) == ["a"]


def test_no_more_than_the_best_passages_are_taken_and_blank_ones_are_passed_over(retriever):
    many = [passages("a", "b", "c", "d"), passages("a", None, " ", "b"), b'{"result": [[null, {"text": ""}, "x"]]}']
    with Misbehaving(lambda n: many[n]) as server:
        client = retriever(server.url)
        assert [client.search(query, 3) for query in "xy"] == [["a", "b", "c"], ["a", "b"]]
        with pytest.raises(RetrievalError, match="expected"):
            client.search("z", 3)


def test_cache_returns_the_same_passages_without_asking(retriever):
    with Misbehaving(lambda n: FOUND) as server:
        client = retriever(server.url, cache_size=2)
        client.search("a", 1).append("changed by the caller")
        assert client.search("a", 1) == [TEXTS[1]] and len(server.asked) == 1
        client.search("a", 2), client.search("b", 1), client.search("a", 1)
    assert [(asked["queries"], asked["topk"]) for asked in server.asked] == [
        (["a"], 1),
        (["a"], 2),
        (["b"], 1),
        (["a"], 1),
    ]


def test_no_more_requests_than_allowed_are_under_way(retriever):
    with Counting(None) as server, ThreadPoolExecutor(20) as pool:
        client = retriever(server.url, max_concurrent=3, timeout=2.0)
        list(pool.map(lambda i: client.search(str(i), 1), range(20)))
        client.close()
    assert server.most == 3


# ---- A server that does not ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [408, 429, 500, 503, "hang", "close"])
def test_a_passing_failure_is_tried_again(retriever, act):
    with Misbehaving(lambda n: act if n < 2 else FOUND) as server:
        assert retriever(server.url).search("Varo", 1) == [TEXTS[1]]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("act", "why"), [(500, "status 500: 'no'"), ("hang", "no answer within 0.5 seconds"), ("close", "disconnected")]
)
def test_a_lasting_failure_ends_after_the_retries_and_is_not_cached(retriever, act, why):
    with Misbehaving(lambda n: act if n < 3 else FOUND) as server:
        client = retriever(server.url)
        with pytest.raises(RetrievalError) as error:
            client.search("Varo", 1)
        said = str(error.value)
        assert said.startswith(f"data.retriever.url={server.url}: ") and why in said and said.endswith("(3 tries)")
        assert client.search("Varo", 1) == [TEXTS[1]]


def test_time_is_bounded_however_many_retries_are_allowed(retriever):
    with Misbehaving(lambda n: "hang") as server:
        start = time.monotonic()
        with pytest.raises(RetrievalError):
            retriever(server.url, retries=1000, timeout=0.3, total_timeout=0.7).search("Varo", 1)
        assert time.monotonic() - start < 5 and 2 <= len(server.asked) <= 4


def test_a_refused_connection_is_an_error_that_names_the_server(retriever):
    with Misbehaving(lambda n: FOUND) as server:
        pass
    with pytest.raises(RetrievalError, match=rf"^data.retriever.url={server.url}: ConnectError: .*3 tries"):
        retriever(server.url).search("Varo", 1)


@pytest.mark.parametrize("body", RUBBISH)
def test_rubbish_is_named_at_once(retriever, body):
    with Misbehaving(lambda n: body) as server:
        with pytest.raises(RetrievalError) as error:
            retriever(server.url).search("Varo", 1)
        said = str(error.value)
        assert said.startswith(f"data.retriever.url={server.url}: expected {{'result': ") and body.decode() in said
    assert len(server.asked) == 1


def test_a_refused_request_is_not_repeated(retriever):
    with Misbehaving(lambda n: 422) as server, pytest.raises(RetrievalError, match="refused with status 422") as error:
        retriever(server.url).search("Varo", 1)
    assert len(server.asked) == 1 and str(error.value).startswith(f"data.retriever.url={server.url}: ")


WRONG = [
    ("url", "localhost:8000"),
    ("url", "http://"),
    ("protocol", "verl"),
    ("timeout", 0.0),
    ("timeout", 9.0),
    ("retries", -1),
    ("max_concurrent", 0),
    ("cache_size", -1),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong_settings_are_named(name, value):
    settings = {"url": "http://127.0.0.1:1", "protocol": "skyrl"} | QUICK | {name: value}
    with pytest.raises(ValueError, match=rf"^data\.retriever\.{name}=.*: expected"):
        HttpRetriever(**settings)


# ---- Rollouts and training -------------------------------------------------------------------------------------------

ONE_TRY = (
    "data.retriever.timeout=1",
    "data.retriever.total_timeout=3",
    "data.retriever.retries=0",
    "data.retriever.cache_size=0",
    "data.module.max_response_tokens=440",
)


def played(composed, policy, url, *overrides, group_size=4):
    """Three searches and an answer by each trajectory of two groups, over HTTP."""
    config = composed("experiment=a2tgpo", "data/retriever=http", f"data.retriever.url={url}", *overrides)
    data = instantiate(config.data.module, _convert_="all")
    task = data.tasks.split(Split.TRAIN)[0]

    def script(key):
        return [*(search_action(f"w {key[-2:]} {i}") for i in range(3)), answer_action(task.answers[0])]

    rollout = replace(data.rollout, engine=ScriptedEngine(script))
    return rollout.run(policy, [(0, task), (1, task)], group_size, (0,), greedy=False)


@pytest.mark.parametrize("act", [500, "hang", "close", b"<html>"])
def test_a_server_that_fails_every_second_request_costs_no_trajectory(composed, random_policy, act):
    with Misbehaving(lambda n: FOUND if n % 2 else act) as server:
        trajectories = played(composed, random_policy, server.url, *ONE_TRY, "data.environment.max_tool_failures=4")
    assert [(t.group, t.sample, t.stop) for t in trajectories] == [
        (g, s, StopReason.ANSWERED) for g in (0, 1) for s in range(4)
    ]
    assert sum(t.metrics["calls"] for t in trajectories) == len(server.asked) == 24
    assert sum(t.metrics["tool_failures"] for t in trajectories) == 12
    said = Counter("failed" in turn.observation_text for t in trajectories for turn in t.turns[:3])
    assert said == {True: 12, False: 12}


def test_retries_hide_failures_that_pass(composed, random_policy):
    with FailsFirst(None) as server:
        trajectories = played(composed, random_policy, server.url, *ONE_TRY, "data.retriever.retries=1")
    assert sum(t.metrics["tool_failures"] for t in trajectories) == 0
    assert len(server.asked) == 48


def test_a_server_that_is_gone_ends_episodes_but_loses_none(composed, random_policy):
    with Misbehaving(lambda n: FOUND) as server:
        pass
    trajectories = played(composed, random_policy, server.url, *ONE_TRY, group_size=2)
    assert [t.stop for t in trajectories] == [StopReason.TOOL_FAILURE] * 4
    assert all(t.metrics["tool_failures"] == len(t.turns) == 3 for t in trajectories)
    assert f"search failed: RetrievalError: data.retriever.url={server.url}: ConnectError" in render(trajectories[0])


@pytest.mark.parametrize("act", [404, 307, 500, b'{"result": [["a"]]}', b'{"result": [[]]}', b'{"result": [[null]]}'])
def test_a_server_that_never_finds_anything_ends_the_run(composed, random_policy, act):
    with Misbehaving(lambda n: act) as server, pytest.raises(SettingError) as error:
        played(composed, random_policy, server.url, *ONE_TRY)
    told = "data.environment.tools.search: none of its last 24 calls brought a result; expected some to. The last: "
    why = "it found nothing" if act in (b'{"result": [[]]}', b'{"result": [[null]]}') else "RetrievalError: data.ret"
    assert str(error.value).startswith(told + why)


def test_training_goes_through_on_a_server_that_fails_every_second_request(composed, tmp_path, capsys):
    with Misbehaving(lambda n: FOUND if n % 2 else 500) as server:
        over_http = ("data/retriever=http", f"data.retriever.url={server.url}", *ONE_TRY)
        paths = (f"paths.policy_dir={SHIPPED}", f"paths.output_dir={tmp_path / 'run'}")
        train.train(composed("experiment=a2tgpo", *SMALL, "trainer.max_epochs=1", *over_http, *paths))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    lines = [json.loads(line) for path in (tmp_path / "run" / "rollouts").glob("*.jsonl") for line in path.open()]
    assert summary["iterations"] == 1 and summary["optimizer_steps"] == 2 and len(lines) == 8
    failures = sum(line["metrics"]["tool_failures"] for line in lines)
    assert failures > 0 and f"  failed calls {failures / 8:.2f}  " in capsys.readouterr().out
    assert sum(line["metrics"]["calls"] for line in lines) > failures

"""The client of all servers: time limits, kinds of failure, kept connections, and how long it goes on trying."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from a2tgpo.system.http_client import MAX_ANSWER, HttpClient, Refused, RetryBudget, Unavailable
from tests.helpers.misbehaving_server import FOUND, Misbehaving


@pytest.fixture
def client():
    """`client(url, …)`."""
    opened = []

    def build(url, timeout=5.0, max_connections=4):
        opened.append(HttpClient(url, timeout, "data.engine", max_connections))
        return opened[-1]

    yield build
    for one in opened:
        one.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize("words", [[HEAD % 900, *[b"x"] * 900], [b"HTTP/1.1 200 OK\r\n", b"x-slow: ", *[b"x"] * 900]])
def test_an_answer_that_drips_is_given_up_in_time_in_its_head_too(client, words):
    with Misbehaving(lambda n: lambda: words) as server:
        start = time.monotonic()
        with pytest.raises(Unavailable, match=r"^/slow: no answer within 0\.5 seconds"):
            client(server.url, timeout=0.5).post("/slow", {})
        assert time.monotonic() - start < 5  # of 18 and more


def test_of_a_huge_answer_only_the_beginning_is_read(client):
    sent = []

    def words():
        yield HEAD % (100 << 20)
        for _ in range(100):
            sent.append(1)
            yield b"x" * (1 << 20)

    with Misbehaving(lambda n: words) as server:
        server.pause = 0.0
        with pytest.raises(Refused, match=rf"was answered with more than {MAX_ANSWER} bytes: 'x+'$") as error:
            client(server.url, timeout=20.0).post("", {})
    assert len(str(error.value)) < 500 and len(sent) < 50


def test_fields_of_an_answer_are_read_or_missed(client):
    with Misbehaving(lambda n: [b'{"a": {"b": 1}}', b'{"a": null}', b"[1]", b"late"][n]) as server:
        asked = client(server.url)
        assert asked.post("", {}, "a", "b") == 1
        for found in (r"\{'a': None\}", r"\[1\]", "late"):
            with pytest.raises(Unavailable, match=rf"expected an answer with a\.b, found {found}$"):
                asked.post("", {}, "a", "b")


def test_one_request_may_have_less_time(client):
    with Misbehaving(lambda n: "hang") as server:
        start = time.monotonic()
        with pytest.raises(Unavailable, match=r"^no answer within 0\.1 seconds"):
            client(server.url, timeout=20.0).post("", {}, timeout=0.1)
        assert time.monotonic() - start < 5


def test_the_time_of_a_request_that_waits_for_others_does_not_run_yet(client):
    there, gate = threading.Event(), threading.Event()

    def answer(n):
        there.set()
        gate.wait(20)
        return b"{}"

    with Misbehaving(answer) as server, ThreadPoolExecutor(2) as pool:
        asked = client(server.url, max_connections=1)
        first = pool.submit(asked.post, "", {}, timeout=30.0)
        assert there.wait(20)
        second = pool.submit(asked.post, "", {}, timeout=0.5)
        time.sleep(1.0)
        gate.set()
        assert first.result(20) == second.result(20) == {}


@pytest.mark.parametrize("act", [500, 502, 503, 408, 429])
def test_a_busy_or_broken_server_may_answer_later(client, act):
    with Misbehaving(lambda n: act) as server, pytest.raises(Unavailable, match=f"^status {act}: 'no'") as error:
        client(server.url).post("", {})
    assert error.value.status == act


@pytest.mark.parametrize("act", [301, 307, 308])
def test_a_redirect_says_where_it_leads(client, act):
    with Misbehaving(lambda n: act) as server, pytest.raises(Refused, match=rf"with status {act} → /elsewhere: 'no'$"):
        client(server.url).post("", {})


@pytest.mark.parametrize("act", [400, 404, 422])
def test_a_refusal_names_the_server_and_what_it_said(client, act):
    with Misbehaving(lambda n: act) as server, pytest.raises(Refused) as error:
        client(server.url).post("", {})
    expected = f"data.engine.url={server.url}: the request was refused with status {act}: 'no'"
    assert (error.value.status, str(error.value)) == (act, expected)


@pytest.mark.parametrize("act", ["close", b'{"result": [', b"[1, 2", '{"result": ["é"]}'.encode("latin-1")])
def test_an_answer_that_is_cut_off_may_come_whole_later(client, act):
    with Misbehaving(lambda n: act) as server, pytest.raises(Unavailable, match=r"disconnected|cut off"):
        client(server.url).post("", {})


def test_nobody_at_home(client):
    with Misbehaving(lambda n: FOUND) as server:
        pass
    with pytest.raises(Unavailable, match=r"^/a: ConnectError: "):
        client(server.url).get("/a")


def test_json_is_read_and_any_other_text_is_handed_on(client):
    with Misbehaving(lambda n: [FOUND, b" done"][n]) as server:
        asked = client(server.url)
        assert [asked.post("", {"a": 1}), asked.post("", {})] == [json.loads(FOUND), " done"]
    assert server.asked == [{"a": 1}, {}]


def test_proxies_of_the_machine_are_not_used(client, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Misbehaving(lambda n: FOUND) as server:
        assert client(server.url).post("", {}) == json.loads(FOUND)


@pytest.mark.parametrize(
    ("url", "timeout", "message"), [("here", 1.0, "url='here': "), ("http://a", 0.0, "timeout=0.0: ")]
)
def test_wrong_settings_are_named(url, timeout, message):
    with pytest.raises(ValueError, match=rf"^data\.engine\.{message}expected"):
        HttpClient(url, timeout, "data.engine", 1)


# ---- the retry budget ------------------------------------------------------------------------------------------------


def test_pauses_grow_up_to_the_longest_and_differ_between_clients():
    budgets = [RetryBudget(1000.0, first_delay=0.1, longest_delay=0.4) for _ in range(50)]
    for longest in (0.1, 0.2, 0.4, 0.4):
        pauses = [budget.pause() for budget in budgets]
        assert all(longest / 2 <= pause <= longest for pause in pauses) and len(set(pauses)) > 25


def test_retries_are_counted():
    budget = RetryBudget(1000.0, 0.1, 0.4, retries=2)
    assert [budget.pause() is None for _ in range(3)] == [False, False, True] and budget.failures == 3


def test_time_is_counted_from_the_first_failure_unless_told_otherwise():
    late = RetryBudget(1.0, 0.1, 0.4, since=time.monotonic() - 2.0)
    assert late.left < 0 and late.pause() is None
    assert RetryBudget(1.0, 0.1, 0.4).pause() is not None and RetryBudget(0.0, 0.1, 0.4).pause() is None

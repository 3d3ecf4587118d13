"""Serves a retriever over HTTP, in both protocols that trainers speak."""

import json
import logging
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from a2tgpo.retrievers.batching import Batcher
from a2tgpo.retrievers.protocols import Passage, PassageRetriever
from a2tgpo.system.jsonl import read_json
from a2tgpo.system.settings import require_all

MAX_BODY = 4 << 20
"""Bytes a request may have."""
MAX_TOPK = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchRequest:
    """`POST /retrieve`: `queries` is a list (Search-R1, verl) or one text under `query` (SkyRL)."""

    queries: list[str]
    topk: int
    return_scores: bool

    @classmethod
    def parse(cls, body: bytes, default_topk: int) -> "SearchRequest":
        """Raises ValueError saying what was expected of which field."""
        try:
            fields = read_json(body)
        except ValueError as error:
            raise ValueError(f"expected a JSON object in UTF-8: {error}") from error
        if not isinstance(fields, dict) or ("queries" in fields) == ("query" in fields):
            raise ValueError("expected a JSON object with either 'queries' (a list of texts) or 'query' (one text)")
        queries = fields["queries"] if "queries" in fields else [fields["query"]]
        if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
            raise ValueError("'queries': expected a list of texts; 'query': expected one text")
        topk, scores = fields.get("topk"), fields.get("return_scores", False)
        topk = default_topk if topk is None else topk
        if type(topk) is not int or not 1 <= topk <= MAX_TOPK:
            raise ValueError(f"'topk': expected an integer from 1 to {MAX_TOPK}, found {topk!r}")
        if not isinstance(scores, bool):
            raise ValueError(f"'return_scores': expected true or false, found {scores!r}")
        return cls(queries, topk, scores)


def _written(passage: Passage, scores: bool) -> dict[str, Any]:
    fields = asdict(passage)
    score = fields.pop("score")
    return {"document": fields, "score": score} if scores else fields


class _Handler(BaseHTTPRequestHandler):
    """One connection, kept open between requests."""

    server: "RetrievalServer"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together
    timeout = 120.0
    """Seconds a connection may be silent."""

    def do_GET(self) -> None:
        """Is the server up?"""
        if self.path == "/health":
            self._answer(HTTPStatus.OK, {"status": "ok"})
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "expected GET /health or POST /retrieve")

    def do_POST(self) -> None:
        """One search request."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return self.send_error(HTTPStatus.LENGTH_REQUIRED, "expected the header Content-Length")
        if int(length) > MAX_BODY:
            return self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {MAX_BODY} bytes")
        body = self.rfile.read(int(length))
        if self.path != "/retrieve":
            return self.send_error(HTTPStatus.NOT_FOUND, "expected GET /health or POST /retrieve")
        try:
            request = SearchRequest.parse(body, self.server.topk)
        except ValueError as error:
            return self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        self._search(request)

    def _search(self, request: SearchRequest) -> None:
        try:
            found = self.server.batcher.search_many(request.queries, request.topk)
        except Exception as error:  # whatever the retriever raises ends this request, never the server
            _log.exception("a search failed")
            return self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"})
        result = [[_written(passage, request.return_scores) for passage in passages] for passages in found]
        self._answer(HTTPStatus.OK, {"result": result})

    def handle_expect_100(self) -> bool:
        """The go-ahead leaves at once: the client waits for it with the body."""
        granted = super().handle_expect_100()
        self.wfile.flush()
        return granted

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Errors are JSON too. What was not read of the request cannot be passed over, so the connection ends."""
        self.close_connection = True
        self._answer(code, {"error": message or HTTPStatus(code).phrase})

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: there are thousands an iteration."""


class RetrievalServer(ThreadingHTTPServer):
    """A retriever behind `POST /retrieve` and `GET /health`; a context that serves in the background.

    `port` 0 takes a free one; `topk` counts where a request names none. On leaving the context what has been asked is
    still answered.
    """

    request_queue_size = 1024
    daemon_threads = False  # so that server_close waits for the last answers

    def __init__(
        self, retriever: PassageRetriever, host: str, port: int, topk: int, window: float, max_batch: int
    ) -> None:
        require_all({"host": host, "port": port, "topk": topk, "window": window, "max_batch": max_batch})
        self.topk = topk
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._connections: set[socket.socket] = set()
        super().__init__((host, port), _Handler)
        self.batcher = Batcher(retriever, window, max_batch)

    @property
    def url(self) -> str:
        """Where searches are asked for."""
        host, port = self.server_address[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/retrieve"

    def __enter__(self) -> "RetrievalServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="accept").start()
        return self

    def __exit__(self, *args: Any) -> None:
        self.shutdown()
        for connection in list(self._connections):
            with suppress(OSError):  # it has just ended by itself
                connection.shutdown(socket.SHUT_RD)  # idle ones end at once, busy ones after their answer
        self.server_close()
        self.batcher.close()

    def process_request(self, request: socket.socket, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: socket.socket, client_address: Any) -> None:
        """A client that went away is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

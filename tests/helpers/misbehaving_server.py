"""Retrieval servers that fail, hang, hang up or talk rubbish, as a test wants it."""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread

TEXTS = ('"Bemi"\nThe director of Bemi is Varo Tano.', '"Varo Tano"\nThe birthplace of Varo Tano is Kelu.')
FOUND = json.dumps({"result": [[{"document": {"id": "1", "contents": TEXTS[1]}, "score": 2.0}]]}).encode()


def passages(*contents):
    """An answer with these contents."""
    return json.dumps({"result": [[{"document": {"contents": text}} for text in contents]]}).encode()


class Handler(BaseHTTPRequestHandler):
    """Does what the server's script says of this request: an answer, a status, words on the wire, or nothing at all.

    Words are sent as they are, each after a pause, until the client has hung up.
    """

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        act = self.server.act(asked)
        if act == "hang":
            self.server.over.wait(10)
        if act in ("hang", "close"):
            self.close_connection = True
            return
        if callable(act):
            return self.speak(act())
        status, body = (act, b"no") if isinstance(act, int) else (200, act)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def speak(self, words):
        self.close_connection = True
        for word in words:
            try:
                self.wfile.write(word)
            except OSError:
                return
            if self.server.over.wait(self.server.pause):
                return

    def log_message(self, *args):
        pass


class Misbehaving(ThreadingHTTPServer):
    """Answers request `n` (from 0) as `script(n)` says; keeps what was asked."""

    request_queue_size = 128
    daemon_threads = True
    pause = 0.05
    """Seconds between two words."""

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked, self.lock, self.over = script, [], Lock(), Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/retrieve"

    def act(self, asked):
        with self.lock:
            self.asked.append(asked)
            return self.script(len(self.asked) - 1)

    def __enter__(self):
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *args):
        self.over.set()
        self.shutdown()
        self.server_close()


class Counting(Misbehaving):
    """Takes its time, and counts how many requests are under way at once."""

    busy = most = 0

    def act(self, asked):
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        time.sleep(0.02)
        with self.lock:
            self.busy -= 1
        return FOUND


class FailsFirst(Misbehaving):
    """Answers a query when it is asked for the second time."""

    def act(self, asked):
        with self.lock:
            self.asked.append(asked)
            return FOUND if self.asked.count(asked) == 2 else 500

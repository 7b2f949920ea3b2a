"""A server of OpenAI's chat interface in a thread, which answers as a test wants and writes down what it was sent."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

KEY = "sk-secret-of-a-test"


@dataclass(frozen=True)
class Reply:
    """What is answered: status, body and headers, after a delay or byte by byte; `drop` closes the connection."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float = 0.0
    drop: bool = False


@dataclass(frozen=True)
class Seen:
    """A request: kidney by the name of its question, how many were seen of it before, headers, body and arrival."""

    kidney: str
    before: int
    headers: dict[str, str]
    body: dict[str, Any]
    at_s: float


def report(seen: Seen) -> Reply:
    """A usable answer, which names the question."""
    content = {
        "model": "stand-in",
        "choices": [{"message": {"content": f"There is a mass, {seen.kidney}."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 10},
    }
    return Reply(json.dumps(content).encode())


class StandIn(ThreadingHTTPServer):
    """The server; `behave` may be set anew between two runs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave: Callable[[Seen], Reply] = report
        self.seen: list[Seen] = []
        self.paid: Counter[str] = Counter()
        self.active = self.most = 0
        self._lock = Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def take(self, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        kidney = headers["Idempotency-Key"].partition("-")[0]
        with self._lock:
            self.active += 1
            self.most = max(self.most, self.active)
            before = sum(seen.kidney == kidney for seen in self.seen)
            seen = Seen(kidney, before, headers, body, time.monotonic())
            self.seen.append(seen)
            reply = self.behave(seen)
            self.paid[kidney] += b"There is a mass" in reply.body
        return reply

    def leave(self) -> None:
        with self._lock:
            self.active -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that gave up are no news."""


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        content = self.rfile.read(int(self.headers["Content-Length"]))
        reply = self.server.take(dict(self.headers), json.loads(content))
        time.sleep(reply.delay_s)
        self.server.leave()
        if reply.drop:
            self.connection.close()
            return
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(len(reply.body)) if reply.drip_s else ():
            self.wfile.write(reply.body[start : start + 1])
            time.sleep(reply.drip_s)
        if not reply.drip_s:
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

"""A proxy before a real S3 server that spoils what it is told to: real HTTP on both sides, so real retries are seen."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>ordered by a test</Message></Error>"
REFUSALS = {
    "slowdown": (503, "SlowDown"),
    "internal": (500, "InternalError"),
    "denied": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
    "no-bucket": (404, "NoSuchBucket"),
}
BROKEN = ("drop", "reset", "truncate", "hang")
KINDS = (*REFUSALS, *BROKEN, "stale")
TRANSIENT = ("slowdown", "internal", "drop", "reset", "truncate")
OUTAGES = ("slowdown", "expired", "no-bucket")
HANG_S = 30.0
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class Proxy:
    """`fault(method, path)` names what is to go wrong with a request: one of KINDS, or None.

    drop      the request never reaches the server         reset  the connection breaks in the middle of the answer
    truncate  it ends there, as if it were whole           hang   no answer at all
    stale     a listing as it was when it was first asked for
    """

    endpoint: str = ""
    fault: Callable[[str, str], str | None] = lambda method, path: None
    injected: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    listings: dict[str, tuple[int, list[tuple[str, str]], bytes]] = field(default_factory=dict)

    def at_random(self, kinds: tuple[str, ...], share: float, seed: int) -> None:
        """From now on, one of `kinds` with probability `share`, the same ones for the same seed and requests."""
        dice, lock = random.Random(seed), threading.Lock()

        def fault(method: str, path: str) -> str | None:
            with lock:
                return dice.choice(kinds) if dice.random() < share else None

        self.fault = fault

    def after(self, requests: int, kind: str) -> None:
        """From that many requests on, `kind` for every one."""
        first = self.requests + requests
        self.fault = lambda method, path: kind if self.requests > first else None

    def heal(self) -> None:
        self.fault = lambda method, path: None


@contextmanager
def before(server: str) -> Iterator[Proxy]:
    """A running proxy for the S3 server at the endpoint `server`."""
    proxy, backend = Proxy(), urlsplit(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self._body()
            proxy.requests += 1
            fault = proxy.fault(self.command, self.path)
            if fault == "stale" and not _is_listing(self.command, self.path):
                fault = None
            if fault:
                proxy.injected[fault] += 1
            if fault in REFUSALS:
                status, code = REFUSALS[fault]
                self._answer(status, [("Content-Type", "application/xml")], ERROR.format(code=code).encode())
            elif fault in ("drop", "hang"):
                time.sleep(HANG_S if fault == "hang" else 0)
                self._cut()
            else:
                self._forward(body, fault)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

        def _forward(self, body: bytes, fault: str | None) -> None:
            connection = http.client.HTTPConnection(backend.hostname or "", backend.port, timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            status, headers, data = answer.status, answer.getheaders(), answer.read()
            connection.close()
            if _is_listing(self.command, self.path):
                first = proxy.listings.setdefault(self.path, (status, headers, data))
                status, headers, data = first if fault == "stale" else (status, headers, data)
            if fault in ("reset", "truncate"):
                self._answer(status, headers, data[: len(data) // 2], len(data))
                self._cut(politely=fault == "truncate")
            else:
                self._answer(status, headers, data)

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, said: int | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _HOP or (self.command == "HEAD" and name.lower() == "content-length"):
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(data) if said is None else said))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            raise AssertionError("S3 clients say how long a body is")

        def _cut(self, politely: bool = False) -> None:
            """Ends the connection: by RST, or politely by FIN, which looks like a proper end."""
            if not politely:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR) if politely else self.connection.close()

        def log_message(self, format: str, *args: object) -> None:
            return

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    proxy.endpoint = f"http://127.0.0.1:{running.server_port}"
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield proxy
    finally:
        running.shutdown()
        running.server_close()


def _is_listing(method: str, path: str) -> bool:
    return method == "GET" and "list-type=2" in path

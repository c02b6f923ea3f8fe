"""A small S3 server with faults to order: real HTTP, so that real retries can be watched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} of {key}</Message></Error>"


@dataclass
class Bucket:
    """Objects by path. Each entry of `faults` spoils one request: a status and S3 code, or "drop" after it is done."""

    objects: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[tuple[int, str] | str] = field(default_factory=list)
    requests: int = 0
    endpoint: str = ""


@contextmanager
def serving() -> Iterator[Bucket]:
    bucket = Bucket()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(*self._get())

        def do_HEAD(self) -> None:
            self._answer(*self._get())

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if b"chunk-signature" in body or "aws-chunked" in self.headers.get("Content-Encoding", ""):
                body = body.split(b"\r\n", 2)[1]
            self._answer(*self._put(body))

        def do_DELETE(self) -> None:
            bucket.objects.pop(self.path, None)
            self._answer(204, b"")

        def _get(self) -> tuple[int, bytes]:
            found = bucket.objects.get(self.path)
            return (200, found) if found is not None else (404, ERROR.format(code="NoSuchKey", key=self.path).encode())

        def _put(self, body: bytes) -> tuple[int, bytes]:
            if self.headers.get("If-None-Match") and self.path in bucket.objects:
                return 412, ERROR.format(code="PreconditionFailed", key=self.path).encode()
            if not (bucket.faults and isinstance(bucket.faults[0], tuple)):
                bucket.objects[self.path] = body
                given = {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}
                bucket.metadata[self.path] = given
            return 200, b""

        def _answer(self, status: int, body: bytes) -> None:
            bucket.requests += 1
            fault = bucket.faults.pop(0) if bucket.faults else None
            if fault == "drop":
                self.close_connection = True
                self.connection.close()
                return
            if isinstance(fault, tuple):
                status, body = fault[0], ERROR.format(code=fault[1], key=self.path).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", formatdate(usegmt=True))
            self.send_header("ETag", f'"{md5(body).hexdigest()}"')
            for name, value in bucket.metadata.get(self.path, {}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    bucket.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()

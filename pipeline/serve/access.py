"""Who may ask: a token as `Authorization: Bearer`, or as the password of HTTP Basic, which browsers ask for.

Every answer also carries the headers that keep a page from doing more than it should.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serve.counters import Counters

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
}


class Access:
    """ASGI middleware: read-only methods, names, tokens, safe headers, counting."""

    def __init__(self, app: ASGIApp, token: str | None, hosts: frozenset[str], counters: Counters) -> None:
        self._app, self._token, self._hosts, self._counters = app, token, hosts, counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, answer = time.perf_counter(), {"status": 500}

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            await (self._refusal(scope) or self._app)(scope, receive, dressed)
        finally:
            self._counters.answered(answer["status"], time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        if self._token is None:
            name = _name_of(headers.get("host", ""))
            if self._hosts and name not in self._hosts:
                return PlainTextResponse("this gateway answers to local names only; start it with a token\n", 403)
            return None
        if scope["path"] == "/healthz" or hmac.compare_digest(_given(headers).encode(), self._token.encode()):
            return None
        challenge: dict[str, Any] = {"WWW-Authenticate": 'Basic realm="shardpress", charset="UTF-8"'}
        return PlainTextResponse("a token is needed: Authorization: Bearer TOKEN\n", 401, challenge)


def _name_of(host: str) -> str:
    """The host of a Host header without its port; IPv6 keeps its brackets."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0].lower()


def _given(headers: Headers) -> str:
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""

"""The gateway: pictures of one archive over HTTP, a gallery with search, health and metrics.

    GET /                         gallery; ?q=, ?order=, ?page=
    GET /images/{id}              the picture in the format it came in; ?w=640 &format=webp
    GET /images/{id}.json         its metrics row
    GET /healthz, GET /metrics    for load balancers and Prometheus

Read-only. Pictures carry an ETag that is known before anything is decoded, so a browser's cache costs no decoding.
Without a token only local names are answered to: a page elsewhere must not reach a gateway through somebody's browser.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipeline.errors import ArchiveError, ConfigError, PipelineError
from pipeline.serve import gallery
from pipeline.serve.access import Access
from pipeline.serve.counters import Counters
from pipeline.serve.ranges import cut
from pipeline.serve.renders import FORMATS, WIDEST_PX, Renders, Wish

_UNKNOWN = "no such picture in this archive; expected an image_id of its metrics table\n"
_IMAGE_ID = re.compile(r"[0-9a-f]{32}")


class Gateway:
    """The handlers, over the renders of one archive."""

    def __init__(self, renders: Renders, counters: Counters) -> None:
        self._renders, self._counters = renders, counters

    async def gallery(self, request: Request) -> Response:
        text, page = request.query_params.get("q", "").strip(), _number(request, "page", 1, 1, 1_000_000)
        order = request.query_params.get("order")
        return HTMLResponse(await run_in_threadpool(gallery.page, self._renders.fresh(), text, page, order))

    async def image(self, request: Request) -> Response:
        row, wish = self._row(request), _wish(request)
        tag = self._renders.tag(row, wish)
        headers = {"ETag": tag, "Cache-Control": "private, max-age=3600", "Accept-Ranges": "bytes"}
        if tag in _tags(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        render = await run_in_threadpool(self._renders.get, row, wish)
        whole = "if-range" in request.headers and request.headers["if-range"] != tag
        status, body, more = cut(render.data, None if whole else request.headers.get("range"))
        self._counters.add("bytes_sent_total", len(body))
        return Response(body, status, headers | more, media_type=render.media_type)

    async def row(self, request: Request) -> Response:
        shown = {name: value if _plain(value) else str(value) for name, value in self._row(request).items()}
        return JSONResponse(shown)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "pictures": len(self._renders.pictures)})

    async def icon(self, request: Request) -> Response:
        """Browsers ask for one unasked; 404 would stand in their console."""
        return Response(status_code=204, headers={"Cache-Control": "max-age=86400"})

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self._counters.text(self._renders), media_type="text/plain; version=0.0.4")

    def _row(self, request: Request) -> dict[str, Any]:
        image_id = request.path_params["image_id"]
        if not _IMAGE_ID.fullmatch(image_id):
            raise HTTPException(404, _UNKNOWN)
        try:
            return self._renders.fresh().row(image_id)
        except ArchiveError as error:  # its message says where the archive rests, which is nobody's business here
            raise HTTPException(404, _UNKNOWN) from error


def app(renders: Renders, token: str | None = None, hosts: frozenset[str] = frozenset()) -> Starlette:
    """The ASGI application. With a token every path but /healthz asks for it; without, `hosts` are answered to."""
    counters = Counters()
    gateway = Gateway(renders, counters)
    routes = [
        Route("/", gateway.gallery),
        Route("/images/{image_id}.json", gateway.row),
        Route("/images/{image_id}", gateway.image),
        Route("/favicon.ico", gateway.icon),
        Route("/healthz", gateway.health),
        Route("/metrics", gateway.metrics),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Access, token=token, hosts=hosts, counters=counters)],
        exception_handlers={ConfigError: _bad_request, PipelineError: _failed},
    )


async def _bad_request(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 400)


async def _failed(request: Request, error: Exception) -> Response:
    return PlainTextResponse("the stored picture cannot be decoded; check the archive with jobs.verify\n", 500)


def _wish(request: Request) -> Wish:
    for name in request.query_params:
        if name not in ("w", "format"):
            raise ConfigError(f"{name[:64]!r}: unknown parameter; expected w or format")
    width_px = _number(request, "w", None, 1, WIDEST_PX)
    file_format = request.query_params.get("format")
    if file_format is not None and file_format not in FORMATS:
        raise ConfigError(f"format {file_format[:64]!r}: expected one of {', '.join(FORMATS)}")
    return Wish(width_px, file_format)


def _number(request: Request, name: str, default: Any, low: int, high: int) -> Any:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise ConfigError(f"{name} is {text[:64]!r}; expected a whole number from {low} to {high}")
    return int(text)


def _tags(header: str) -> list[str]:
    return [each.strip().removeprefix("W/") for each in header.split(",")]


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)

"""Pictures as files of a wished width and format, decoded a few at a time, in a cache bounded in bytes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipeline.data.pictures import FORMATS as SUFFIX_FORMATS
from pipeline.data.pictures import Pictures, suffix_of
from pipeline.imaging import export

FORMATS = ("jpeg", "png", "webp", "avif")
WIDEST_PX = 4096
SCALED_QUALITY = 85
_MEDIA = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".jp2": "image/jp2",
    ".jxl": "image/jxl",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """A width in px (never above the picture's own) and a format; None is that of the source."""

    width_px: int | None = None
    file_format: str | None = None


@dataclass(frozen=True, slots=True)
class Render:
    """A file, ready to send."""

    data: bytes
    media_type: str


class Renders:
    """The pictures of an archive as files. Thread-safe.

    Args:
        cache_bytes: how much is kept, the least recently asked for going first.
        at_once: pictures decoded at the same time; each may need 20 bytes a pixel.
        refresh_s: how old the metrics table may get.
    """

    def __init__(
        self, pictures: Pictures, cache_bytes: int = 256 << 20, at_once: int = 2, refresh_s: float = 30
    ) -> None:
        self.pictures, self._limit, self._refresh_s = pictures, cache_bytes, refresh_s
        self._kept: OrderedDict[str, Render] = OrderedDict()
        self._lock, self._slots = threading.Lock(), threading.Semaphore(at_once)
        self._read_at = time.monotonic()
        self.cached_bytes = self.hits = self.misses = 0
        self.render_s = 0.0

    def fresh(self) -> Pictures:
        """The pictures, with their table read again when it is old."""
        with self._lock:
            due = time.monotonic() - self._read_at > self._refresh_s
            if due:
                self._read_at = time.monotonic()
        if due:
            self.pictures.reload()
        return self.pictures

    def tag(self, row: dict[str, Any], wish: Wish) -> str:
        """The ETag, of what decides the bytes; nothing is decoded for it."""
        said = (row["image_id"], row["part"], _width(row, wish), wish.file_format)
        return f'"{hashlib.sha256(repr(said).encode()).hexdigest()[:32]}"'

    def get(self, row: dict[str, Any], wish: Wish) -> Render:
        """From the cache, or rendered. Raises PipelineError for a payload that cannot be decoded."""
        key = self.tag(row, wish)
        if (kept := self._looked_up(key)) is not None:
            return kept
        with self._slots:
            if (kept := self._looked_up(key, count=False)) is not None:  # another thread was first
                return kept
            started = time.perf_counter()
            render = self._render(row, wish)
        with self._lock:
            self.render_s += time.perf_counter() - started
            self._keep(key, render)
        return render

    def _looked_up(self, key: str, count: bool = True) -> Render | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            self.hits += count and found is not None
            self.misses += count and found is None
            return found

    def _keep(self, key: str, render: Render) -> None:
        if len(render.data) > self._limit or key in self._kept:
            return
        self._kept[key] = render
        self.cached_bytes += len(render.data)
        while self.cached_bytes > self._limit:
            self.cached_bytes -= len(self._kept.popitem(last=False)[1].data)

    def _render(self, row: dict[str, Any], wish: Wish) -> Render:
        width_px = _width(row, wish)
        if width_px is None:
            restored = self.pictures.file(row, wish.file_format)
            return Render(restored.data, _MEDIA.get(restored.suffix or "", "application/octet-stream"))
        picture = self.pictures.picture(self.pictures.stored(row))
        image = export.to_pil(picture.rgb, gray=picture.gray, alpha=picture.alpha, icc=picture.icc)
        name = wish.file_format or SUFFIX_FORMATS.get(suffix_of(row), "jpeg")
        name = name if name in FORMATS else "png" if picture.alpha is not None else "jpeg"
        height_px = max(1, round(image.height * width_px / image.width))
        small = image.resize((width_px, height_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
        small.info = image.info
        data = export.save(small, name, SCALED_QUALITY if name != "png" else None)
        return Render(data, _MEDIA[export.SUFFIXES[name]])


def _width(row: dict[str, Any], wish: Wish) -> int | None:
    """None when the picture is to keep its own size."""
    own = row["width"] or 0
    return wish.width_px if wish.width_px is not None and wish.width_px < own else None

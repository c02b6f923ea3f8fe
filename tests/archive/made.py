"""Outcomes made by hand, for tests that need rows and no codec; and a store whose process can die."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.archive import Archive, CommitSummary, Unit
from pipeline.records import (
    ENCODED,
    KEPT_ORIGINAL,
    REJECTED,
    Distortion,
    Outcome,
    Picture,
    SourceImage,
    SourceItem,
    image_id_of,
)
from pipeline.storage.base import Entry

SPEC = {"name": "jpeg", "quality": 60}


def items(count: int, version: str = "v1", size_bytes: int = 1000, prefix: str = "/src") -> list[SourceItem]:
    return [SourceItem(f"{prefix}/{i:04}.jpg", version, size_bytes) for i in range(count)]


def source(uri: str, version: str = "v1", **passthrough: Any) -> SourceImage:
    data = hashlib.sha256(f"{uri} {version}".encode()).digest() * 40
    return SourceImage(image_id_of(uri), uri, version, data, passthrough)


def outcome(image: SourceImage, status: str = ENCODED, payload: bytes | None = None, **changes: Any) -> Outcome:
    """A plausible row; the payload is half of the source, or all of it when the original is kept."""
    data = image.data or b""
    picture = Picture(np.zeros((6, 8, 3), np.uint8), source_format="JPEG", exif=b"Exif", icc=b"profile", xmp=None)
    made = Outcome(
        image, status, picture=picture, codec="jpeg", quality=60.0, payload=payload or data[: len(data) // 2]
    )
    made = replace(made, distortion=Distortion(4.0, 42.1, 0.98, 0.99), encode_ms=3.5)
    if status == KEPT_ORIGINAL:
        made = replace(made, codec="original", payload=data, reason="not smaller", quality=None)
    if status == REJECTED:
        blank: dict[str, Any] = dict.fromkeys(("picture", "codec", "quality", "payload", "distortion", "encode_ms"))
        made = replace(made, reason="unreadable: gone", **blank)
    return replace(made, **changes)


def commit(
    archive: Archive, unit: Unit, images: Sequence[SourceImage], status: str = ENCODED, **how: Any
) -> CommitSummary:
    """The chunk `how["chunk"]` (0, and the last one, by default) of a unit, as the stages would commit it."""
    meta = unit.meta(how.get("chunk", 0), how.get("last", True), how.get("spec", SPEC))
    rows = [outcome(image, status) for image in images if unit.wants(image.image_id)]
    return archive.commit(meta.part_id, rows, meta, how.get("run_id", "run"))


def commit_files(archive: Archive, unit: Unit, status: str = ENCODED, **how: Any) -> CommitSummary:
    return commit(archive, unit, [source(item.uri, item.version) for item in unit.items], status, **how)


class Crash(BaseException):
    """The process died here; no `except Exception` sees it."""


class MemoryStore:
    """A store in a dict. `dies_in` counts writing operations down; at zero the process dies, before or after it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.dies_in: int | None = None
        self.after = False

    def absolute(self, uri: str) -> str:
        return uri

    def read(self, uri: str, start: int = 0, stop: int | None = None) -> bytes:
        return self.files[uri][start:stop]

    def stat(self, uri: str) -> Entry | None:
        return Entry(uri, "v", len(self.files[uri]), 0.0) if uri in self.files else None

    def write(self, uri: str, data: bytes) -> None:
        self._change(lambda: self.files.__setitem__(uri, data))

    def create(self, uri: str, data: bytes) -> bool:
        if uri in self.files:
            return False
        self.write(uri, data)
        return True

    def remove(self, uri: str) -> None:
        self._change(lambda: self.files.pop(uri, None))

    def is_folder(self, uri: str) -> bool:
        return any(name.startswith(uri.rstrip("/") + "/") for name in self.files)

    def walk(self, folder: str, deep: bool = True) -> Iterator[Entry]:
        names = [name for name in self.files if name.startswith(folder.rstrip("/") + "/")]
        yield from (Entry(name, "v", len(self.files[name]), 0.0) for name in names)

    def _change(self, change: Any) -> None:
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in <= 0:
                if self.after:
                    change()
                raise Crash
        change()

"""Image files under a prefix, in a folder, matched by a glob, or one file.

Every file counts as an image, whatever its name says (an image archive also holds HTML pages named .jpg), except
hidden files and those with a suffix of `formats.SIDECAR_SUFFIXES`. A file named outright is taken in any case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline import storage
from pipeline.errors import PipelineError, StoreUnavailable
from pipeline.records import SourceImage, SourceItem, image_id_of
from pipeline.sources.base import (
    MEMBER_LIMIT_BYTES,
    Listing,
    failed,
    human_bytes,
    not_as_listed,
    nothing_found,
    printable,
)
from pipeline.sources.formats import SIDECAR_SUFFIXES, suffix_of

READ_AHEAD_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class FilesSource:
    """Image files at `uri`, read by `readers` threads a little ahead: the latency of S3 costs more than its bytes."""

    uri: str
    readers: int = 8
    member_limit_bytes: int = MEMBER_LIMIT_BYTES
    listing: Listing = field(default_factory=Listing, repr=False, compare=False)

    kind: ClassVar[str] = "files"
    items_are_shards: ClassVar[bool] = False

    def list_items(self) -> list[SourceItem]:
        looked_for = "image files"
        found = self.listing.all(self.uri)
        if len(found) == 1 and _base_name(found[0].uri) == _base_name(self.uri):
            return found
        items = [item for item in found if suffix_of(item.uri) not in SIDECAR_SUFFIXES]
        if not items:
            raise nothing_found(self.uri, looked_for, len(found))
        return items

    def images(self, items: Sequence[SourceItem]) -> Iterator[SourceImage]:
        pool = ThreadPoolExecutor(self.readers, thread_name_prefix="source-files")
        pending: deque[tuple[int, Future[SourceImage]]] = deque()
        held_bytes = 0
        try:
            for item in items:
                while pending and (len(pending) >= self.readers or held_bytes + item.size_bytes > READ_AHEAD_BYTES):
                    held_bytes -= pending[0][0]
                    yield pending.popleft()[1].result()
                pending.append((item.size_bytes, pool.submit(self._read, item)))
                held_bytes += item.size_bytes
            while pending:
                yield pending.popleft()[1].result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, item: SourceItem) -> SourceImage:
        if item.size_bytes > self.member_limit_bytes:
            return failed(
                item,
                f"too large: {human_bytes(item.size_bytes)} is over the limit of "
                f"{human_bytes(self.member_limit_bytes)} for one image; raise source.member_limit_bytes",
            )
        try:
            data = storage.read_bytes(item.uri)
        except StoreUnavailable:
            raise
        except (PipelineError, OSError) as error:
            return failed(item, f"unreadable: {error}")
        if len(data) == item.size_bytes:
            return SourceImage(image_id_of(item.uri), printable(item.uri), item.version, data)
        if changed := not_as_listed(item):
            return changed
        raise StoreUnavailable(
            f"{item.uri}: the store gave {len(data)} bytes and says that it has {item.size_bytes}; try again later"
        )


def _base_name(uri: str) -> str:
    return uri.rpartition("/")[2]

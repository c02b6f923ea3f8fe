"""Read: a unit of work becomes chunks of images, each chunk a future part of the archive.

Chunk boundaries depend on the source alone (count and bytes of consecutive images), so a retried task cuts the
same chunks and finds the same part ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import PipelineError
from pipeline.records import SourceImage, SourceItem, image_id_of
from pipeline.sources import Source

CHUNK_IMAGES = 64
CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive images of one unit; `last` when no more follow."""

    number: int
    images: list[SourceImage]
    last: bool


class ReadableUnit(Protocol):
    @property
    def items(self) -> tuple[SourceItem, ...]: ...


def read_unit(source: Source, unit: ReadableUnit) -> Iterator[Chunk]:
    """Chunks of `unit` in order. Never raises for a source that cannot be read: that, too, becomes a row."""
    if source.items_are_shards:
        return chunked(_whole_shard(source, unit.items))
    # The planner grouped these files by listed size; cutting again by bytes read could disagree with the part id.
    return iter([Chunk(0, list(_whole_shard(source, unit.items)), last=True)])


def chunked(images: Iterable[SourceImage]) -> Iterator[Chunk]:
    """Cut before the image that would exceed a limit; one that exceeds it alone is a chunk of its own."""
    held: list[SourceImage] = []
    held_bytes = number = 0
    for image in images:
        size = len(image.data or b"")
        if held and (len(held) >= CHUNK_IMAGES or held_bytes + size > CHUNK_BYTES):
            yield Chunk(number, held, last=False)
            held, held_bytes, number = [], 0, number + 1
        held.append(image)
        held_bytes += size
    yield Chunk(number, held, last=True)


def _whole_shard(source: Source, items: tuple[SourceItem, ...]) -> Iterator[SourceImage]:
    try:
        yield from source.images(items)
    except (PipelineError, OSError) as error:
        for item in items:
            yield SourceImage(image_id_of(item.uri), item.uri, item.version, None, error=f"unreadable: {error}")

"""Read: a unit of work becomes chunks of images, each chunk a future part of the archive.

Chunk boundaries depend on the source alone (count and bytes of consecutive images), so a retried task cuts the
same chunks and finds the same part ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.archive import CHUNK_BYTES, CHUNK_IMAGES, Unit
from pipeline.errors import PipelineError, StoreUnavailable
from pipeline.records import SourceImage, SourceItem, image_id_of
from pipeline.sources import Source


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive images of one unit; `last` when no more follow."""

    number: int
    images: list[SourceImage]
    last: bool


def read_unit(source: Source, unit: Unit) -> Iterator[Chunk]:
    """Chunks of `unit` in order, without the images it is to skip; those still count where chunks are cut.

    A source that cannot be read becomes a row, too; only StoreUnavailable passes, since it says nothing about it.
    """
    images = readable(source, unit.items)
    # The planner grouped files by listed size; cutting again by bytes read could disagree with the part id.
    chunks = chunked(images) if source.items_are_shards else iter([Chunk(0, list(images), last=True)])
    for chunk in chunks:
        yield Chunk(chunk.number, [image for image in chunk.images if unit.wants(image.image_id)], chunk.last)


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


def readable(source: Source, items: tuple[SourceItem, ...]) -> Iterator[SourceImage]:
    """The images of `items`; one without bytes, which says why, for each item that cannot be read."""
    try:
        yield from source.images(items)
    except StoreUnavailable:
        raise
    except (PipelineError, OSError) as error:
        for item in items:
            yield SourceImage(image_id_of(item.uri), item.uri, item.version, None, error=f"unreadable: {error}")

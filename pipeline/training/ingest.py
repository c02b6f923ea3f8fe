"""Training photos from any source that the pipeline reads: folders, WebDataset shards, Parquet, in any store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from pipeline.errors import ImageError, TrainingError
from pipeline.imaging.decode import decode
from pipeline.records import SourceImage
from pipeline.sources.base import Source

MIN_SIDE_PX = 64
_AT_ONCE = 32


def read_photos(source: Source, uri: str, limit_mpx: float) -> list[np.ndarray]:
    """Photos as (H, W, 3) uint8 in the order of the source, until `limit_mpx` megapixels are held.

    What cannot be decoded, and what has a side under 64 px, is left out.

    Raises:
        TrainingError: nothing is left.
    """
    photos = list(within(decoded(source.images(source.list_items())), limit_mpx))
    if not photos:
        raise nothing_to_train_on(uri)
    return photos


def decoded(images: Iterable[SourceImage]) -> Iterator[np.ndarray]:
    """The pixels of images that can be trained on, a few decoded at a time."""
    waiting = iter(images)
    with ThreadPoolExecutor() as pool:
        while some := list(islice(waiting, _AT_ONCE)):
            yield from (photo for photo in pool.map(pixels_of, some) if photo is not None)


def pixels_of(image: SourceImage) -> np.ndarray | None:
    """(H, W, 3) uint8, or None for what is damaged or too small."""
    if image.data is None:
        return None
    try:
        rgb = decode(image.data).rgb
    except ImageError:
        return None
    return rgb if min(rgb.shape[:2]) >= MIN_SIDE_PX else None


def within(photos: Iterable[np.ndarray], limit_mpx: float) -> Iterator[np.ndarray]:
    """Photos from the front, as many as `limit_mpx` megapixels hold, and one in any case."""
    held = 0.0
    for photo in photos:
        mpx = photo.shape[0] * photo.shape[1] / 1e6
        if held and held + mpx > limit_mpx:
            return
        held += mpx
        yield photo


def nothing_to_train_on(uri: str) -> TrainingError:
    return TrainingError(f"{uri}: found no image of at least {MIN_SIDE_PX} px that decodes; give a source of photos")

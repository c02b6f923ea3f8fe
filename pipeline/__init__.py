"""shardpress: distributed batch recompression of image archives with a learned codec.

    payload = pipeline.encode(image, quality=60)            # PIL.Image -> bytes
    image = pipeline.decode(payload)                        # and back
    image = pipeline.restore(image, scale=2)                # larger than it was
    dataset = pipeline.read_archive("s3://cold/photos")     # an archive as a Ray dataset

Importing this package is cheap: torch is imported when the first picture is coded, Ray when an archive is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.single import decode, encode, restore

if TYPE_CHECKING:
    import ray.data

__version__ = "0.1.0"
__all__ = ["__version__", "decode", "encode", "read_archive", "restore"]


def read_archive(
    uri: str,
    columns: Sequence[str] | None = None,
    decode: bool = True,
    *,
    where: str | None = None,
    num_gpus: float = 0,
    concurrency: int | None = None,
) -> ray.data.Dataset:
    """The pictures of the archive at `uri` as a Ray dataset; see `pipeline.execution.reading.read_archive`."""
    from pipeline.execution import reading

    return reading.read_archive(uri, columns, decode, where=where, num_gpus=num_gpus, concurrency=concurrency)

"""shardpress: distributed batch recompression of image archives with a learned codec.

    payload = pipeline.encode(image, quality=60)            # PIL.Image -> bytes
    image = pipeline.decode(payload)                        # and back
    dataset = pipeline.read_archive("s3://cold/photos")     # an archive as a Ray dataset

Importing this package is cheap: torch is imported when the first picture is coded, Ray when an archive is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.single import decode, encode

if TYPE_CHECKING:
    from pipeline.execution.reading import read_archive

__version__ = "0.1.0"
__all__ = ["__version__", "decode", "encode", "read_archive"]


def __getattr__(name: str) -> Any:
    if name == "read_archive":
        from pipeline.execution.reading import read_archive

        return read_archive
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

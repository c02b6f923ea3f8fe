"""shardpress: distributed batch recompression of image archives with a learned codec.

    payload = pipeline.encode(image, quality=60)            # PIL.Image -> bytes
    image = pipeline.decode(payload)                        # and back

Importing this package is cheap: torch is imported when the first picture is coded.
"""

from __future__ import annotations

from pipeline.single import decode, encode

__version__ = "0.1.0"
__all__ = ["__version__", "decode", "encode"]

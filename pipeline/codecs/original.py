"""The end of every fallback chain: the payload is the source file, verbatim.

It can represent whatever was read, so it never refuses; a row that holds it is `kept_original`, not `encoded`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.codecs.base import PIXEL_LIMIT, Encoded
from pipeline.errors import BitstreamError, ImageError
from pipeline.imaging.decode import decode
from pipeline.records import Picture, Rate


def decoded_source(name: str, source: bytes, pixel_limit: int) -> np.ndarray:
    """Upright (H, W, 3) uint8 pixels of a source file, exactly as the decode stage saw them."""
    try:
        return decode(source, pixel_limit=pixel_limit).rgb
    except ImageError as error:
        raise BitstreamError(f"{name}: the payload does not decode as an image file: {error}") from error


@dataclass(frozen=True)
class Original:
    """Keeps the source bytes. `rate` is accepted, so that all codecs are built alike, and not kept."""

    rate: Rate | None = None
    name: ClassVar[str] = "original"
    model_id: ClassVar[str | None] = None
    lossless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", None)

    def spec(self) -> dict[str, Any]:
        return {"name": self.name}

    def encode(self, picture: Picture, source: bytes) -> Encoded:
        return Encoded(bytes(source))

    def decode(self, payload: bytes) -> np.ndarray:
        return decoded_source(self.name, payload, PIXEL_LIMIT)

    def restore_source(self, payload: bytes) -> bytes | None:
        return bytes(payload)

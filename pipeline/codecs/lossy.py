"""What all classical lossy codecs share: what they refuse, how they reach a rate, and how they fail.

A subclass says how one array becomes bytes at one quality, how bytes become an array again, and how to read the
size a payload declares without decoding it. Colour and gray only: alpha, EXIF, ICC and XMP rest in columns of
their own, so payloads carry no metadata. Gray pictures are coded as one channel and come back as three equal ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from pipeline.codecs.base import PIXEL_LIMIT, Encoded, validate_rate
from pipeline.codecs.search import reach
from pipeline.errors import BitstreamError, CodecError, ConfigError
from pipeline.records import Picture, Rate

DEFAULT_RATE = Rate(quality=60.0)


@dataclass(frozen=True)
class Lossy(ABC):
    """A classical codec with a quality in [0, 100]. Dataclass fields are its options, and all of its `spec()`."""

    rate: Rate = DEFAULT_RATE

    name: ClassVar[str]
    model_id: ClassVar[str | None] = None
    lossless: ClassVar[bool] = False
    quality_step: ClassVar[float] = (
        1.0  # a quality is rounded to a multiple of this; targets are searched on the same grid
    )
    side_limit_px: ClassVar[int] = 2**30
    area_limit_px: ClassVar[int] = PIXEL_LIMIT
    pixel_limit: ClassVar[int] = PIXEL_LIMIT  # tests lower it

    def __post_init__(self) -> None:
        validate_rate(self.rate)

    def spec(self) -> dict[str, Any]:
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rate"}
        return {"name": self.name, "rate": rate_spec(self.rate), **options}

    def encode(self, picture: Picture, source: bytes) -> Encoded:
        self._refuse(picture)
        pixels = np.ascontiguousarray(picture.rgb[..., 0] if picture.gray else picture.rgb)
        return reach(
            self.name, self.rate, picture.rgb, lambda q: self._checked_write(pixels, q), self.decode, self.quality_step
        )

    def decode(self, payload: bytes) -> np.ndarray:
        width, height = self._checked(self._size_of, payload)
        check_size(self.name, width, height, self.pixel_limit)
        return as_rgb(self.name, self._checked(self._read, payload))

    def restore_source(self, payload: bytes) -> bytes | None:
        return None

    @abstractmethod
    def _write(self, pixels: np.ndarray, quality: float) -> bytes:
        """Payload of (H, W) or (H, W, 3) uint8 pixels."""

    @abstractmethod
    def _size_of(self, payload: bytes) -> tuple[int, int]:
        """(width, height) that the payload declares, before any pixel is allocated."""

    @abstractmethod
    def _read(self, payload: bytes) -> np.ndarray: ...

    def _refuse(self, picture: Picture) -> None:
        refuse_obstacle(self.name, picture)
        height, width = picture.rgb.shape[:2]
        if max(height, width) > self.side_limit_px:
            raise CodecError(f"{self.name}: the picture is {width}x{height} px; a side is at most {self.side_limit_px}")
        if height * width > self.area_limit_px:
            raise CodecError(
                f"{self.name}: the picture is {width}x{height} px; at most {self.area_limit_px} pixels can be coded"
            )

    def _checked_write(self, pixels: np.ndarray, quality: float) -> bytes:
        try:
            return self._write(pixels, quality)
        except (OSError, ValueError, RuntimeError) as error:
            height, width = pixels.shape[:2]
            raise CodecError(f"{self.name}: cannot code {width}x{height} px at quality {quality:g}: {error}") from error

    def _checked(self, read: Any, payload: bytes) -> Any:
        return checked_read(self.name, read, payload)


def checked_read(name: str, read: Any, payload: bytes) -> Any:
    """read(payload). Decoding libraries raise all sorts of things at damaged bytes; here it is one error."""
    try:
        return read(bytes(payload))
    except BitstreamError:
        raise
    except Exception as error:
        raise BitstreamError(
            f"{name}: {len(payload)} payload bytes do not decode ({type(error).__name__}: {error}); "
            f"expected a payload written by {name}; restore it from its source or another copy of the archive"
        ) from error


def check_size(name: str, width: int, height: int, pixel_limit: int) -> None:
    """Raises BitstreamError for a declared size that is empty or beyond `pixel_limit`."""
    if not 0 < width * height <= pixel_limit:
        raise BitstreamError(
            f"{name}: the payload declares {width}x{height} px; expected 1 to {pixel_limit} pixels, it is damaged"
        )


def as_rgb(name: str, pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 from gray (H, W) or colour; BitstreamError for anything else (alpha, CMYK, 16 bits)."""
    if pixels.dtype == np.uint8 and pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels)
    raise BitstreamError(
        f"{name}: the payload holds {pixels.dtype} pixels of shape {pixels.shape}; expected 8-bit gray or RGB, "
        "so it was not written by this codec"
    )


def refuse_obstacle(name: str, picture: Picture) -> None:
    """Raises CodecError when 8-bit RGB cannot stand for the source."""
    if picture.obstacle:
        raise CodecError(f"{name}: the source has {picture.obstacle}; only 8-bit gray or RGB (+ alpha) can be coded")


def rate_spec(rate: Rate) -> dict[str, float]:
    """The one field of `rate` that is set, as JSON: {"quality": 60.0}."""
    given = ((field.name, getattr(rate, field.name)) for field in fields(rate))
    return {name: float(value) for name, value in given if value is not None}


def check_choice(codec: str, option: str, value: object, choices: Collection[object]) -> None:
    """Raises ConfigError unless `value` is one of `choices` (a bool is not an int)."""
    if isinstance(value, bool) or value not in choices:
        listed = f"{min(choices)} to {max(choices)}" if isinstance(choices, range) else ", ".join(map(str, choices))
        raise ConfigError(f"codec {codec}: {option} is {value!r}; expected one of: {listed}")

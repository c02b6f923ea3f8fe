"""JPEG XL: lossy, and lossless with byte-exact transcoding of JPEG sources (libjxl through imagecodecs).

A JPEG source becomes a JPEG XL container that rebuilds the JPEG file, every byte of it: metadata, quantisation
tables and trailing data included, about a sixth smaller. Any other source becomes a bare codestream of its pixels
(modular mode): RGB or gray only, since alpha and metadata rest in archive columns of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import imagecodecs
import numpy as np

from pipeline.codecs.base import PIXEL_LIMIT, Encoded
from pipeline.codecs.lossy import Lossy, as_rgb, check_choice, check_size, checked_read, refuse_obstacle
from pipeline.codecs.original import decoded_source
from pipeline.errors import BitstreamError, CodecError
from pipeline.records import Picture, Rate

CONTAINER = b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a"
CODESTREAM = b"\xff\x0a"
JPEG_START = b"\xff\xd8\xff"


def distance_of(quality: float) -> float:
    """Butteraugli distance of a quality in [0, 100]: libjxl's JxlEncoderDistanceFromQuality; 100 is lossless."""
    if quality >= 100.0:
        return 0.0
    if quality >= 30.0:
        return 0.1 + (100.0 - quality) * 0.09
    return 53.0 / 3000.0 * quality * quality - 23.0 / 20.0 * quality + 25.0


def declared_size(payload: bytes) -> tuple[int, int]:
    """(width, height) from the SizeHeader of a JPEG XL file (ISO/IEC 18181-1, D.2); ValueError when it is none."""
    stream = _codestream(payload) if payload.startswith(CONTAINER) else payload
    if not stream.startswith(CODESTREAM):
        raise ValueError(f"found {payload[:12]!r} where a JPEG XL signature belongs")
    bits = _Bits(stream[2:18])
    small = bits.take(1)
    height = 8 * (1 + bits.take(5)) if small else bits.take_u32()
    ratio = bits.take(3)
    if ratio:
        numerator, denominator = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return height * numerator // denominator, height
    return (8 * (1 + bits.take(5)) if small else bits.take_u32()), height


class _Bits:
    """Least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken

    def take_u32(self) -> int:
        return 1 + self.take((9, 13, 18, 30)[self.take(2)])


def _codestream(payload: bytes) -> bytes:
    """The start of the codestream inside a container: the first jxlc or jxlp box."""
    at = 0
    while at + 8 <= len(payload):
        length, kind = int.from_bytes(payload[at : at + 4], "big"), payload[at + 4 : at + 8]
        header = 8
        if length == 1:
            length, header = int.from_bytes(payload[at + 8 : at + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            body = at + header + (4 if kind == b"jxlp" else 0)
            return payload[body : body + 32]
        if length < header:  # 0 means "to the end of the file": nothing can follow
            break
        at += length
    raise ValueError("no codestream in this JPEG XL container")


def _decode_pixels(payload: bytes) -> np.ndarray:
    return np.asarray(imagecodecs.jpegxl_decode(payload, index=0, numthreads=1))


@dataclass(frozen=True)
class JXL(Lossy):
    """Lossy JPEG XL (VarDCT); quality 100 is lossless, as in cjxl."""

    effort: int = 7

    name: ClassVar[str] = "jxl"
    quality_step: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "effort", self.effort, range(1, 10))

    def _write(self, pixels: np.ndarray, quality: float) -> bytes:
        distance = distance_of(quality)
        return bytes(
            imagecodecs.jpegxl_encode(
                pixels, effort=self.effort, distance=distance, lossless=distance == 0.0, numthreads=1
            )
        )

    def _size_of(self, payload: bytes) -> tuple[int, int]:
        if not payload.startswith(CODESTREAM):
            raise ValueError(f"found {payload[:12]!r} where a bare JPEG XL codestream belongs")
        return declared_size(payload)

    def _read(self, payload: bytes) -> np.ndarray:
        return _decode_pixels(payload)


@dataclass(frozen=True)
class JXLLossless:
    """Lossless JPEG XL. `rate` is accepted, so that all codecs are built alike, and not kept.

    Every payload is decoded again before it is handed out: libjxl has lost JPEG files before (libjxl#3131, #3455).
    """

    rate: Rate | None = None
    effort: int = 7

    name: ClassVar[str] = "jxl-lossless"
    model_id: ClassVar[str | None] = None
    lossless: ClassVar[bool] = True
    pixel_limit: ClassVar[int] = PIXEL_LIMIT

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", None)
        check_choice(self.name, "effort", self.effort, range(1, 10))

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "effort": self.effort}

    def encode(self, picture: Picture, source: bytes) -> Encoded:
        if source[:3] == JPEG_START:  # byte-exact, so not even CMYK or many frames would be an obstacle
            return Encoded(self._transcode(bytes(source)))
        refuse_obstacle(self.name, picture)
        return Encoded(self._encode_pixels(picture))

    def decode(self, payload: bytes) -> np.ndarray:
        self._check(payload)
        source = self.restore_source(payload)
        if source is not None:  # by the JPEG decoder that saw the source, so pixels are equal to the last bit
            return decoded_source(self.name, source, self.pixel_limit)
        return as_rgb(self.name, checked_read(self.name, _decode_pixels, payload))

    def restore_source(self, payload: bytes) -> bytes | None:
        """The JPEG file this payload was made from; None when it holds pixels."""
        self._check(payload)
        if not payload.startswith(CONTAINER):
            return None
        return bytes(checked_read(self.name, lambda p: imagecodecs.jpegxl_decode_jpeg(p, numthreads=1), payload))

    def _check(self, payload: bytes) -> None:
        width, height = checked_read(self.name, declared_size, payload)
        check_size(self.name, width, height, self.pixel_limit)

    def _transcode(self, source: bytes) -> bytes:
        try:
            payload = bytes(imagecodecs.jpegxl_encode_jpeg(source, usecontainer=True, numthreads=1))
        except (RuntimeError, ValueError) as error:
            raise CodecError(
                f"{self.name}: libjxl cannot transcode this JPEG of {len(source)} bytes ({error}); it takes whole, "
                "Huffman-coded 8-bit files of 1 or 3 components with no broken ICC profile, so keep the original"
            ) from error
        try:
            same = self.restore_source(payload) == source
        except BitstreamError as error:
            raise CodecError(f"{self.name}: the transcoded JPEG cannot be read back ({error})") from error
        if not same:
            raise CodecError(
                f"{self.name}: the JPEG rebuilt from the payload differs from its {len(source)} source bytes; "
                "keep the original"
            )
        return payload

    def _encode_pixels(self, picture: Picture) -> bytes:
        pixels = np.ascontiguousarray(picture.rgb[..., 0] if picture.gray else picture.rgb)
        try:
            payload = bytes(imagecodecs.jpegxl_encode(pixels, effort=self.effort, lossless=True, numthreads=1))
            same = np.array_equal(self.decode(payload), picture.rgb)
        except (RuntimeError, ValueError, BitstreamError) as error:
            height, width = pixels.shape[:2]
            raise CodecError(f"{self.name}: cannot code {width}x{height} px: {error}") from error
        if not same:
            raise CodecError(f"{self.name}: decoded pixels differ from the source; keep the original")
        return payload

"""The codecs that come with Pillow: JPEG, WebP, AVIF and JPEG 2000, the baselines everything is measured against.

Files are opened by their own plugin class, not by `Image.open`: a payload is of this codec or it is an error,
and Pillow's global bomb limit (lower than ours) stays out of it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.codecs.lossy import Lossy, check_choice


def save(pixels: np.ndarray, file_format: str, **options: Any) -> bytes:
    """A file without metadata: an image made from an array carries none."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class _PillowCodec(Lossy):
    """A codec whose files one Pillow plugin reads."""

    opened: ClassVar[type[ImageFile.ImageFile]]

    def _size_of(self, payload: bytes) -> tuple[int, int]:
        return self.opened(io.BytesIO(payload)).size

    def _read(self, payload: bytes) -> np.ndarray:
        with self.opened(io.BytesIO(payload)) as image:
            return np.asarray(image)


@dataclass(frozen=True)
class JPEG(_PillowCodec):
    """libjpeg-turbo, progressive with optimised Huffman tables; qualities are whole numbers, 0 is coded as 1."""

    subsampling: str = "4:2:0"

    name: ClassVar[str] = "jpeg"
    side_limit_px: ClassVar[int] = 65_500  # JPEG_MAX_DIMENSION of libjpeg; the format itself could hold 65535
    opened: ClassVar[type[ImageFile.ImageFile]] = JpegImageFile

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "subsampling", self.subsampling, ("4:2:0", "4:2:2", "4:4:4"))

    def _write(self, pixels: np.ndarray, quality: float) -> bytes:
        options = {} if pixels.ndim == 2 else {"subsampling": self.subsampling}
        return save(pixels, "JPEG", quality=max(1, int(quality)), optimize=True, progressive=True, **options)


@dataclass(frozen=True)
class WebP(_PillowCodec):
    """libwebp, lossy VP8. It has no gray mode: gray is coded as colour without chroma."""

    method: int = 6

    name: ClassVar[str] = "webp"
    quality_step: ClassVar[float] = 0.5
    side_limit_px: ClassVar[int] = 16_383
    opened: ClassVar[type[ImageFile.ImageFile]] = WebPImageFile

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "method", self.method, range(7))

    def _write(self, pixels: np.ndarray, quality: float) -> bytes:
        colour = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        return save(colour, "WEBP", quality=quality, method=self.method)

    def _size_of(self, payload: bytes) -> tuple[int, int]:
        # The plugin allocates the canvas when it opens a file, so the size is read from the VP8 frame header.
        if payload[:4] != b"RIFF" or payload[8:16] != b"WEBPVP8 " or payload[23:26] != b"\x9d\x01\x2a":
            raise ValueError(f"found {payload[:16]!r} where the header of a lossy WebP file belongs")
        width, height = (int.from_bytes(payload[i : i + 2], "little") & 0x3FFF for i in (26, 28))
        return width, height

    def _read(self, payload: bytes) -> np.ndarray:
        rgb = super()._read(payload)
        # libwebp turns a neutral YUV pixel into channels that differ by at most 1: that picture was gray.
        spread = np.maximum.reduce(rgb, axis=2) - np.minimum.reduce(rgb, axis=2)
        return rgb if spread.max() > 1 else rgb[..., 1]


@dataclass(frozen=True)
class AVIF(_PillowCodec):
    """libaom still pictures. One thread by default, so that bytes do not depend on the machine."""

    speed: int = 6
    subsampling: str = "4:4:4"
    max_threads: int = 1

    name: ClassVar[str] = "avif"
    # Encoders write up to 65536 px, but libavif refuses to read beyond these two (its default limits).
    side_limit_px: ClassVar[int] = 32_768
    area_limit_px: ClassVar[int] = 16_384 * 16_384
    opened: ClassVar[type[ImageFile.ImageFile]] = AvifImageFile

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "speed", self.speed, range(11))
        check_choice(self.name, "subsampling", self.subsampling, ("4:2:0", "4:2:2", "4:4:4"))
        check_choice(self.name, "max_threads", self.max_threads, range(1, 65))

    def _write(self, pixels: np.ndarray, quality: float) -> bytes:
        colour = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        return save(
            colour,
            "AVIF",
            codec="aom",
            quality=int(quality),
            speed=self.speed,
            subsampling=self.subsampling if pixels.ndim == 3 else "4:0:0",
            max_threads=self.max_threads,
        )


@dataclass(frozen=True)
class JPEG2000(_PillowCodec):
    """OpenJPEG, irreversible 9/7 wavelet, bare codestream.

    JPEG 2000 has no quality scale. Its rate control is given a PSNR: quality q asks for 20 + 0.3 q dB, so that 50 is
    35 dB and 100 is 50 dB; what comes out is within about 1 dB of it.
    """

    name: ClassVar[str] = "jpeg2000"
    quality_step: ClassVar[float] = 0.5
    opened: ClassVar[type[ImageFile.ImageFile]] = Jpeg2KImageFile

    def _write(self, pixels: np.ndarray, quality: float) -> bytes:
        psnr_db, colour = 20.0 + 0.3 * quality, int(pixels.ndim == 3)
        # Pillow codes R, G and B apart unless told (mct), which takes more than twice the bytes.
        options = {"irreversible": True, "no_jp2": True, "mct": colour}
        return save(pixels, "JPEG2000", **options, quality_mode="dB", quality_layers=[psnr_db])

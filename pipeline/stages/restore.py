"""Restore: a stored payload becomes a picture file again, with its profile, metadata and transparency.

`original` means the source file byte for byte where the codec can give it back (`original`, JPEG through
`jxl-lossless`), and otherwise a PNG of the decoded picture. A format that cannot hold a picture (more than 16383 px
a side in WebP) gives way to PNG, which can.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from pipeline.archive import StoredImage
from pipeline.codecs.base import PIXEL_LIMIT, Codec
from pipeline.codecs.learned import superres
from pipeline.errors import BitstreamError, ConfigError, ImageError
from pipeline.imaging import export
from pipeline.imaging.decode import decode
from pipeline.imaging.resize import resized
from pipeline.records import Picture

FORMATS = ("original", *export.FORMATS)


@dataclass(frozen=True, slots=True)
class Restored:
    """A file, the suffix its content deserves (None: that of the source), and whether it is the source itself."""

    data: bytes
    suffix: str | None
    is_source: bool


@dataclass(frozen=True, slots=True)
class Enlargement:
    """By how much pictures are restored larger than they were; `model` is the id or file of another super-resolver."""

    scale: int = 1
    model: str | None = None

    def __post_init__(self) -> None:
        if self.scale == 1 and self.model is not None:
            raise ConfigError(f"--superres {self.model}: nothing is to be enlarged; give its --scale, too")
        if self.scale != 1:
            superres.chosen(self.scale, self.model)

    def of(self, picture: Picture, quality: float) -> Picture:
        if self.scale == 1:
            return picture
        rgb = superres.restore(picture.rgb, self.scale, quality, self.model)
        alpha = picture.alpha
        if alpha is not None:
            alpha = resized(alpha[:, :, None], rgb.shape[0], rgb.shape[1])[:, :, 0]
        return replace(picture, rgb=rgb, alpha=alpha)


AS_IT_WAS = Enlargement()


def restore(
    stored: StoredImage, codec: Codec, file_format: str = "original", larger: Enlargement = AS_IT_WAS
) -> Restored:
    """Raises BitstreamError for a damaged payload, ConfigError for an unknown format."""
    if file_format not in FORMATS:
        raise ConfigError(f"--format {file_format}: expected one of {', '.join(FORMATS)}")
    if file_format == "original" and larger == AS_IT_WAS:
        source = codec.restore_source(stored.payload)
        if source is not None:
            return Restored(source, None, is_source=True)
    quality = stored.metrics.get("quality")
    picture = larger.of(picture_of(stored, codec), superres.CLEAN if quality is None or codec.lossless else quality)
    image = export.to_pil(
        picture.rgb, gray=picture.gray, alpha=picture.alpha, exif=picture.exif, icc=picture.icc, xmp=picture.xmp
    )
    name = "png" if file_format == "original" else file_format
    try:
        return Restored(export.save(image, name), export.SUFFIXES[name], is_source=False)
    except ImageError:
        return Restored(export.save(image, "png"), export.SUFFIXES["png"], is_source=False)


def picture_of(stored: StoredImage, codec: Codec) -> Picture:
    """The decoded picture with its metadata, from beside the payload or, if it holds the source file, from in it."""
    source = codec.restore_source(stored.payload)
    if source is not None:
        return _checked(decode(source, pixel_limit=PIXEL_LIMIT), stored)
    alpha = None if stored.alpha is None else np.asarray(Image.open(io.BytesIO(stored.alpha)))
    rgb = codec.decode(stored.payload)
    return _checked(Picture(rgb, bool(stored.gray), alpha, stored.exif, stored.icc, stored.xmp), stored)


def _checked(picture: Picture, stored: StoredImage) -> Picture:
    if (picture.width_px, picture.height_px) != (stored.width, stored.height):
        raise BitstreamError(
            f"{stored.image_id}: the payload decodes to {picture.width_px}x{picture.height_px} px, its row says "
            f"{stored.width}x{stored.height}; check the archive with `python -m jobs.verify`"
        )
    return picture

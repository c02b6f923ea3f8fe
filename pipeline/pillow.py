"""`import pipeline.pillow`, and Pillow opens and saves `.spx` files like any other format.

    image = Image.open("photo.spx")              # header, EXIF and ICC; no network is loaded yet
    image.save("copy.spx", quality=60)           # or psnr_db=34, ms_ssim=0.97, bpp=0.5

What goes wrong is an OSError, as with Pillow's own formats; a quality out of range is a ValueError.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO, Any, cast

from PIL import Image, ImageFile

from pipeline import single
from pipeline.bitstream import container
from pipeline.errors import ConfigError, PipelineError

FORMAT, SUFFIX, MIME = "SPX", ".spx", "image/x-shardpress"
_TARGETS = ("psnr_db", "ms_ssim", "bpp")
_INFO = {"exif": container.EXIF, "icc_profile": container.ICC, "xmp": container.XMP}


class SpxImageFile(ImageFile.ImageFile):
    """An `.spx` file: its header is parsed and its CRC checked when opened, its pixels are decoded on `load`."""

    format = FORMAT
    format_description = "shardpress learned codec"

    def _open(self) -> None:
        source = cast("IO[bytes]", self.fp)
        if not _accept(source.read(len(container.MAGIC))):
            raise SyntaxError("not a shardpress payload")
        source.seek(0)
        self._payload: bytes | None = source.read()
        with _pillow_errors():
            box = container.unpack(self._payload)
        self._size = box.picture_size
        self._mode = ("L" if box.gray else "RGB") + ("A" if container.ALPHA in box.sections else "")
        self.info |= {name: box.sections[tag] for name, tag in _INFO.items() if tag in box.sections}
        self.info["quality"] = box.quality_centi / 100
        self.info["model_id"] = box.model_id

    def load(self) -> Any:
        """Decodes on first use; raises OSError for a payload that cannot be decoded here."""
        payload = getattr(self, "_payload", None)
        if payload is not None and self._im is None:
            with _pillow_errors():
                picture = single.decode(payload)
            self._mode, self.im = picture.mode, picture.im
            self._payload = None
            if self._exclusive_fp and self.fp is not None:
                self.fp.close()
            self.fp = None
        return super().load()

    def verify(self) -> None:
        """Reads every coded symbol again, which takes no network; raises OSError when one is damaged."""
        if self._payload is None:
            raise RuntimeError("verify must be called directly after open")
        with _pillow_errors():
            single.verify(self._payload)
        super().verify()


def _accept(prefix: bytes) -> bool:
    return prefix[: len(container.MAGIC)] == container.MAGIC


def _save(image: Image.Image, target: IO[bytes], filename: str | bytes | os.PathLike[str]) -> None:
    asked: dict[str, Any] = dict(image.encoderinfo)
    goals = {name: asked[name] for name in _TARGETS if asked.get(name) is not None}
    dressed = image.copy()
    dressed.info = image.info | _metadata(asked)
    with _pillow_errors():
        target.write(
            single.encode(
                dressed,
                asked.get("quality"),
                target=goals or None,
                model=asked.get("model"),
                device=asked.get("device", "auto"),
            )
        )


def _metadata(asked: dict[str, Any]) -> dict[Any, Any]:
    """EXIF, ICC and XMP as arguments of `save`; they replace what `info` holds, and an empty one removes it."""
    found = {name: asked[name] for name in _INFO if asked.get(name) is not None}
    if isinstance(found.get("exif"), Image.Exif):
        found["exif"] = found["exif"].tobytes()
    return found


@contextlib.contextmanager
def _pillow_errors() -> Iterator[None]:
    """What callers of Pillow catch."""
    try:
        yield
    except ConfigError as error:
        raise ValueError(str(error)) from error
    except PipelineError as error:
        raise OSError(str(error)) from error


def register() -> None:
    """Makes Pillow know the format; importing this module does it."""
    Image.register_open(FORMAT, cast(Any, SpxImageFile), _accept)
    Image.register_save(FORMAT, cast(Any, _save))
    Image.register_extension(FORMAT, SUFFIX)
    Image.register_mime(FORMAT, MIME)


register()

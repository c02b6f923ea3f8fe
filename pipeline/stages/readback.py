"""Read-back: a stored picture is decoded once more, and held against its source.

`verify` asks this of samples, `prune` of every original before it may go. Whatever does not fit raises VerifyError or
BitstreamError, one sentence each.
"""

from __future__ import annotations

import numpy as np

from pipeline.archive import StoredImage
from pipeline.codecs.base import PIXEL_LIMIT, Codec, SplitCodec
from pipeline.errors import VerifyError
from pipeline.imaging.decode import decode
from pipeline.metrics.distortion import measure, mse, psnr_db
from pipeline.records import Picture
from pipeline.stages.encode import Floor, require_equal
from pipeline.stages.restore import picture_of

# Synthesis in floats may differ by one 8-bit level between devices; the archive's numbers are from another one.
PSNR_TOLERANCE_DB = 0.1


def read_back(stored: StoredImage, codec: Codec) -> Picture:
    """The decoded picture. Symbols of a learned codec must survive another round of entropy coding."""
    if isinstance(codec, SplitCodec):
        symbols = codec.entropy_decode(stored.payload)
        require_equal(symbols, codec.entropy_decode(codec.entropy_encode(symbols)))
    return picture_of(stored, codec)


def compare(stored: StoredImage, codec: Codec, picture: Picture, source: bytes) -> None:
    """Raises VerifyError unless `picture` is as far from `source` as its row says, or gives it back byte for byte."""
    given_back = codec.restore_source(stored.payload)
    if given_back is not None:
        if given_back != source:
            raise VerifyError("the payload gives back another file than the source is")
        return
    wrote, reads = stored.metrics["mse"], mse(_pixels(source).rgb, picture.rgb)
    if wrote is None or (wrote == 0) != (reads == 0):
        raise VerifyError(f"its mse against the source is {reads:.4f}, its row says {wrote}")
    if wrote and abs(psnr_db(wrote) - psnr_db(reads)) > PSNR_TOLERANCE_DB:
        raise VerifyError(f"it is at {psnr_db(reads):.2f} dB from its source, its row says {psnr_db(wrote):.2f} dB")


def replaces(stored: StoredImage, codec: Codec, source: bytes, floor: Floor) -> None:
    """Raises VerifyError unless `stored` may stand for `source` for ever: nothing else will be left of it.

    Either it gives the source back byte for byte, or it holds `floor` now, measured afresh, and transparency, profile
    and metadata are those of the source.
    """
    given_back = codec.restore_source(stored.payload)
    if given_back is not None:
        if given_back != source:
            raise VerifyError("the payload gives back another file than the source is")
        return
    picture, original = read_back(stored, codec), _pixels(source)
    compare(stored, codec, picture, source)
    if original.obstacle is not None:
        raise VerifyError(f"the source has {original.obstacle}, which its payload cannot hold")
    if complaint := floor.complaint(measure(original.rgb, picture.rgb, full=floor.ms_ssim is not None)):
        raise VerifyError(complaint)
    for name in ("exif", "icc", "xmp"):
        if (getattr(stored, name) or None) != (getattr(original, name) or None):
            raise VerifyError(f"its {name} is not that of the source")
    if not _same_alpha(original.alpha, picture.alpha):
        raise VerifyError("its transparency is not that of the source")


def _pixels(source: bytes) -> Picture:
    return decode(source, pixel_limit=PIXEL_LIMIT, allow_cmyk=True)


def _same_alpha(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)

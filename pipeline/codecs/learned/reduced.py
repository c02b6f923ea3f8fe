"""Reduced-resolution coding: at low rates a picture of half the size, restored by a super-resolver, may be the better.

Half as wide and high, a picture has a quarter of the symbols; what is lost is detail that at low rates the codec would
not have kept either. Whether that pays is measured for each picture, never assumed: the reduced payload must decode to
at least the same PSNR (or MS-SSIM, where that is the target) in fewer bytes, or, at a target of bits per pixel, to a
smaller error. Everything else stays at full size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.bitstream.container import Reduced
from pipeline.codecs.base import Symbols
from pipeline.codecs.learned import search, superres
from pipeline.errors import CodecError, ConfigError
from pipeline.imaging.resize import resized
from pipeline.metrics.distortion import ms_ssim, mse, psnr_db
from pipeline.records import Picture, Rate

if TYPE_CHECKING:
    from pipeline.codecs.learned.hyperprior import Hyperprior

AUTO = "auto"
SCALE = 2
LEAST_PX = 32
"""Pictures with a shorter side are all border, and smaller than their headers soon."""
Found = tuple[Symbols, np.ndarray]


@dataclass(frozen=True)
class Reducing:
    """That pictures may be reduced, and by which super-resolver they are restored."""

    superres: str
    scale: int = SCALE

    @classmethod
    def of(cls, mode: str | None, model: str | None) -> Reducing | None:
        """Raises ConfigError for another mode than "auto" and None, or when there is no such super-resolver."""
        if mode is None:
            return None
        if mode != AUTO:
            raise ConfigError(f"codec cnn: reduced is {mode!r}; expected {AUTO!r}, or nothing")
        return cls(superres.require_scale(SCALE) if model is None else superres.open_model(model))

    def spec(self) -> dict[str, Any]:
        return {"reduced": AUTO, "superres": self.superres}

    def weights_bytes(self) -> Iterator[bytes]:
        """The file of the super-resolver, for the archive to carry."""
        yield superres.packaged_bytes(self.superres)

    def reduce(self, picture: Picture) -> Picture:
        """The picture at half its size, rounded up."""
        height, width = (-(-side // self.scale) for side in picture.rgb.shape[:2])
        missing = [
            (0, small * self.scale - side) for small, side in zip((height, width), picture.rgb.shape, strict=False)
        ]
        whole = np.pad(picture.rgb, (*missing, (0, 0)), mode="edge")
        return Picture(resized(whole, height, width), picture.gray)


def better(codec: Hyperprior, how: Reducing, picture: Picture) -> Found:
    """Symbols at the codec's rate and the picture they decode to: at full size, or reduced where that is better.

    Raises:
        CodecError: the target is out of reach both ways.
    """
    full, refused = None, None
    try:
        full = codec.at_full_size(picture)
    except CodecError as error:
        refused = error
    reduced = _reduced(codec, how, picture, full) if min(picture.rgb.shape[:2]) >= LEAST_PX else None
    if reduced is not None and (full is None or _wins(codec, reduced, full, picture.rgb)):
        return reduced
    if full is None:
        raise refused or CodecError(f"{codec.name}: nothing was found")
    return full


def restored(codec: Hyperprior, symbols: Symbols, how: Reduced, x_hat: np.ndarray) -> np.ndarray:
    """A decoded reduced picture at its true size."""
    large = codec.enlarger(how.model_id)(x_hat, symbols.quality_centi / 100)
    return np.ascontiguousarray(large[: how.height_px, : how.width_px])


def _reduced(codec: Hyperprior, how: Reducing, picture: Picture, full: Found | None) -> Found | None:
    """The best reduced coding at the codec's rate; None when none could be good enough."""
    rgb = picture.rgb
    rate = codec.rate
    if rate.quality is not None and full is not None:
        rate = Rate(psnr_db=psnr_db(mse(rgb, full[1])))
    small = how.reduce(picture)
    note = Reduced(how.scale, how.superres, rgb.shape[1], rgb.shape[0])
    if not _within_reach(rate, rgb, _best(codec, note, small.rgb), full):
        return None

    def size_bytes(symbols: Symbols) -> int:
        return len(codec.entropy_encode(symbols))

    def analyse(centi: int, worth: float) -> Found:
        symbols, x_hat = codec.networks.analyse(small.rgb, centi, small.gray, codec.effort, 0, worth)
        symbols = replace(symbols, reduced=note)
        found = symbols, restored(codec, symbols, note, x_hat)
        # More bytes and still not good enough: a better one would take yet more.
        if full is not None and _falls_short(rate, rgb, found[1]) and size_bytes(symbols) >= size_bytes(full[0]):
            raise CodecError(f"{codec.name}: half size is no better")
        return found

    try:
        first, fine = _first_guess(codec, how.scale, full), codec.networks.minds_worth(codec.effort)
        return search.reach(rate, rgb, analyse, size_bytes, codec.name, first, fine)
    except CodecError:
        return None


def _first_guess(codec: Hyperprior, scale: int, full: Found | None) -> int:
    """The quality, in hundredths, at which a bit buys as much: bits of a reduced picture count for scale^2 pixels."""
    if full is None:
        return 5_000
    spec = codec.frozen.spec
    octaves = math.log(spec["lmbda_max"] / spec["lmbda_min"])
    return min(10_000, full[0].quality_centi + round(10_000 * math.log(scale**2) / octaves))


def _falls_short(rate: Rate, rgb: np.ndarray, x_hat: np.ndarray) -> bool:
    if rate.psnr_db is not None:
        return psnr_db(mse(rgb, x_hat)) < rate.psnr_db
    return rate.ms_ssim is not None and ms_ssim(rgb, x_hat) < rate.ms_ssim


def _best(codec: Hyperprior, how: Reduced, small: np.ndarray) -> np.ndarray:
    """What the reduced picture is restored to without any loss by coding."""
    large = codec.enlarger(how.model_id)(small, superres.CLEAN)
    return large[: how.height_px, : how.width_px]


def _within_reach(rate: Rate, rgb: np.ndarray, best: np.ndarray, full: Found | None) -> bool:
    """Whether coding for ever could do; most pictures at most rates end here, for the price of one restoring."""
    if rate.bpp is None:
        return not _falls_short(rate, rgb, best)
    return full is None or mse(rgb, best) < mse(rgb, full[1])


def _wins(codec: Hyperprior, reduced: Found, full: Found, rgb: np.ndarray) -> bool:
    if codec.rate.bpp is not None:
        return mse(rgb, reduced[1]) < mse(rgb, full[1])
    return len(codec.entropy_encode(reduced[0])) < len(codec.entropy_encode(full[0]))

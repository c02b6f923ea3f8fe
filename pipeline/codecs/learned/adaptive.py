"""Adaptive quantisation: finer steps where a picture is smooth, coarser ones where it is busy.

An eye, and MS-SSIM with it, forgives an error that is small beside what surrounds it. So quality may follow the
picture, a step up or down for each 16 x 16 px, and it costs no bits: h_s, in integers, tells both ends how far the
scales at a position are from those usual at this quality, and quality falls as they rise.

Video coders do the same with side information (`aq-mode` of x264, `tune=ssim` of libaom). The functions take NumPy
arrays or torch tensors alike.
"""

from __future__ import annotations

import numpy as np

from pipeline.codecs.learned.weights import FrozenModel
from pipeline.nn import integer

STRENGTHS = {"psnr": 0, "ms-ssim": 28}
"""What a codec is tuned for, and how far quality follows scales: 64 evens out what MS-SSIM sees of errors."""
STEP_CENTI, LEVEL_LIMIT = 100, 30
"""Levels are whole points of quality, of 0 to 100, up to 30 either way."""
UNIT = 1250
"""Mean offset, in 1/512 octaves and times the strength, of one level; 7.6 octaves of energy, as of lmbda, are 100."""


def levels(strength: int, offset: integer.Array) -> integer.Array:
    """Levels (h, w) of scale offsets (M, h, w), both integers, as float64.

    The mean is that of the 61 strongest channels behind the three that hold means of blocks, for M = 384.
    """
    latent = offset.shape[0]
    seen = offset[latent // 128 : max(latent // 128 + 1, latent // 6)]
    seen = seen.astype(np.float64) if isinstance(seen, np.ndarray) else seen.double()
    # Integers below 2^53, exact in any order. `/` and floor would not do: GPUs multiply by the reciprocal.
    level = (len(seen) * (UNIT // 2) - strength * seen.sum(0)) // (len(seen) * UNIT)
    return level.clip(-LEVEL_LIMIT, LEVEL_LIMIT)


def quality_at(quality_centi: int, level: integer.Array) -> integer.Array:
    """Hundredths of quality at positions of these levels."""
    return (quality_centi + STEP_CENTI * level).clip(0, integer.QUALITY_UNITS)


def bases(model: FrozenModel, quality_centi: int) -> np.ndarray:
    """(M, 61) integers as float32: log2 sigma before offsets, for each level from the lowest to the highest."""
    table, steps = model.arrays["log2_base"], np.arange(-LEVEL_LIMIT, LEVEL_LIMIT + 1)
    qualities = quality_at(quality_centi, steps)
    rows = [integer.interpolate(table, int(quality)) for quality in qualities]
    return np.stack(rows, axis=1).astype(np.float32)

"""The protocol of the super-resolution literature: PSNR and SSIM of Y alone, the border left out.

Y is that of MATLAB's `rgb2ycbcr` (BT.601, 16 .. 235, rounded to 8 bits), `scale` pixels are cropped on each side, and
SSIM is the one of Wang et al., as in `distortion`. Papers report Set5, Set14, B100 and Urban100 like this.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import MetricError
from pipeline.metrics.distortion import mse, psnr_db, ssim

_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255


def luma(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (H, W, 1) uint8, 16 .. 235."""
    return (16 + rgb.astype(np.float64) @ _WEIGHTS).round().astype(np.uint8)[:, :, None]


def psnr_and_ssim(reference: np.ndarray, test: np.ndarray, border_px: int) -> tuple[float, float]:
    """PSNR (dB) and SSIM of Y of two (H, W, 3) uint8, `border_px` cropped on each side.

    Raises:
        MetricError: nothing is left, or the shapes differ.
    """
    height, width = reference.shape[:2]
    if min(height, width) <= 2 * border_px:
        raise MetricError(f"a picture of {width}x{height} px has nothing left without a border of {border_px} px")
    inside = np.s_[border_px : height - border_px, border_px : width - border_px]
    x, y = (np.ascontiguousarray(luma(picture)[inside]) for picture in (reference, test))
    return psnr_db(mse(x, y)), ssim(x, y)

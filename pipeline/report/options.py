"""What a page is asked to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PageOptions:
    """
    anchor  the curve that BD-rates are against; jpeg, else the first lossy one, when None.
    focus   the curve that galleries are about; a learned one, else the best, when None.
    psnr_db sizes are compared at this quality; that of the middle setting of the focus, to half a dB, when None.
    price_per_gb_month  of storage, for saved money; a GB is 10^9 bytes.
    published  names of published curves, or ["all"].
    worst   images in each gallery.
    superres  images that are shown reduced and restored.
    """

    anchor: str | None = None
    focus: str | None = None
    psnr_db: float | None = None
    price_per_gb_month: float | None = None
    currency: str = "USD"
    published: Sequence[str] = ()
    worst: int = 12
    superres: int = 3

"""Colour profiles: which ICC bytes are worth keeping, and CMYK or Lab to RGB.

Pixels stay in the source's colour space. A profile that is broken, or that describes other channels than the
picture has, is dropped: viewers ignore such a profile too, and show the pixels as sRGB.
"""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageCms

_SPACES = {"RGB": b"RGB ", "L": b"GRAY", "CMYK": b"CMYK"}


def usable_profile(icc: bytes | None, mode: str) -> bytes | None:
    """`icc` if colour management can apply it to pixels of `mode` ("RGB", "L" or "CMYK"), else None."""
    if not icc or len(icc) < 132 or icc[36:40] != b"acsp" or icc[16:20] != _SPACES[mode]:
        return None
    return icc if _builds(icc, mode) else None


def to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """CMYK through its profile when that is usable, any other mode by Pillow's formulas, as sRGB."""
    profile = usable_profile(icc, "CMYK") if image.mode == "CMYK" else None
    if profile is None:
        return image.convert("RGB")
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return image.convert("RGB") if converted is None else converted


@lru_cache(maxsize=32)
def _builds(icc: bytes, mode: str) -> bool:
    """Whether Little CMS builds a transform from it: the header alone does not show a broken table."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # PyCMSError, OSError, ValueError: whatever is wrong with it, it is not usable
        return False
    return True

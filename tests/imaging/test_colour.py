from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.imaging import colour
from pipeline.imaging.decode import decode
from tests.imaging import made

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# A gray profile by hand: header, one tag table, D50 white and a gamma of 2.2.
_WHITE = b"XYZ \0\0\0\0\0\0\xf6\xd6\0\1\0\0\0\0\xd3\x2d"
_CURVE = b"curv\0\0\0\0\0\0\0\1\2\x33\0\0"
_TEXT = b"desc\0\0\0\0\0\0\0\5gray\0" + bytes(79)


def gray_profile() -> bytes:
    blocks = {b"desc": _TEXT, b"cprt": b"text\0\0\0\0none", b"wtpt": _WHITE, b"kTRC": _CURVE}
    table, body, start = b"", b"", 128 + 4 + 12 * len(blocks)
    for name, block in blocks.items():
        table += name + (start + len(body)).to_bytes(4, "big") + len(block).to_bytes(4, "big")
        body += block + bytes(-len(block) % 4)
    tail = len(blocks).to_bytes(4, "big") + table + body
    head = bytearray(128)
    head[0:4] = (128 + len(tail)).to_bytes(4, "big")
    head[8:12], head[12:24] = b"\2\x10\0\0", b"mntrGRAYXYZ "
    head[36:40], head[68:80] = b"acsp", _WHITE[8:]
    return bytes(head) + tail


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_a_profile_is_kept_byte_for_byte_and_not_applied(name):
    picture = decode(made.file(made.gradient(), name, icc_profile=SRGB, quality=95))
    assert picture.icc == SRGB
    assert np.abs(picture.rgb.astype(int) - np.asarray(made.gradient())).mean() < 8


def test_a_gray_profile_stays_with_a_gray_picture():
    profile = gray_profile()
    assert colour.usable_profile(profile, "L") == profile
    assert decode(made.file(made.gradient().convert("L"), "JPEG", icc_profile=profile)).icc == profile


@pytest.mark.parametrize(("mode", "profile"), [("L", SRGB), ("RGB", gray_profile())])
def test_a_profile_of_other_channels_is_dropped(mode, profile):
    assert decode(made.file(made.gradient().convert(mode), "JPEG", icc_profile=profile)).icc is None


@pytest.mark.parametrize("broken", [b"x", SRGB[:200], SRGB[:132] + b"\xff" * (len(SRGB) - 132), bytes(500)])
def test_a_broken_profile_is_ignored(broken):
    picture = decode(made.file(made.gradient(), "JPEG", icc_profile=broken))
    assert picture.icc is None
    assert picture.obstacle is None


def test_cmyk_without_a_profile_uses_the_plain_formula():
    image = Image.new("CMYK", (1, 1), (0, 255, 255, 0))
    assert colour.to_rgb(image, None).getpixel((0, 0)) == (255, 0, 0)
    assert colour.to_rgb(image, b"not a profile").getpixel((0, 0)) == (255, 0, 0)

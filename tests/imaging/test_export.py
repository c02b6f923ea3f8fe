from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.errors import ImageError
from pipeline.imaging import export
from pipeline.imaging.decode import decode
from tests.imaging import made

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

RGB = np.asarray(made.gradient())
ALPHA = np.tile(np.arange(24, dtype=np.uint8) * 10, (16, 1))
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LOSSLESS = ("png", "tiff", "webp", "jpeg2000")


@pytest.mark.parametrize("format", export.FORMATS)
def test_pixels_survive(format):
    found = decode(export.save(export.to_pil(RGB), format))
    assert np.abs(found.rgb.astype(int) - RGB).mean() <= (0 if format in LOSSLESS else 3)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "avif", "tiff"])
def test_metadata_survives(format):
    image = export.to_pil(RGB, exif=made.exif(1), icc=ICC, xmp=made.xmp(1))
    found = decode(export.save(image, format))
    assert (found.icc, found.xmp) == (ICC, made.xmp(1))
    assert b"Cam" in found.exif


@pytest.mark.parametrize("format", ["png", "webp", "tiff", "jpeg2000"])
@pytest.mark.parametrize("gray", [False, True])
def test_alpha_survives(format, gray):
    rgb = np.repeat(RGB[:, :, :1], 3, axis=2)
    found = decode(export.save(export.to_pil(rgb, gray=gray, alpha=ALPHA), format))
    assert (found.rgb == rgb).all()
    assert (found.alpha == ALPHA).all()


def test_jpeg_lays_transparency_on_white():
    black = np.zeros((16, 16, 3), np.uint8)
    for gray in (False, True):
        image = export.to_pil(black, gray=gray, alpha=np.zeros((16, 16), np.uint8), exif=made.exif(1))
        found = decode(export.save(image, "jpeg"))
        assert (found.rgb == 255).all()
        assert found.exif == made.exif(1)
        assert found.gray == gray


def test_gray_stays_one_channel():
    rgb = np.repeat(RGB[:, :, :1], 3, axis=2)
    image = export.to_pil(rgb, gray=True)
    assert image.mode == "L"
    assert (np.asarray(image) == rgb[:, :, 0]).all()


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif", "jpeg2000"])
def test_a_lower_quality_is_smaller(format):
    image = export.to_pil(np.asarray(Image.open(made.PHOTOS[0]).convert("RGB").resize((240, 160))))
    assert len(export.save(image, format, 20)) < len(export.save(image, format, 90))


def test_metadata_too_long_for_jpeg_is_left_out():
    image = export.to_pil(RGB, exif=b"Exif\0\0" + bytes(70_000), xmp=b" " * 70_000)
    found = decode(export.save(image, "jpeg"))
    assert (found.exif, found.xmp) == (None, None)


def test_broken_exif_does_not_stop_an_export():
    broken = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 40
    for format in export.FORMATS:
        assert decode(export.save(export.to_pil(RGB, exif=broken), format)).width_px == 24


def test_what_a_format_cannot_hold_is_one_sentence():
    with pytest.raises(ImageError, match=r"70000 x 1 px cannot be written as jpeg: .*; choose png"):
        export.save(export.to_pil(np.zeros((1, 70_000, 3), np.uint8)), "jpeg")
    with pytest.raises(ImageError, match="expected one of png, jpeg, webp"):
        export.save(export.to_pil(RGB), "bmp")

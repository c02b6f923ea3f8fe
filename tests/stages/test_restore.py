from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.archive import StoredImage, alpha_png
from pipeline.codecs.jxl import JXLLossless
from pipeline.codecs.original import Original
from pipeline.codecs.pillow import WebP
from pipeline.errors import BitstreamError, ConfigError
from pipeline.imaging.decode import decode
from pipeline.records import Rate
from pipeline.stages.restore import restore
from tests.stages.pictures import file_of, noise, smooth


def stored_of(data: bytes, codec, width: int | None = None) -> StoredImage:
    picture = decode(data)
    return StoredImage(
        image_id="0" * 32,
        source_uri="/photos/a.png",
        source_version="v1",
        source_format=picture.source_format,
        status="encoded",
        codec=codec.name,
        model_id=None,
        payload=codec.encode(picture, data).payload,
        width=width or picture.width_px,
        height=picture.height_px,
        gray=picture.gray,
        alpha=None if picture.alpha is None else alpha_png(picture.alpha),
        exif=picture.exif,
        icc=picture.icc,
        xmp=picture.xmp,
        part="p",
        metrics={},
        passthrough={},
    )


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_original_gives_the_source_back_byte_for_byte():
    jpeg = file_of(smooth(), "JPEG")
    for codec in (Original(), JXLLossless()):
        restored = restore(stored_of(jpeg, codec), codec)
        assert (restored.data, restored.suffix, restored.is_source) == (jpeg, None, True)


def test_original_of_a_lossy_payload_is_a_png_of_what_it_decodes_to():
    codec = WebP(Rate(quality=70))
    stored = stored_of(file_of(smooth()), codec)
    restored = restore(stored, codec)
    assert (restored.suffix, restored.is_source) == (".png", False)
    np.testing.assert_array_equal(np.asarray(opened(restored.data)), codec.decode(stored.payload))


@pytest.mark.parametrize(("file_format", "suffix"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
def test_metadata_and_profile_come_back(file_format, suffix):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    data = file_of(smooth(), "JPEG", exif=exif, icc_profile=icc, xmp=xmp, quality=95)
    codec = WebP(Rate(quality=70))
    restored = restore(stored_of(data, codec), codec, file_format)
    image = opened(restored.data)
    assert restored.suffix == suffix
    assert image.getexif()[0x010F] == "Maker"
    assert image.info["icc_profile"] == icc
    again = decode(restored.data)
    assert again.xmp is not None
    assert again.xmp.startswith(xmp)


def test_transparency_comes_back():
    rgba = np.dstack([smooth(), noise(128, 192)[..., 0]])
    codec = JXLLossless()
    stored = stored_of(file_of(rgba), codec)
    for file_format in ("png", "webp"):
        np.testing.assert_array_equal(np.asarray(opened(restore(stored, codec, file_format).data)), rgba)


def test_a_format_that_cannot_hold_a_picture_gives_way_to_png():
    codec = JXLLossless()
    restored = restore(stored_of(file_of(smooth(2, 17000)), codec), codec, "webp")
    assert restored.suffix == ".png"
    assert opened(restored.data).size == (17000, 2)


def test_gray_pictures_come_back_gray():
    codec = JXLLossless()
    restored = restore(stored_of(file_of(smooth()[..., 0]), codec), codec, "png")
    assert opened(restored.data).mode == "L"


def test_a_row_that_lies_about_its_size_is_an_error():
    codec = JXLLossless()
    with pytest.raises(BitstreamError, match="its row says 5x128"):
        restore(stored_of(file_of(smooth()), codec, width=5), codec)


def test_an_unknown_format_is_named():
    with pytest.raises(ConfigError, match="gif"):
        restore(stored_of(file_of(smooth()), Original()), Original(), "gif")

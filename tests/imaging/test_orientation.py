from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.imaging import orientation
from pipeline.imaging.decode import decode
from tests.imaging import made

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

UPRIGHT = np.asarray(made.gradient())
# What a camera stores so that each orientation shows UPRIGHT: the inverse of every turn of EXIF.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def stored(turn: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(STORED[turn](UPRIGHT)))


def error_of(data: bytes) -> float:
    return float(np.abs(decode(data).rgb.astype(int) - UPRIGHT).mean())


@pytest.mark.parametrize("turn", STORED)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_orientation_is_applied_once_and_reset(name, turn):
    data = made.file(stored(turn), name, exif=made.exif(turn), quality=90)
    assert error_of(data) < 8
    assert orientation.read(decode(data).exif, None) == 1


@pytest.mark.parametrize("turn", STORED)
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_tiff_is_turned_once(turn, compression):
    data = made.file(stored(turn), "TIFF", tiffinfo={274: turn, 271: "Cam"}, compression=compression)
    assert error_of(data) == 0
    assert orientation.read(decode(data).exif, None) == 1


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "PNG"])
def test_xmp_is_asked_only_when_exif_is_silent(name):
    def packed(**options):
        if name == "PNG":
            from PIL.PngImagePlugin import PngInfo

            info = PngInfo()
            info.add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
            options["pnginfo"] = info
        return made.file(stored(6), name, quality=90, **options)

    assert error_of(packed(xmp=made.xmp(6))) < 8
    assert error_of(packed(xmp=made.xmp(6), exif=made.exif(None))) < 8
    assert error_of(packed(xmp=made.xmp(3), exif=made.exif(6))) < 8
    assert decode(packed(xmp=made.xmp(6))).xmp == made.xmp(1)


def test_xmp_does_not_turn_an_avif():
    assert error_of(made.file(stored(1), "AVIF", xmp=made.xmp(6), quality=90)) < 8


def test_both_sources_together_turn_once():
    assert error_of(made.file(stored(6), "JPEG", exif=made.exif(6), xmp=made.xmp(6), quality=95)) < 8


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_resetting_changes_the_value_and_no_other_byte(order, kind):
    before, after = made.exif(6, order, kind), orientation.reset_exif(made.exif(6, order, kind))
    assert after == made.exif(1, order, kind)
    assert len(after) == len(before)


@pytest.mark.parametrize("blob", [made.exif(None), made.exif(1), b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_a_blob_without_a_turn_stays_as_it_is(blob):
    assert orientation.reset_exif(blob) == blob
    assert orientation.read(blob, None) == 1


@pytest.mark.parametrize("value", [0, 9, 200])
def test_nonsense_turns_nothing_and_is_reset(value):
    assert orientation.read(made.exif(value), None) == 1
    assert orientation.reset_exif(made.exif(value)) == made.exif(1)


def test_xmp_elements_and_attributes_are_both_read():
    element = b"<tiff:Orientation>8</tiff:Orientation>"
    assert orientation.read(None, element) == 8
    assert orientation.reset_xmp(element) == b"<tiff:Orientation>1</tiff:Orientation>"

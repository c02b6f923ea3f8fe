from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from pipeline.imaging.decode import decode
from tests.imaging import made

DEEP = np.arange(16 * 24 * 3, dtype=np.uint16).reshape(16, 24, 3) % 1024
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

GRAY = made.gradient().convert("L")


def obstacle(data: bytes) -> str | None:
    return decode(data).obstacle


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "JPEG2000", "BMP", "PPM", "QOI"])
def test_ordinary_pictures_have_none(name):
    assert obstacle(made.file(made.gradient(), name)) is None


@pytest.mark.parametrize(
    ("data", "bits"),
    [
        (made.png(1, 1, 16, 2, b"\0" + bytes(6)), 16),
        (made.png(1, 1, 16, 6, b"\0" + bytes(8)), 16),
        (made.file(GRAY.convert("I;16"), "PNG"), 16),
        (made.file(GRAY.convert("I;16"), "TIFF"), 16),
        (imagecodecs.jpeg2k_encode(DEEP, level=0), 16),
        (imagecodecs.avif_encode(DEEP, bitspersample=10), 10),
        (b"P6 1 1 65535\n" + bytes(6), 16),
        (b"P6 1 1 1023\n" + bytes(6), 10),
    ],
)
def test_deep_channels_are_named(data, bits):
    assert obstacle(data) == f"{bits} bits per channel"


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_gives_its_first_frame(name):
    frames = [made.gradient(), made.gradient().rotate(90), made.gradient().rotate(180)]
    picture = decode(made.file(frames[0], name, save_all=True, append_images=frames[1:], duration=40))
    assert picture.obstacle == "animation, 3 frames"
    assert np.abs(picture.rgb.astype(int) - np.asarray(frames[0])).mean() < 8


@pytest.mark.parametrize(("pages", "said"), [(1, None), (3, "3 pages"), (20_000, "1000 pages")])
def test_pages_of_a_tiff_are_counted_in_bounded_time(pages, said):
    assert obstacle(made.tiff_with_pages(pages)) == said


def test_cmyk_is_an_obstacle_unless_allowed():
    data = made.file(made.gradient().convert("CMYK"), "JPEG", quality=95)
    assert obstacle(data) == "CMYK colours"
    allowed = decode(data, allow_cmyk=True)
    assert allowed.obstacle is None
    assert np.abs(allowed.rgb.astype(int) - np.asarray(made.gradient())).mean() < 8


def test_lab_is_an_obstacle():
    assert obstacle(made.file(Image.new("LAB", (4, 4)), "TIFF")) == "Lab colours"


def mpo(second: Image.Image, kind: int | None = None) -> bytes:
    data = bytearray(made.file(made.gradient(), "MPO", save_all=True, append_images=[second]))
    if kind is not None:
        entry = data.find(b"\x00\x00\x03\x00", data.find(b"0100")) + 16
        data[entry : entry + 4] = kind.to_bytes(4, "little")
    return bytes(data)


def test_a_second_picture_in_an_mpo_is_named():
    picture = decode(mpo(made.gradient()))
    assert picture.obstacle is not None
    assert picture.obstacle.startswith("2 pictures in one file")
    assert picture.source_format == "MPO"


def test_a_mere_preview_in_an_mpo_is_no_obstacle():
    assert obstacle(mpo(made.gradient(), kind=0x010001)) is None


def test_an_mpo_whose_second_picture_is_missing_is_one_picture():
    data = mpo(made.gradient())
    assert obstacle(data[: data.find(b"\xff\xd9") + 2]) is None


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (b"", None),
        (bytes(64), None),
        (b"\r\n", None),
        (b"\0\0\0\x18ftypmp42" + bytes(60), "a video after the picture"),
        (bytes(9000) + b"MotionPhoto_Data", "a video after the picture"),
        (made.file(made.gradient(), "JPEG"), "a second picture after the picture"),
    ],
)
def test_what_phones_append_to_a_jpeg_is_named(tail, said):
    assert obstacle(made.file(made.gradient(), "JPEG") + tail) == said


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (b'<rdf:Description GCamera:MotionPhoto="1"/>', "a video after the picture"),
        (b'<rdf:Description hdrgm:Version="1.0"/>', "an HDR gain map"),
    ],
)
def test_phone_features_are_found_in_xmp(packet, said):
    assert obstacle(made.file(made.gradient(), "JPEG", xmp=packet)) == said


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (made.chunk(b"gAMA", (45455).to_bytes(4, "big")), None),
        (made.chunk(b"gAMA", (100000).to_bytes(4, "big")), "a gAMA chunk of 1, which is not sRGB"),
        (made.chunk(b"gAMA", (100000).to_bytes(4, "big")) + made.chunk(b"sRGB", b"\0"), None),
        (made.chunk(b"cICP", b"\x09\x10\0\1"), "a colour space given by a cICP chunk"),
        (made.chunk(b"cICP", b"\x01\x0d\0\1"), None),
    ],
)
def test_png_colour_chunks_that_would_be_lost_are_named(extra, said):
    assert obstacle(made.png(1, 1, 8, 2, b"\0\1\2\3", extra)) == said


@pytest.mark.parametrize(
    ("tags", "word"),
    [({50706: b"\1\4\0\0"}, "DNG"), ({330: 8}, "further images"), ({254: 1}, "further images")],
)
def test_a_camera_raw_file_is_not_its_preview(tags, word):
    target = io.BytesIO()
    made.gradient().save(target, "TIFF", tiffinfo=tags)
    assert word in str(obstacle(target.getvalue()))

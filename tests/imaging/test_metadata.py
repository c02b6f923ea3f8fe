from __future__ import annotations

import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from pipeline.imaging.decode import decode
from tests.imaging import made

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_exif_is_kept_byte_for_byte(name):
    assert decode(made.file(made.gradient(), name, exif=made.exif(1))).exif == made.exif(1)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_only_the_orientation_of_exif_changes(name):
    assert decode(made.file(made.gradient(), name, exif=made.exif(6, ">"))).exif == made.exif(1, ">")


@pytest.mark.parametrize("blob", [b"Exif\0\0junk", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 40])
def test_damaged_exif_does_not_cost_the_picture(blob):
    picture = decode(made.file(made.gradient(), "JPEG", exif=blob))
    assert picture.exif == blob
    assert picture.width_px == 24


def test_exif_in_a_png_text_chunk_is_read():
    info = PngInfo()
    blob = made.exif(8)
    info.add_text("Raw profile type exif", f"\nexif\n{len(blob):8}\n{blob.hex()}\n")
    picture = decode(made.file(made.gradient(), "PNG", pnginfo=info))
    assert (picture.width_px, picture.height_px) == (16, 24)
    assert picture.exif == made.exif(1)


@pytest.mark.parametrize("text", ["", "\nexif\n 4\nzz", "\nexif"])
def test_a_damaged_text_profile_is_no_exif(text):
    info = PngInfo()
    info.add_text("Raw profile type exif", text)
    assert decode(made.file(made.gradient(), "PNG", pnginfo=info)).exif is None


def test_exif_after_the_pixels_of_a_png_counts():
    plain = made.file(made.gradient(), "PNG")
    late = plain[:-12] + made.chunk(b"eXIf", made.exif(6)[6:]) + plain[-12:]
    assert decode(late).width_px == 16


def test_a_tiff_gives_what_describes_the_picture_and_no_offsets():
    tags = Image.Exif()
    tags[ExifTags.Base.Make], tags[ExifTags.Base.Artist] = "Cam", "A. Author"
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    parsed = Image.Exif()
    parsed.load(decode(made.file(made.gradient(), "TIFF", exif=tags.tobytes())).exif)
    assert (parsed[ExifTags.Base.Make], parsed[ExifTags.Base.Artist]) == ("Cam", "A. Author")
    assert parsed.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 400
    assert ExifTags.Base.StripOffsets not in parsed


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF", "TIFF"])
def test_xmp_is_kept(name):
    options = {"tiffinfo": {700: made.xmp(1)}} if name == "TIFF" else {"xmp": made.xmp(1)}
    assert decode(made.file(made.gradient(), name, **options)).xmp == made.xmp(1)

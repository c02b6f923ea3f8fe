from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
from PIL import Image

from pipeline.imaging import guard
from tests.imaging import made


@pytest.mark.parametrize(
    ("name", "kind"),
    [("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "WebP"), ("AVIF", "AVIF"), ("GIF", "GIF"), ("TIFF", "TIFF")],
)
def test_files_are_named_by_their_first_bytes(name, kind):
    assert guard.kind_of(made.file(made.gradient(), name)) == kind


def test_unknown_bytes_have_no_name():
    assert guard.kind_of(bytes(20)) is None


def test_nothing_that_runs_a_program_or_takes_any_bytes_is_opened():
    assert not {"EPS", "WMF", "TGA", "DIB", "FITS", "MPEG"} & set(guard.FORMATS)


def test_pillows_limit_comes_back_after_a_failure():
    before = Image.MAX_IMAGE_PIXELS
    with contextlib.suppress(RuntimeError), guard.pillow_limit(10**9):
        assert Image.MAX_IMAGE_PIXELS == 5 * 10**8
        raise RuntimeError
    assert before == Image.MAX_IMAGE_PIXELS


def test_pillows_limit_is_never_lowered():
    before = Image.MAX_IMAGE_PIXELS
    with guard.pillow_limit(10):
        assert before == Image.MAX_IMAGE_PIXELS


def test_damaged_tags_are_not_printed():
    code = "import sys; from pipeline.imaging.decode import decode\ndecode(sys.stdin.buffer.read())"
    data = made.file(made.gradient(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, timeout=60, check=True)
    assert done.stderr == b""

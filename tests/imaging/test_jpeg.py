from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imaging import jpeg
from tests.imaging import made

BASELINE = made.file(made.gradient(), "JPEG")
PROGRESSIVE = made.file(made.gradient(), "JPEG", progressive=True)


def test_scans_are_counted():
    assert jpeg.walk(BASELINE).scans == 1
    assert jpeg.walk(PROGRESSIVE).scans == PROGRESSIVE.count(b"\xff\xda")


def test_the_end_is_where_the_picture_ends():
    assert jpeg.walk(BASELINE + b"tail").end == len(BASELINE)


def test_markers_inside_segments_are_not_the_pictures():
    data = made.file(made.gradient(), "JPEG", exif=b"Exif\0\0" + BASELINE)
    assert jpeg.walk(data + b"tail") == jpeg.Skeleton(1, len(data))


@pytest.mark.parametrize("path", made.PHOTOS, ids=lambda path: path.stem)
def test_photos_have_nothing_behind_them(path):
    data = path.read_bytes()
    assert jpeg.appendix(data) is None
    assert jpeg.walk(data).end == len(data)


@given(st.binary(max_size=300))
def test_any_bytes_have_an_end(tail):
    skeleton = jpeg.walk(b"\xff\xd8" + tail)
    assert 0 <= skeleton.end <= len(tail) + 2
    jpeg.appendix(b"\xff\xd8" + tail)

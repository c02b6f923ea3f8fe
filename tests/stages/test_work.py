from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from pipeline.codecs.base import Analysis, Symbols
from pipeline.records import Distortion, Picture
from pipeline.stages.decode import rejected
from pipeline.stages.encode import require_equal
from pipeline.stages.work import Work, has_pixels, pack, pack_values, shell_of, unpack, unpack_values
from tests.stages.pictures import noise, smooth, source_of


def _analysed() -> Work:
    y = np.arange(-24, 24, dtype=np.int16).reshape(4, 3, 4)
    z = np.zeros((2, 1, 1), np.int16)
    symbols = Symbols("0123456789abcdef", 48, 64, False, 6000, y, z, trellis=128)
    alpha = noise(48, 64)[..., 0]
    picture = shell_of(Picture(smooth(48, 64), alpha=alpha, exif=b"Exif\0\0x", icc=b"icc", source_format="PNG"))
    analysis = Analysis(symbols, Distortion(1.5, 46.4, 0.99, None))
    return Work(source_of(b"bytes", label=3), picture, analysis, analyse_ms=2.5)


def test_a_work_arrives_as_it_was_sent():
    sent = _analysed()
    (got,) = unpack(pack([sent]))
    assert got.source == sent.source
    assert got.analyse_ms == 2.5
    assert got.analysis is not None
    assert sent.analysis is not None
    require_equal(sent.analysis.symbols, got.analysis.symbols)
    assert got.analysis.distortion == sent.analysis.distortion
    assert got.picture is not None
    assert (got.picture.height_px, got.picture.width_px, got.picture.exif) == (48, 64, b"Exif\0\0x")
    assert sent.picture is not None
    np.testing.assert_array_equal(got.picture.alpha, sent.picture.alpha)


def test_pixels_travel_as_far_as_the_budget_goes():
    works = [Work(source_of(b"x"), Picture(noise(8, side), gray=False)) for side in (10, 90, 10)]
    first, second, third = unpack(pack(works, pixel_bytes=2 * 8 * 10 * 3))
    for sent, got in ((works[0], first), (works[2], third)):
        assert sent.picture is not None
        assert got.picture is not None
        np.testing.assert_array_equal(got.picture.rgb, sent.picture.rgb)
    assert second.picture is not None
    assert not has_pixels(second.picture)
    assert not any(has_pixels(work.picture) for work in unpack(pack(works)) if work.picture)


def test_rejected_and_noted_works_arrive_too():
    works = [rejected(source_of(None, error="gone"), "gone"), Work(source_of(b"x"), note="out of memory")]
    gone, noted = unpack(pack(works))
    assert gone.outcome is not None
    assert (gone.outcome.status, gone.outcome.reason, gone.source.data) == ("rejected", "gone", None)
    assert noted.note == "out of memory"


def test_an_empty_chunk_arrives_empty():
    assert unpack(pack([])) == []


def test_a_shell_has_the_size_and_no_pixels():
    picture = Picture(smooth(1000, 900))
    assert has_pixels(picture)
    assert not has_pixels(shell_of(picture))
    assert shell_of(picture).width_px == 900


@pytest.mark.parametrize(
    "value",
    [
        *(1, -1.5, "text", b"\x00raw", None, True, [1, 2], {"a": {"b": [1.5]}}, [{"x": 1}, {"y": "z"}]),
        *(datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), Decimal("1.10"), {"mixed": [1, "a", None]}, 2**70),
    ],
    ids=repr,
)
def test_passthrough_values_keep_value_and_type(value):
    assert unpack_values(pack_values({"column": value})) == {"column": value}


def test_arrow_scalars_keep_their_type():
    scalar = pa.scalar(7, pa.uint8())
    assert unpack_values(pack_values({"column": scalar}))["column"].equals(scalar)

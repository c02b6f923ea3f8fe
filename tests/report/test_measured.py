"""Result rows as arrays, and averages over the images that all codecs could code."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from pipeline.archive import results
from pipeline.archive.results import RESULTS_SCHEMA
from pipeline.errors import ArchiveError
from pipeline.report.measured import means, measured, reasons


def table_of(*rows: dict[str, object]) -> pa.Table:
    base = {"source_uri": "/in/a.png", "source_bytes": 1000, "width": 10, "height": 10, "setting_id": "s"}
    return pa.Table.from_pylist([base | row for row in rows], schema=RESULTS_SCHEMA)


def point(
    image: str, series: str, quality: float | None, size: int | None, psnr: float | None, mse: float | None = 1.0
):
    bpp = None if size is None else size * 0.08
    return {
        "image_id": image,
        "series": series,
        "codec": series,
        "quality": quality,
        "payload_bytes": size,
        "bpp": bpp,
        "psnr_db": psnr,
        "mse": mse,
        "status": "encoded" if size else "rejected",
        "reason": None if size else "broken",
    }


def test_rows_find_their_places_in_any_order():
    rows = [point("b", "jpeg", 90, 400, 40), point("a", "jpeg", 10, 100, 30), point("a", "jpeg", 90, 300, 41)]
    rows += [point("b", "jpeg", 10, 200, 31)]
    (curve,) = measured(table_of(*rows)).curves
    assert curve.qualities == (10, 90)
    np.testing.assert_array_equal(curve.payload_bytes, [[100, 300], [200, 400]])
    np.testing.assert_array_equal(curve.psnr_db, [[30, 41], [31, 40]])


def test_averages_leave_out_images_that_one_codec_could_not_code():
    rows = [point("a", "jpeg", 10, 100, 30), point("b", "jpeg", 10, 900, 10)]
    rows += [point("a", "webp", 10, 80, 31), point("b", "webp", 10, None, None, None)]
    found = measured(table_of(*rows))
    assert found.complete.tolist() == [True, False]
    (jpeg, webp) = found.curves
    assert means(jpeg, found.complete)[0]["psnr_db"] == 30
    assert means(webp, found.complete)[0]["bpp"] == pytest.approx(6.4)


def test_an_exact_picture_has_an_infinite_psnr():
    found = measured(table_of(point("a", "png", None, 100, None, 0.0)))
    (curve,) = found.curves
    assert curve.lossless
    assert math.isinf(means(curve, found.complete)[0]["psnr_db"])
    assert curve.label(0) == "png"


def test_reasons_are_counted_most_frequent_first():
    rows = [
        point("a", "webp", 10, None, None, None),
        point("b", "webp", 10, None, None, None),
        point("c", "x", 1, 5, 9),
    ]
    assert reasons(table_of(*rows), ["rejected"]) == [("webp", "rejected", "broken", 2)]


def test_no_rows_are_an_error():
    with pytest.raises(ArchiveError, match="no rows"):
        measured(table_of())


def test_real_results_have_a_row_for_every_image_and_setting(measured_folder):
    table = results.read(measured_folder)
    found = measured(table)
    assert len(table) == 6 * 13
    assert [curve.name for curve in found.curves] == ["cnn", "jpeg", "jxl-lossless", "webp"]
    assert int(found.complete.sum()) == 5
    for curve in found.curves:
        if not curve.lossless:
            sizes = curve.payload_bytes[found.complete]
            assert (np.diff(sizes, axis=1) > 0).all()

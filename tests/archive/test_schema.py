"""Outcomes as rows: what is counted, what is NULL, what is stored beside a payload."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.archive import alpha_png, schema, stored_bytes
from pipeline.records import KEPT_ORIGINAL, REJECTED, Distortion, Outcome, Picture, SourceImage
from tests.archive.made import outcome, source

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def rows_of(*outcomes: Outcome) -> tuple[list[dict], list[dict]]:
    data, metrics = schema.tables(outcomes, "p", "r", NOW)
    return data.to_pylist(), metrics.to_pylist()


def with_alpha(made: Outcome) -> tuple[Outcome, np.ndarray]:
    alpha = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert made.picture is not None
    return replace(made, picture=replace(made.picture, alpha=alpha)), alpha


def test_alpha_is_stored_as_png_and_counted_with_the_payload() -> None:
    made, alpha = with_alpha(outcome(source("/a.png"), payload=b"x" * 100))
    [data], [metrics] = rows_of(made)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data["alpha"]))), alpha)
    assert metrics["payload_bytes"] == 100 + len(alpha_png(alpha))
    assert metrics["bpp"] == 8 * metrics["payload_bytes"] / 48
    assert stored_bytes(made) == metrics["payload_bytes"] + len(b"Exif") + len(b"profile")


def test_a_kept_original_has_its_alpha_and_metadata_inside() -> None:
    made, _ = with_alpha(outcome(source("/a.png"), KEPT_ORIGINAL))
    [data], [metrics] = rows_of(made)
    assert (data["alpha"], data["exif"], data["icc"]) == (None, None, None)
    assert metrics["payload_bytes"] == metrics["source_bytes"] == stored_bytes(made)


def test_an_exact_picture_has_mse_zero_and_no_psnr() -> None:
    made = replace(outcome(source("/a.png")), distortion=Distortion(0.0, float("inf"), 1.0, float("nan")))
    _, [metrics] = rows_of(made)
    assert (metrics["mse"], metrics["psnr_db"], metrics["ssim"], metrics["ms_ssim"]) == (0.0, None, 1.0, None)


def test_a_rejected_image_says_why_and_has_nothing_else() -> None:
    image = SourceImage("id", "/caf\udce9.jpg", "v1", None, error="gone")
    data, [metrics] = rows_of(replace(outcome(image, REJECTED), reason="bad \udce9"))
    assert data == []
    assert metrics.pop("committed_at") == NOW.replace(tzinfo=None)
    assert {name: value for name, value in metrics.items() if value is not None} == {
        "image_id": "id", "source_uri": r"/caf\udce9.jpg", "source_version": "v1", "status": REJECTED,
        "reason": r"bad \udce9", "part": "p", "run_id": "r",
    }  # fmt: skip


def test_a_kept_original_that_nobody_could_decode_has_no_size_in_pixels() -> None:
    made = replace(outcome(source("/a.tif"), KEPT_ORIGINAL), picture=None, distortion=None)
    [data], [metrics] = rows_of(made)
    assert (data["width"], data["gray"], metrics["bpp"], metrics["source_format"]) == (None, None, None, None)


def test_tables_of_an_older_program_get_the_missing_columns() -> None:
    table = schema.conform(pa.table({"image_id": ["a"]}), schema.METRICS_SCHEMA)
    assert table.schema == schema.METRICS_SCHEMA
    assert table["bpp"].to_pylist() == [None]


def test_an_unknown_format_is_null_and_not_empty() -> None:
    made = replace(outcome(source("/a")), picture=Picture(np.zeros((1, 1, 3), np.uint8)))
    assert rows_of(made)[1][0]["source_format"] is None

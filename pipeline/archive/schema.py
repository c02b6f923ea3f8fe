"""The two tables: outcomes in, Arrow out. Column names and types are a contract; LAYOUT.md explains each.

`payload_bytes` is the payload plus the alpha plane beside it. Exif, ICC and XMP are stored as they came and are
not counted there; `stored_bytes` counts everything, and is what "never larger" is judged by.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.archive import passthrough
from pipeline.errors import ArchiveError
from pipeline.records import ENCODED, KEPT_ORIGINAL, REJECTED, Outcome

METRICS_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "source_uri": pa.string(),
        "source_version": pa.string(),
        "source_format": pa.string(),
        "source_bytes": pa.int64(),
        "width": pa.int64(),
        "height": pa.int64(),
        "status": pa.string(),
        "reason": pa.string(),
        "codec": pa.string(),
        "model_id": pa.string(),
        "quality": pa.float64(),
        "payload_bytes": pa.int64(),
        "bpp": pa.float64(),
        "mse": pa.float64(),
        "psnr_db": pa.float64(),
        "ssim": pa.float64(),
        "ms_ssim": pa.float64(),
        "encode_ms": pa.float64(),
        "part": pa.string(),
        "run_id": pa.string(),
        "committed_at": pa.timestamp("us"),
    }.items()
)
DATA_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "source_version": pa.string(),
        "part": pa.string(),
        "source_format": pa.string(),
        "codec": pa.string(),
        "model_id": pa.string(),
        "payload": pa.large_binary(),
        "payload_sha256": pa.string(),
        "width": pa.int64(),
        "height": pa.int64(),
        "gray": pa.bool_(),
        "alpha": pa.large_binary(),
        "exif": pa.binary(),
        "icc": pa.binary(),
        "xmp": pa.binary(),
    }.items()
)
STATUSES = (ENCODED, KEPT_ORIGINAL, REJECTED)


def alpha_png(alpha: np.ndarray) -> bytes:
    """The alpha plane, (H, W) uint8, as a grayscale PNG."""
    out = io.BytesIO()
    Image.fromarray(alpha).save(out, "PNG")
    return out.getvalue()


def alpha_of(outcome: Outcome) -> bytes | None:
    """Alpha as stored: only beside an encoded payload; a kept original holds its own."""
    picture = outcome.picture if outcome.status == ENCODED else None
    return alpha_png(picture.alpha) if picture is not None and picture.alpha is not None else None


def stored_bytes(outcome: Outcome) -> int:
    """Everything this outcome puts into the archive: payload, alpha, exif, icc and xmp."""
    side = _side_data(outcome)
    return sum(len(each) for each in (outcome.payload, alpha_of(outcome), *side.values()) if each is not None)


def check(outcomes: Sequence[Outcome], part: str) -> None:
    """Raises ArchiveError for rows that would break the archive's promises."""
    seen: set[str] = set()
    for outcome in outcomes:
        problem = _problem(outcome, seen)
        if problem:
            raise ArchiveError(
                f"part {part}, {outcome.source.source_uri}: {problem}; nothing was written, this is a bug in the stage "
                "that made the row"
            )
        seen.add(outcome.source.image_id)


def tables(outcomes: Sequence[Outcome], part: str, run_id: str, committed_at: datetime) -> tuple[pa.Table, pa.Table]:
    """(data table, metrics table) of one part, rows in the order given; the data table has no rejected rows."""
    alphas = [alpha_of(outcome) for outcome in outcomes]
    pairs = list(zip(outcomes, alphas, strict=True))
    stamp = {"part": part, "run_id": run_id, "committed_at": committed_at}
    metrics = [_metrics_row(outcome, alpha) | stamp for outcome, alpha in pairs]
    kept = [(outcome, alpha) for outcome, alpha in pairs if outcome.status != REJECTED]
    data = table_of([_data_row(outcome, alpha) | {"part": part} for outcome, alpha in kept], DATA_SCHEMA)
    extra = passthrough.columns([outcome.source.passthrough for outcome, _ in kept], DATA_SCHEMA.names)
    for name, values in extra.items():
        data = data.append_column(name, values)
    return data, table_of(metrics, METRICS_SCHEMA)


def table_of(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as Arrow: what they lack is NULL, and so are infinite and undefined numbers; text is valid UTF-8."""
    return pa.Table.from_pylist([{name: _storable(row[name]) for name in row} for row in rows], schema=schema)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with exactly the columns of `schema`; a column that it lacks is NULL."""
    missing = {name for name in schema.names if name not in table.column_names}
    arrays = [
        pa.nulls(len(table), field.type) if field.name in missing else table[field.name].cast(field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def _problem(outcome: Outcome, seen: set[str]) -> str | None:
    if outcome.source.image_id in seen:
        return f"image_id {outcome.source.image_id} comes twice, expected one row per image"
    if outcome.status not in STATUSES:
        return f"status is {outcome.status!r}, expected one of {', '.join(STATUSES)}"
    if outcome.status == REJECTED:
        return None if outcome.reason else "a rejected image has no reason, expected one"
    if outcome.payload is None or outcome.codec is None:
        return f"status {outcome.status} without payload or codec, expected both"
    return None


def _metrics_row(outcome: Outcome, alpha: bytes | None) -> dict[str, Any]:
    source, picture, distortion = outcome.source, outcome.picture, outcome.distortion
    payload_bytes = None if outcome.payload is None else len(outcome.payload) + len(alpha or b"")
    pixels = picture.width_px * picture.height_px if picture is not None else 0
    return {
        "image_id": source.image_id,
        "source_uri": source.source_uri,
        "source_version": source.source_version,
        "source_format": (picture.source_format or None) if picture is not None else None,
        "source_bytes": None if source.data is None else len(source.data),
        "width": picture.width_px if picture is not None else None,
        "height": picture.height_px if picture is not None else None,
        "status": outcome.status,
        "reason": outcome.reason,
        "codec": outcome.codec if outcome.status != REJECTED else None,
        "model_id": outcome.model_id if outcome.status != REJECTED else None,
        "quality": outcome.quality,
        "payload_bytes": payload_bytes if outcome.status != REJECTED else None,
        "bpp": 8 * payload_bytes / pixels if payload_bytes is not None and pixels else None,
        **{name: getattr(distortion, name, None) for name in ("mse", "psnr_db", "ssim", "ms_ssim")},
        "encode_ms": outcome.encode_ms,
    }


def _data_row(outcome: Outcome, alpha: bytes | None) -> dict[str, Any]:
    picture, payload = outcome.picture, outcome.payload or b""
    return {
        "image_id": outcome.source.image_id,
        "source_version": outcome.source.source_version,
        "source_format": (picture.source_format or None) if picture is not None else None,
        "codec": outcome.codec,
        "model_id": outcome.model_id,
        "payload": payload,
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
        "width": picture.width_px if picture is not None else None,
        "height": picture.height_px if picture is not None else None,
        "gray": picture.gray if picture is not None else None,
        "alpha": alpha,
        **_side_data(outcome),
    }


def _side_data(outcome: Outcome) -> dict[str, bytes | None]:
    """Exif, ICC and XMP beside an encoded payload; a kept original holds its own."""
    picture = outcome.picture if outcome.status == ENCODED else None
    return {name: getattr(picture, name, None) for name in ("exif", "icc", "xmp")}


def _storable(value: Any) -> Any:
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return None  # one lossless picture must not make avg(psnr_db) infinite
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value

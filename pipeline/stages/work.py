"""One image on its way through the stages, and its form between processes.

Between the codec pool and the entropy-coding tasks an image travels without pixels: source bytes, integer symbols,
the distortion measured where the pixels were, and the picture's shell (size, alpha, metadata). Only where decoding
and analysis are on different nodes do pixels travel, and then within a budget. A chunk of such images is one Arrow
IPC stream, lz4-compressed; nothing on this road is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.bitstream.container import Reduced
from pipeline.codecs.base import Analysis, Symbols
from pipeline.records import Distortion, Outcome, Picture, SourceImage


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """An image between two stages.

    `outcome` is set once its row is decided (an undecodable source). `note` says why the learned codec gave no
    `analysis`. `analyse_ms` is this image's share of its batch.
    """

    source: SourceImage
    picture: Picture | None = None
    analysis: Analysis | None = None
    outcome: Outcome | None = None
    note: str | None = None
    analyse_ms: float = 0.0


def shell_of(picture: Picture) -> Picture:
    """`picture` without its pixels: the same size and metadata over one shared zero."""
    blank = np.broadcast_to(np.uint8(0), picture.rgb.shape)
    return Picture(
        rgb=blank,
        gray=picture.gray,
        alpha=picture.alpha,
        exif=picture.exif,
        icc=picture.icc,
        xmp=picture.xmp,
        source_format=picture.source_format,
        obstacle=picture.obstacle,
    )


def has_pixels(picture: Picture) -> bool:
    return picture.rgb.strides != (0, 0, 0)


def pack(works: Sequence[Work], pixel_bytes: int = 0) -> pa.Buffer:
    """`works` as one Arrow IPC stream. Pixels travel up to `pixel_bytes` in all; the rest is left behind."""
    rows = []
    for work in works:
        size = work.picture.rgb.size if work.picture and has_pixels(work.picture) else 0
        rows.append(_row_of(work, with_pixels=0 < size <= pixel_bytes))
        pixel_bytes -= size if size <= pixel_bytes else 0
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, _SCHEMA, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def unpack(data: pa.Buffer | bytes) -> list[Work]:
    table = pa.ipc.open_stream(data).read_all()
    return [_work_of(row) for row in table.to_pylist()]


_BLOB = pa.large_binary()
_PICTURE = pa.struct(
    {
        "height": pa.int64(),
        "width": pa.int64(),
        "gray": pa.bool_(),
        "rgb": _BLOB,
        "alpha": _BLOB,
        "exif": _BLOB,
        "icc": _BLOB,
        "xmp": _BLOB,
        "source_format": pa.string(),
        "obstacle": pa.string(),
    }
)
_SYMBOLS = pa.struct(
    {
        "model_id": pa.string(),
        "height_px": pa.int64(),
        "width_px": pa.int64(),
        "gray": pa.bool_(),
        "quality_centi": pa.int64(),
        "trellis": pa.int64(),
        "adaptive": pa.int64(),
        "wiener": pa.binary(),
        "y": _BLOB,
        "y_shape": pa.list_(pa.int64()),
        "y_type": pa.string(),
        "z": _BLOB,
        "z_shape": pa.list_(pa.int64()),
        "z_type": pa.string(),
        "reduced": pa.struct(
            {"scale": pa.int64(), "model_id": pa.string(), "width_px": pa.int64(), "height_px": pa.int64()}
        ),
    }
)
_DISTORTION = pa.struct({name: pa.float64() for name in ("mse", "psnr_db", "ssim", "ms_ssim")})
_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "source_uri": _BLOB,  # file names need not be UTF-8
        "source_version": pa.string(),
        "data": _BLOB,
        "error": pa.string(),
        "passthrough": _BLOB,
        "picture": _PICTURE,
        "symbols": _SYMBOLS,
        "distortion": _DISTORTION,
        "status": pa.string(),
        "reason": pa.string(),
        "note": pa.string(),
        "analyse_ms": pa.float64(),
    }
)


def _row_of(work: Work, with_pixels: bool) -> dict[str, Any]:
    source = work.source
    return {
        "image_id": source.image_id,
        "source_uri": source.source_uri.encode("utf-8", "surrogateescape"),
        "source_version": source.source_version,
        "data": source.data,
        "error": source.error,
        "passthrough": pack_values(source.passthrough),
        "picture": _picture_row(work.picture, with_pixels),
        "symbols": _symbols_row(work.analysis.symbols) if work.analysis else None,
        "distortion": _distortion_row(work.analysis.distortion) if work.analysis else None,
        "status": work.outcome.status if work.outcome else None,
        "reason": work.outcome.reason if work.outcome else None,
        "note": work.note,
        "analyse_ms": work.analyse_ms,
    }


def _work_of(row: Mapping[str, Any]) -> Work:
    source = SourceImage(
        image_id=row["image_id"],
        source_uri=row["source_uri"].decode("utf-8", "surrogateescape"),
        source_version=row["source_version"],
        data=row["data"],
        passthrough=unpack_values(row["passthrough"]),
        error=row["error"],
    )
    analysis = Analysis(_symbols_of(row["symbols"]), Distortion(**row["distortion"])) if row["symbols"] else None
    outcome = Outcome(source=source, status=row["status"], reason=row["reason"]) if row["status"] else None
    return Work(source, _picture_from(row["picture"]), analysis, outcome, row["note"], row["analyse_ms"])


def _picture_row(picture: Picture | None, with_pixels: bool) -> dict[str, Any] | None:
    if picture is None:
        return None
    return {
        "height": picture.height_px,
        "width": picture.width_px,
        "gray": picture.gray,
        "rgb": picture.rgb.tobytes() if with_pixels else None,
        "alpha": None if picture.alpha is None else picture.alpha.tobytes(),
        "exif": picture.exif,
        "icc": picture.icc,
        "xmp": picture.xmp,
        "source_format": picture.source_format,
        "obstacle": picture.obstacle,
    }


def _picture_from(row: Mapping[str, Any] | None) -> Picture | None:
    if row is None:
        return None
    height, width, rgb, alpha = row["height"], row["width"], row["rgb"], row["alpha"]
    shape = (height, width, 3)
    return Picture(
        rgb=np.broadcast_to(np.uint8(0), shape) if rgb is None else np.frombuffer(rgb, np.uint8).reshape(shape),
        gray=row["gray"],
        alpha=None if alpha is None else np.frombuffer(alpha, np.uint8).reshape(height, width),
        exif=row["exif"],
        icc=row["icc"],
        xmp=row["xmp"],
        source_format=row["source_format"],
        obstacle=row["obstacle"],
    )


_SCALARS = ("model_id", "height_px", "width_px", "gray", "quality_centi", "trellis", "adaptive", "wiener")


def _symbols_row(symbols: Symbols) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(symbols, name) for name in _SCALARS}
    row["reduced"] = None if symbols.reduced is None else asdict(symbols.reduced)
    for name in ("y", "z"):
        array = np.ascontiguousarray(getattr(symbols, name))
        row |= {name: array.tobytes(), f"{name}_shape": array.shape, f"{name}_type": array.dtype.str}
    return row


def _symbols_of(row: Mapping[str, Any]) -> Symbols:
    arrays: dict[str, Any] = {
        name: np.frombuffer(row[name], row[f"{name}_type"]).reshape(row[f"{name}_shape"]) for name in ("y", "z")
    }
    scalars = {name: row[name] for name in _SCALARS}
    reduced = None if row["reduced"] is None else Reduced(**row["reduced"])
    return Symbols(**scalars, **arrays, reduced=reduced)


def _distortion_row(distortion: Distortion) -> dict[str, float | None]:
    return {name: getattr(distortion, name) for name in ("mse", "psnr_db", "ssim", "ms_ssim")}


def pack_values(values: Mapping[str, Any]) -> bytes | None:
    """Passthrough columns of one record as a one-row Arrow stream; Arrow scalars keep their type."""
    if not values:
        return None
    columns = [_column_of(value) for value in values.values()]
    fields = [
        pa.field(name, array.type, metadata={"form": form}) for name, (array, form) in zip(values, columns, strict=True)
    ]
    table = pa.Table.from_arrays([array for array, _ in columns], schema=pa.schema(fields))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def unpack_values(data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {}
    table = pa.ipc.open_stream(data).read_all()
    return {field.name: _value_of(field, column[0]) for field, column in zip(table.schema, table.columns, strict=True)}


def _column_of(value: Any) -> tuple[pa.Array, str]:
    """`value` as a column of one, and how to read it back: an Arrow scalar, a Python value, or JSON text."""
    if isinstance(value, pa.Scalar):
        return pa.array([value.as_py()], value.type), "scalar"
    try:
        array = pa.array([value])
        if array[0].as_py() == value:
            return array, "plain"
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass  # lists of mixed types, maps, integers beyond 64 bits
    return pa.array([json.dumps(value, default=str)]), "json"


def _value_of(field: pa.Field, scalar: pa.Scalar) -> Any:
    form = (field.metadata or {}).get(b"form")
    if form == b"scalar":
        return scalar
    return json.loads(scalar.as_py()) if form == b"json" else scalar.as_py()

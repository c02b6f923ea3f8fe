"""Columns that come along with an image (labels, captions, tar siblings) and are stored under their own names.

Arrow scalars keep their exact type; Python values get the type Arrow infers from this chunk. Values that no one
Arrow type can hold become text: strings stay themselves, everything else turns into JSON.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa


def columns(records: Sequence[Mapping[str, Any]], taken: Collection[str]) -> dict[str, pa.Array]:
    """One array per name in any record, NULL where a record lacks it; names in `taken` get a prefix."""
    names = sorted({name for record in records for name in record})
    stored = stored_names(names, taken)
    return {stored[name]: to_array([record.get(name) for record in records]) for name in names}


def stored_names(names: Sequence[str], taken: Collection[str]) -> dict[str, str]:
    """Name -> column: itself, or with `source_` before it while it collides (in any case: SQL ignores case)."""
    used, stored = {name.lower() for name in taken}, {}
    for name in names:
        column = _text(name) or "source_"
        while column.lower() in used:
            column = f"source_{column}"
        used.add(column.lower())
        stored[name] = column
    return stored


def to_array(values: Sequence[Any]) -> pa.Array:
    """The values as one Arrow array that Parquet can store."""
    types = {value.type for value in values if isinstance(value, pa.Scalar)}
    plain = [value.as_py() if isinstance(value, pa.Scalar) else value for value in values]
    try:
        array = pa.array(plain, type=types.pop() if len(types) == 1 else None)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.array([as_text(value) for value in plain], pa.string())
    if _has_empty_struct(array.type):  # Parquet has no struct without fields
        return pa.array([as_text(value) for value in plain], pa.string())
    return array


def _has_empty_struct(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.num_fields == 0:
        return True
    return any(_has_empty_struct(kind.field(i).type) for i in range(kind.num_fields))


def as_text(value: Any) -> str | None:
    if value is None:
        return None
    return _text(value) if isinstance(value, str) else json.dumps(value, default=_jsonable)


def _text(value: str) -> str:
    """Lone surrogates (file names that are not UTF-8) have no place in Arrow text; they become `\\udcff`."""
    return value.encode("utf-8", "backslashreplace").decode()


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.tolist() if hasattr(value, "tolist") else str(value)

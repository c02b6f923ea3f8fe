"""Parquet files from anywhere, opened so that reading them runs no code.

Ray registers an Arrow type whose values are pickles, which Python unpickles as soon as one is looked at. Whoever can
put a Parquet file into a source could so run code in a worker; a file with such a column is refused instead.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_RUNS_CODE = frozenset({"ray.data.arrow_pickled_object", "arrow.py_extension_type"})


def open_parquet(stream: Any, **how: Any) -> pq.ParquetFile:
    """`pq.ParquetFile(stream, **how)`. Raises pa.ArrowInvalid for a column of pickled objects."""
    file = pq.ParquetFile(stream, **how)
    for field in file.schema_arrow:
        if _holds_pickles(field.type):
            raise pa.ArrowInvalid(
                f"column {field.name!r} holds pickled Python objects, which run code when they are read; "
                "expected plain values, write the table again without them"
            )
    return file


def _holds_pickles(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return kind.extension_name in _RUNS_CODE or _holds_pickles(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _holds_pickles(kind.value_type)
    return any(_holds_pickles(kind.field(at).type) for at in range(kind.num_fields))

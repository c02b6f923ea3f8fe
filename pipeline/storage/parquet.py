"""Parquet files from anywhere, opened so that reading them neither runs code nor allocates what they merely claim.

Ray registers an Arrow type whose values are pickles, which Python unpickles as soon as one is looked at. Whoever can
put a Parquet file into a source could so run code in a worker; a file with such a column is refused instead. Arrow
makes room for as many rows as a footer promises; here every row is an image, so they cannot be more than bytes.
"""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# What pyarrow raises over damaged files: text that is no UTF-8 is a ValueError, a wild number may be any of the others.
DAMAGE = (pa.ArrowException, OSError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
_RUNS_CODE = frozenset({"ray.data.arrow_pickled_object", "arrow.py_extension_type"})


def open_parquet(stream: Any, **how: Any) -> pq.ParquetFile:
    """`pq.ParquetFile(stream, **how)`.

    Raises:
        one of DAMAGE: not Parquet, a column of pickled objects, or more rows than bytes.
    """
    stream.seek(0, io.SEEK_END)
    size_bytes = stream.tell()
    file = pq.ParquetFile(stream, **how)
    groups = (file.metadata.row_group(at).num_rows for at in range(file.num_row_groups))
    if (rows := max(file.metadata.num_rows, sum(groups))) > size_bytes:
        raise pa.ArrowInvalid(f"its footer promises {rows} rows in a file of {size_bytes} bytes; it is damaged")
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

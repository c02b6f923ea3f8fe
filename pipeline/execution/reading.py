"""`pipeline.read_archive`: an archive as a Ray dataset, one block per part, decoded where the tasks run.

    dataset = pipeline.read_archive("s3://cold/photos", columns=["label"], where="width >= 256")
    dataset.map_batches(to_224).iter_torch_batches(batch_size=64)

Rows hold `image_id`, the columns asked for, and with `decode` the picture as `image`, (H, W, 3) uint8. Workers take
nothing along but the URI and part names; metrics rows are read again where the payloads are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive import StoredImage
from pipeline.archive.schema import DATA_SCHEMA, METRICS_SCHEMA
from pipeline.data.pictures import Pictures
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import ray.data

_STORED_COLUMNS = ("payload", "alpha", "exif", "icc", "xmp", "gray")
_PICTURES_PER_BATCH = 16


def read_archive(
    uri: str,
    columns: Sequence[str] | None = None,
    decode: bool = True,
    *,
    where: str | None = None,
    num_gpus: float = 0,
    concurrency: int | None = None,
) -> ray.data.Dataset:
    """The newest rows of the archive at `uri` that hold a picture, as a Ray dataset.

    Args:
        columns: of the metrics table, of the data table (`payload`, `alpha`, `exif`, `icc`, `xmp`, `gray`), or that
            came along with the source (NULL in parts that lack one); all of the metrics table when None.
        decode: adds the column `image`.
        where: rows by metrics columns, as `restore --where` takes them.
        num_gpus: for each task that decodes; 0 decodes on CPUs.
        concurrency: how many tasks at a time at most.

    Raises:
        ConfigError: `image` among the columns.
        ArchiveError: no archive there.
    """
    import ray.data

    wanted = list(METRICS_SCHEMA.names if columns is None else dict.fromkeys(["image_id", *columns]))
    if "image" in wanted:
        raise ConfigError("columns: found 'image', which is the decoded picture; ask for it with decode=True")
    pictures = Pictures(uri, where)
    parts = sorted(set(pictures.table["part"].to_pylist()))
    if not parts:
        return ray.data.from_arrow(_table([], wanted, []))
    how = {"uri": pictures.archive.uri, "where": where, "columns": wanted, "decode": decode}
    device = "cuda" if num_gpus else "cpu"
    read: Any = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts)).map_batches
    dataset: ray.data.Dataset = read(
        _read_part,
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs=how | {"device": device},
        num_gpus=num_gpus or None,
        concurrency=concurrency,
    )
    return dataset


def _read_part(batch: pa.Table, uri: str, where: str | None, columns: list[str], decode: bool, device: str) -> Any:
    pictures = _opened(uri, where, device)
    for part in batch["part"].to_pylist():
        rows = pictures.table.filter(pc.field("part") == part).to_pylist()
        found = pictures.archive.stored(rows)
        while stored := list(islice(found, _PICTURES_PER_BATCH)):
            images = [pictures.picture(each).rgb for each in stored] if decode else None
            yield _table(stored, columns, images)


@lru_cache(maxsize=2)
def _opened(uri: str, where: str | None, device: str) -> Pictures:
    """Once a process: metrics are read and decoders built for all parts that it takes."""
    return Pictures(uri, where, device)


def _table(stored: Sequence[StoredImage], columns: Sequence[str], images: list[np.ndarray] | None) -> pa.Table:
    from ray.data.extensions import ArrowVariableShapedTensorArray

    arrays = {name: _column(stored, name) for name in columns}
    if images is not None and stored:
        arrays["image"] = ArrowVariableShapedTensorArray.from_numpy(_ragged(images))
    return pa.table(arrays)


def _column(stored: Sequence[StoredImage], name: str) -> pa.Array:
    if name in METRICS_SCHEMA.names:
        return pa.array([each.metrics[name] for each in stored], METRICS_SCHEMA.field(name).type)
    if name in _STORED_COLUMNS:
        return pa.array([getattr(each, name) for each in stored], DATA_SCHEMA.field(name).type)
    return pa.array([each.passthrough.get(name) for each in stored])


def _ragged(images: list[np.ndarray]) -> np.ndarray:
    """Arrays of any shapes as one object array, also when all shapes are equal."""
    out = np.empty(len(images), dtype=object)
    out[:] = images
    return out

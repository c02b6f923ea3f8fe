"""Small real archives: pictures read, encoded, verified and committed by the stages, without Ray."""

from __future__ import annotations

import io
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.archive import Archive, create_or_open, plan
from pipeline.codecs import registry
from pipeline.codecs.base import SplitCodec
from pipeline.records import Rate
from pipeline.sources import open_source
from pipeline.stages.commit import commit
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Encode, Floor
from pipeline.stages.read import read_unit


def press(
    source: Path | str,
    archive_uri: Path | str,
    codec: str = "webp",
    quality: float | None = 60,
    floor: Floor = Floor(),  # noqa: B008  frozen
    retry: tuple[str, ...] = (),
) -> Archive:
    """Everything of a source into an archive, in this process."""
    opened, archive = open_source(str(source)), create_or_open(str(archive_uri))
    rate = None if quality is None or codec in ("original", "jxl-lossless") else Rate(quality=quality)
    first = registry.build(codec, rate)
    if isinstance(first, SplitCodec):
        archive.add_weights(*first.weights_bytes())  # type: ignore[attr-defined]
    chain = [first] if codec == "original" else [first, registry.build("original")]
    floors = {"psnr_db": floor.psnr_db, "ms_ssim": floor.ms_ssim}
    decode, spec = Decode(), {"codec": first.spec(), "floor": floors}
    encode = Encode(chain, floor, decode)
    run_id = f"run-{uuid.uuid4().hex[:8]}"
    with archive.run_lock(run_id, {}):
        archive.add_spec(spec)
        for unit in plan(archive, opened.list_items(), spec, retry, opened.items_are_shards):
            for chunk in read_unit(opened, unit):
                meta = unit.meta(chunk.number, chunk.last, spec)
                commit(archive, meta, [encode(decode(image)) for image in chunk.images], run_id)
    return archive


def labelled_shards(folder: Path, photos: list[Path], shards: int = 4, each: int = 16, side: int = 64) -> Path:
    """Parquet shards of JPEGs cut from photos with a label: 1 where the picture got vertical stripes, else 0."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(7)
    sources = [np.asarray(Image.open(photo).convert("RGB")) for photo in photos[:4]]
    for shard in range(shards):
        rows = [_labelled(sources[n % len(sources)], n % 2, generator, side) for n in range(each)]
        names = [f"{shard}-{n:03}" for n in range(each)]
        table = pa.table({"id": names, "image": rows, "label": [n % 2 for n in range(each)]})
        pq.write_table(table, folder / f"shard-{shard}.parquet")
    return folder


def _labelled(photo: np.ndarray, label: int, generator: np.random.Generator, side: int) -> bytes:
    top, left = (int(generator.integers(0, limit - side)) for limit in photo.shape[:2])
    cut = photo[top : top + side, left : left + side].astype(np.float64)
    if label:
        cut += 60 * np.sign(np.sin(np.arange(side) * np.pi / 4))[None, :, None]
    out = io.BytesIO()
    Image.fromarray(np.clip(cut, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=92)
    return out.getvalue()

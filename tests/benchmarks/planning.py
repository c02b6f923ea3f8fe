"""What the driver pays before any work: listing a source, and planning against an archive that is large already.

    python -m tests.benchmarks.planning [--rows 1000000] [--objects 100000] [--out FILE.json]

The archive is made of metrics parts as a run leaves them, 64 rows each; the plan is asked once with nothing new
(a night without news) and once with a tenth of the images missing (a resumed run). The objects are small files in
one folder and the same files behind a real S3 server on loopback. Each measurement is a process of its own, and its
peak memory is that of the process (resident set, VmHWM of Linux or ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.archive import create_or_open, plan
from pipeline.archive.parts import CHUNK_IMAGES, PartMeta, PartRecord, metrics_uri
from pipeline.archive.schema import METRICS_SCHEMA
from pipeline.records import SourceItem, image_id_of
from tests.benchmarks.conditions import conditions, table
from tests.conftest import ACCESS_KEY, SECRET_KEY, rclone

SPEC = {"codec": {"name": "webp"}}
MISSING = 10  # a resumed run: one image of this many has no row yet


def items_of(images: int) -> list[SourceItem]:
    return [SourceItem(f"s3://photos/2026/{n // 1000:06d}/{n:09d}.jpg", f"{n:032x}", 300_000) for n in range(images)]


def make_archive(folder: Path, items: Sequence[SourceItem]) -> None:
    """Metrics parts of `items`, as a run leaves them."""
    archive = create_or_open(str(folder))
    (folder / "metrics").mkdir()
    for start in range(0, len(items), CHUNK_IMAGES):
        _write_part(archive.uri, items[start : start + CHUNK_IMAGES])


def _write_part(archive: str, items: Sequence[SourceItem]) -> None:
    meta, now = PartMeta.of(items, 0, True, SPEC), datetime.now(UTC)
    fixed = {"source_format": "JPEG", "source_bytes": 300_000, "width": 1920, "height": 1280, "status": "encoded"}
    fixed |= {"reason": None, "codec": "webp", "quality": 60.0, "payload_bytes": 100_000, "bpp": 0.3, "psnr_db": 35.0}
    fixed |= {"part": meta.part_id, "run_id": "run", "committed_at": now.replace(tzinfo=None)}
    rows = [
        fixed | {"image_id": image_id_of(item.uri), "source_uri": item.uri, "source_version": item.version}
        for item in items
    ]
    stamp = PartRecord(meta.part_id, "run", now.isoformat(), meta).to_metadata()
    written = pa.Table.from_pylist(rows, schema=METRICS_SCHEMA).replace_schema_metadata(stamp)
    pq.write_table(written, metrics_uri(archive, meta.part_id), compression="zstd")


def measured_plan(folder: str, images: int, keep_every: int) -> dict[str, float]:
    """Planning of `images` items against the archive; with `keep_every` 0 all of them are in it."""
    items, archive = items_of(images), create_or_open(folder)
    if keep_every:
        items += [SourceItem(f"{item.uri}.new", item.version, item.size_bytes) for item in items[::keep_every]]
    return _timed(lambda: sum(len(unit.items) for unit in plan(archive, items, SPEC)))


def measured_listing(uri: str) -> dict[str, float]:
    return _timed(lambda: len(storage.list_files(uri, {".jpg"})))


def _timed(work: Callable[[], int]) -> dict[str, float]:
    before_mib, started = _peak_mib(), time.perf_counter()
    found = work()
    elapsed_s = round(time.perf_counter() - started, 2)
    return {"found": found, "elapsed_s": elapsed_s, "before_mib": before_mib, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    """Of this program: ru_maxrss begins with what the process held that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(kib) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _apart(name: str, *arguments: object, **environment: str) -> dict[str, float]:
    """`name(*arguments)` of this module in a process of its own."""
    code = f"import json, sys; from tests.benchmarks import planning as p; print(json.dumps(p.{name}(*{arguments!r})))"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout))


def measure(rows: int, objects: int, folder: Path) -> dict[str, dict[str, float]]:
    """Every measurement by its name."""
    archive, files = folder / "archive", folder / "buckets" / "photos"
    make_archive(archive, items_of(rows))
    files.mkdir(parents=True)
    for n in range(objects):
        (files / f"{n:09d}.jpg").touch()
    found = {
        "plan, nothing new": _apart("measured_plan", str(archive), rows, 0),
        "plan, a tenth missing": _apart("measured_plan", str(archive), rows, MISSING),
        "list a folder": _apart("measured_listing", str(files)),
    }
    with rclone(files.parent) as server:
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        found["list a bucket"] = _apart("measured_listing", "s3://photos/", AWS_ENDPOINT_URL=server.endpoint, **keys)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="images of the archive")
    parser.add_argument("--objects", type=int, default=100_000, help="files of the source")
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON as well")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.rows, arguments.objects, Path(folder))
    made = f"{arguments.rows} made-up rows, {arguments.objects} empty files"
    stated = conditions("tests.benchmarks.planning", argv or sys.argv[1:], "1", made)
    print(f"{table([{'what': name} | values for name, values in found.items()])}\n\n{stated}")
    if arguments.out:
        arguments.out.write_text(json.dumps({"rows": arguments.rows, "objects": arguments.objects} | found, indent=1))


if __name__ == "__main__":
    main()

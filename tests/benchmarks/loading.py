"""Pictures per second into a training loop: an archive against JPEG in tar shards, same pictures, same machine.

    python -m tests.benchmarks.loading [--pictures 256] [--side 256] [--workers 2] [--device cpu]

JPEGs are read as WebDataset reads them: members of tar shards in order, decoded by Pillow; by the package webdataset
itself, too, where it is installed (no part of this project needs it). Archives hold the same JPEGs recompressed. Each
row is one epoch through a DataLoader after a warm-up; disk and page cache are warm for all.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipeline.data import ArchiveStream, BatchDecoder
from tests.benchmarks.conditions import PHOTOS, conditions, data_set, images_in, table, usable_cpus
from tests.data_tools import made

_PER_SHARD, _BATCH = 32, 32


class TarStream(IterableDataset[torch.Tensor]):
    """JPEG members of tar shards as (3, H, W) uint8 tensors; shards are dealt to workers."""

    def __init__(self, folder: Path) -> None:
        self._shards = sorted(folder.glob("*.tar"))

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info is not None else (0, 1)
        for shard in self._shards[first::step]:
            with tarfile.open(shard) as members:
                for member in members:
                    data = members.extractfile(member)
                    if data is not None:
                        yield pixels_of(Image.open(data))


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())


def webdataset_stream(folder: Path) -> Any:
    """The same tensors by the package webdataset; None where it is not installed."""
    try:
        import webdataset
    except ImportError:
        return None
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    return webdataset.WebDataset(shards, shardshuffle=False).decode("pil").map(lambda sample: pixels_of(sample["jpg"]))


def write_shards(folder: Path, pictures: int, side: int) -> Path:
    """Tar shards of JPEGs (quality 92) cut from the sample photos."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    photos = [np.asarray(Image.open(photo).convert("RGB")) for photo in images_in(PHOTOS)]
    for start in range(0, pictures, _PER_SHARD):
        with tarfile.open(folder / f"{start:06}.tar", "w") as shard:
            for number in range(start, min(start + _PER_SHARD, pictures)):
                photo = photos[number % len(photos)]
                top, left = (int(generator.integers(0, size - side + 1)) for size in photo.shape[:2])
                out = io.BytesIO()
                Image.fromarray(photo[top : top + side, left : left + side]).save(out, "JPEG", quality=92)
                member = tarfile.TarInfo(f"{number:06}.jpg")
                member.size = len(out.getvalue())
                shard.addfile(member, io.BytesIO(out.getvalue()))
    return folder


@dataclass(frozen=True)
class Way:
    """One way to load: what it is, what it stores, and what an epoch took."""

    source: str
    bytes_per_picture: float
    pictures_per_s: float
    cpu_ms: float  # of a picture, in all processes: what other programs on the machine change least


def timed(epoch: Callable[[], Iterable[Any]], pictures: int) -> tuple[float, float]:
    """(pictures per second, CPU ms per picture) of one epoch, after one that is not counted."""
    for _ in epoch():
        pass
    started, cpu_s = time.perf_counter(), _cpu_s()
    seen = sum(len(batch) for batch in epoch())
    elapsed_s, cpu_s = time.perf_counter() - started, _cpu_s() - cpu_s
    if seen != pictures:
        raise SystemExit(f"an epoch gave {seen} pictures, expected {pictures}")
    return seen / elapsed_s, 1e3 * cpu_s / seen


def _cpu_s() -> float:
    """Of this process and of workers that have ended, as those of a DataLoader have after each epoch."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(folder: Path, pictures: int, side: int, workers: int, device: str) -> list[Way]:
    """Each way over the same pictures, JPEG in tars first."""
    tars = write_shards(folder / "tars", pictures, side)

    def loaded(source: Any) -> DataLoader[Any]:
        return DataLoader(source, batch_size=_BATCH, num_workers=workers, collate_fn=list)

    jpeg_bytes = sum(path.stat().st_size for path in tars.glob("*.tar")) / pictures
    ways = [Way("JPEG in tars", jpeg_bytes, *timed(lambda: loaded(TarStream(tars)), pictures))]
    if (theirs := webdataset_stream(tars)) is not None:
        ways.append(Way("JPEG in tars, package webdataset", jpeg_bytes, *timed(lambda: loaded(theirs), pictures)))
    uri, stored = "", 0.0
    for codec in ("jxl-lossless", "webp", "cnn"):
        uri = made.press(tars, folder / codec, codec, 60).uri
        stored = sum(path.stat().st_size for path in (folder / codec / "data").iterdir()) / pictures
        stream = ArchiveStream(uri)
        ways.append(Way(f"archive, {codec}", stored, *timed(lambda stream=stream: loaded(stream), pictures)))  # type: ignore[misc]
    decoder, coded = BatchDecoder(uri, device=device), ArchiveStream(uri, decode="symbols")
    took = timed(lambda: map(decoder, loaded(coded)), pictures)
    return [*ways, Way(f"archive, cnn, decoded in batches on {device}", stored, *took)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--side", type=int, default=256, help="px")
    parser.add_argument("--workers", type=int, default=usable_cpus())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.pictures, arguments.side, arguments.workers, arguments.device)
    jpeg = found[0]
    rows = [
        {
            "source": way.source,
            "bytes/picture": f"{way.bytes_per_picture:,.0f}",
            "pictures/s": f"{way.pictures_per_s:.0f}",
            "x JPEG": f"{way.pictures_per_s / jpeg.pictures_per_s:.2f}",
            "CPU ms/picture": f"{way.cpu_ms:.1f}",
            "x JPEG, CPU": f"{way.cpu_ms / jpeg.cpu_ms:.2f}",
        }
        for way in found
    ]
    threads = f"{arguments.workers} workers, {torch.get_num_threads()} torch threads in the main process"
    words = sys.argv[1:] if argv is None else argv
    print(f"{table(rows)}\n\n{conditions('tests.benchmarks.loading', words, threads, data_set(images_in(PHOTOS)))}")


if __name__ == "__main__":
    main()

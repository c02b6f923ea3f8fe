"""Peak memory of a run and of everything it starts: 1x, 10x and 50x the sample photos, and one giant.

    python -m tests.benchmarks.memory [--codec cnn] [--times 1 10 50] [--giant-mpx 200] [key=value ...]

Settings are those of the job: `codec.effort=0` is faster and takes the same memory. The photos are repeated under new
names. Memory is the sum of proportional set sizes of the process tree, sampled once a second: pages that processes
share count once. The limit for one image is `limits.memory_mb` of the config.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.archive import Archive
from pipeline.config import RecompressLimits
from tests.benchmarks.conditions import PHOTOS, conditions, data_set, images_in, parser_of, table, usable_cpus
from tests.benchmarks.watch import watch


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = parser_of("tests.benchmarks.memory", __doc__)
    parser.add_argument("--codec", default="cnn")
    parser.add_argument("--times", type=int, nargs="*", default=[1, 10, 50])
    parser.add_argument("--giant-mpx", type=float, default=200.0)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(words)
    settings = [f"codec.name={options.codec}", "floor.psnr_db=0", *options.settings]
    photos, rows = images_in(PHOTOS), []
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        for times in options.times:
            source = repeated(photos, Path(folder) / f"{times}x", times)
            rows.append(run(f"{times}x", source, Path(folder) / f"archive-{times}x", options.codec, settings))
        if options.giant_mpx:
            source = giant(photos[0], Path(folder) / "giant", options.giant_mpx)
            name = f"one of {options.giant_mpx:g} MPix"
            rows.append(run(name, source, Path(folder) / "archive-giant", options.codec, settings))
    print(table(rows))
    print(f"\nlimits.memory_mb, for one image: {RecompressLimits().memory_mb}")
    print(f"\n{conditions('tests.benchmarks.memory', words, str(usable_cpus()), data_set(photos))}")
    return 0


def run(name: str, source: Path, archive: Path, codec: str, settings: Sequence[str]) -> dict[str, str]:
    """A row of the table: one `jobs.recompress` of `source`."""
    command = [sys.executable, "-m", "jobs.recompress", "--source", str(source), "--archive", str(archive), "--json"]
    watched = watch([*command, *settings])
    ended = Archive(str(archive)).metrics(["status", "codec", "width", "height"]).to_pylist()
    mpx = sum((row["width"] or 0) * (row["height"] or 0) for row in ended) / 1e6
    coded = sum(row["codec"] == codec for row in ended)
    print(f"{name}: {watched.peak_mib:.0f} MiB", file=sys.stderr)
    return {"run": name, "images": str(len(ended)), "MPix": f"{mpx:.0f}", f"coded by {codec}": str(coded)} | {
        "peak MiB": f"{watched.peak_mib:.0f}",
        "processes": str(watched.processes),
        "wall s": f"{watched.elapsed_s:.0f}",
    }


def repeated(photos: Sequence[Path], folder: Path, times: int) -> Path:
    folder.mkdir()
    for number in range(times):
        for photo in photos:
            shutil.copyfile(photo, folder / f"{number:04}-{photo.name}")
    return folder


def giant(photo: Path, folder: Path, mpx: float) -> Path:
    """One JPEG of `mpx` megapixels, tiled from a photo."""
    folder.mkdir()
    side = int((mpx * 1e6) ** 0.5)
    pixels = np.asarray(Image.open(photo).convert("RGB"))
    across, down = -(-side // pixels.shape[1]), -(-side // pixels.shape[0])
    Image.fromarray(np.tile(pixels, (down, across, 1))[:side, :side]).save(folder / "giant.jpg", quality=90)
    return folder


if __name__ == "__main__":
    raise SystemExit(main())

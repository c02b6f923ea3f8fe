"""How costs grow: many small images, and single images from small to large; each beside what straight growth would be.

    python -m tests.benchmarks.scaling [--counts 1000 10000 100000] [--mpx 1 4 16 64 200] [--plot scaling.svg]

Small images are crops of the sample photos in tar shards of a thousand, coded by a codec that costs next to nothing
(`--codec`), so that what is left is the pipeline. Each archive is recompressed again when it is finished: resume
with nothing to do. Large images are one JPEG each, tiled from a photo, coded by `cnn`. What a run costs before its
first image (`start-up`, one image) is taken off before costs are divided by images or pixels.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.archive import Archive
from tests.benchmarks.conditions import PHOTOS, conditions, data_set, images_in, parser_of, table, usable_cpus
from tests.benchmarks.memory import giant
from tests.benchmarks.plot import LogPanel, loglog_svg
from tests.benchmarks.watch import Watched, watch

SIDE_PX, PER_SHARD = 96, 1000


@dataclass(frozen=True)
class Grown:
    """A run of `size` images or MPix, and the run after it that found nothing to do."""

    size: float
    rows: int
    encoded: int
    run: Watched
    resumed: Watched


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(words)
    photos = images_in(PHOTOS)
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        folder = Path(name)
        small = [counted(photos, folder / f"n{count}", count, options.codec) for count in [1, *sorted(options.counts)]]
        large = [sized(photos[0], folder / f"m{mpx:g}", mpx) for mpx in [0.1, *sorted(options.mpx)]]
    print(report(small, large, options.codec))
    print(f"\n{conditions('tests.benchmarks.scaling', words, str(usable_cpus()), data_set(photos))}")
    if options.plot:
        options.plot.write_text(plotted(small, large, options.codec), encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("tests.benchmarks.scaling", __doc__)
    add = parser.add_argument
    add("--counts", type=int, nargs="*", default=[1000, 10_000, 100_000], help="images of a run")
    add("--mpx", type=float, nargs="*", default=[1, 4, 16, 64, 200], help="megapixels of a run's one image")
    add("--codec", default="webp", help="of the small images; cnn for a check of everything, if there is time")
    add("--plot", type=Path, default=None, help="both curves, as SVG")
    return parser


def counted(photos: Sequence[Path], folder: Path, count: int, codec: str) -> Grown:
    """A run over `count` crops of 96 px."""
    source = folder / "shards"
    source.mkdir(parents=True)
    crops = _crops(photos)
    for start in range(0, count, PER_SHARD):
        with tarfile.open(source / f"{start:08d}.tar", "w") as shard:
            for number in range(start, min(start + PER_SHARD, count)):
                member = tarfile.TarInfo(f"{number:08d}.jpg")
                data = next(crops)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    return _grown(float(count), source, folder / "archive", f"codec.name={codec}")


def _crops(photos: Sequence[Path]) -> Iterator[bytes]:
    """JPEG crops, on and on, so many different ones that no cache of the machine makes them free."""
    made = []
    for path in photos:
        with Image.open(path) as photo:
            for left in range(0, photo.width - SIDE_PX, SIDE_PX):
                crop, data = photo.crop((left, SIDE_PX, left + SIDE_PX, 2 * SIDE_PX)), io.BytesIO()
                crop.save(data, "JPEG", quality=92)
                made.append(data.getvalue())
    while True:
        yield from made


def sized(photo: Path, folder: Path, mpx: float) -> Grown:
    """A run over one JPEG of `mpx` megapixels."""
    folder.mkdir()
    return _grown(mpx, giant(photo, folder / "source", mpx), folder / "archive", "codec.name=cnn")


def _grown(size: float, source: Path, archive: Path, codec: str) -> Grown:
    words = ["--source", str(source), "--archive", str(archive), "--json", codec, "floor.psnr_db=0", "fallback=[]"]
    run, resumed = (watch([sys.executable, "-m", "jobs.recompress", *words]) for _ in range(2))
    statuses = Archive(str(archive)).metrics(["status"])["status"].to_pylist()
    return Grown(size, len(statuses), statuses.count("encoded"), run, resumed)


def beyond(runs: Sequence[Grown]) -> Iterator[tuple[float, float, float]]:
    """(size, wall s, CPU s) of every run but the first one, less that first one."""
    first, *others = runs
    for one in others:
        yield one.size, one.run.elapsed_s - first.run.elapsed_s, one.run.cpu_s - first.run.cpu_s


def report(small: Sequence[Grown], large: Sequence[Grown], codec: str) -> str:
    """Markdown: a table for images, a table for pixels."""
    images = table(_rows(small, "image", "ms", 1e3))
    pixels = table(_rows(large, "MPix", "s", 1.0))
    return f"Images of {SIDE_PX} x {SIDE_PX} px, codec {codec}\n\n{images}\n\nOne image, codec cnn\n\n{pixels}"


def _rows(runs: Sequence[Grown], unit: str, time_unit: str, per_s: float) -> Iterator[dict[str, str]]:
    """Start-up first; costs of a further `unit` in `time_unit`, of which a second has `per_s`."""
    further = {size: [f"{per_s * cost / size:.2f}" for cost in costs] for size, *costs in beyond(runs)}
    for one in runs:
        wall, cpu = further.get(one.size, ["-", "-"])
        yield {
            f"{unit}s" if unit == "image" else unit: f"{one.size:,.10g}",
            "wall s": f"{one.run.elapsed_s:.1f}",
            "CPU s": f"{one.run.cpu_s:.1f}",
            f"wall {time_unit} per further {unit}": wall,
            f"CPU {time_unit} per further {unit}": cpu,
            "peak MiB": f"{one.run.peak_mib:.0f}",
            "again, nothing to do, s": f"{one.resumed.elapsed_s:.1f}",
            "encoded": f"{one.encoded:,} of {one.rows:,}",
        }


def plotted(small: Sequence[Grown], large: Sequence[Grown], codec: str) -> str:
    """Both growths beside straight lines; runs that cost no more than start-up, on a noisy machine, have no point."""
    up = "CPU s beyond start-up"
    curves = ([(size, cpu_s) for size, _, cpu_s in beyond(runs) if cpu_s > 0] for runs in (small, large))
    of_images, of_pixels = curves
    panels = [LogPanel(f"{codec}, {SIDE_PX} px", "images", up, of_images)]
    panels.append(LogPanel("cnn, one image", "MPix", up, of_pixels))
    return loglog_svg(panels)


if __name__ == "__main__":
    raise SystemExit(main())

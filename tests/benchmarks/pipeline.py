"""What the pipeline costs over a bare loop: speed, memory at 1x and 10x the photos, and start-up, as ratios.

    python -m tests.benchmarks.pipeline [--codec cnn|webp|...] [--photos 7] [--times 10]        (make bench)

The source is tar shards, each with the same sample photos under new names, so that all parts are equal: steady
state is what was committed after the first part, over the time from the first to the last commit. The bare loops
run before and after, and their mean counts, since machines drift.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.archive import Archive
from tests.benchmarks.conditions import PHOTOS, conditions, data_set, images_in, parser_of, table, usable_cpus
from tests.benchmarks.watch import Watched, watch


@dataclass(frozen=True)
class Job:
    """One way of coding; the same for pipeline and loop."""

    codec: str
    quality: float
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        return {"OMP_NUM_THREADS": str(self.threads)}


@dataclass(frozen=True)
class Run:
    """`steady_mpx_per_s` is 0 with fewer than two parts; `first_part_s` counts from the command.

    `cpu_s` is of the whole tree of a pipeline, and of the loop alone, without its start, for the bare loop.
    """

    name: str
    images: int
    mpx: float
    steady_mpx_per_s: float
    cpu_s: float
    watched: Watched
    encoded: int = 0
    first_part_s: float = 0.0

    @property
    def whole(self) -> float:
        """MPix/s from the command to its end."""
        return self.mpx / self.watched.elapsed_s

    def row(self) -> dict[str, str]:
        return {
            "run": self.name,
            "images": str(self.images),
            "MPix": f"{self.mpx:.1f}",
            "wall s": f"{self.watched.elapsed_s:.1f}",
            "MPix/s, whole run": f"{self.whole:.2f}",
            "MPix/s, steady": f"{self.steady_mpx_per_s:.2f}" if self.steady_mpx_per_s else "-",
            "CPU s": f"{self.cpu_s:.1f}",
            "peak MiB": f"{self.watched.peak_mib:.0f}",
            "processes": str(self.watched.processes),
        }


@dataclass(frozen=True)
class Runs:
    """Everything one benchmark measured; loops ran before and after the pipeline."""

    loops: tuple[Run, ...]
    checked: tuple[Run, ...]
    one_photo: Run
    small: Run
    large: Run

    @property
    def further_cpu(self) -> float:
        """CPU seconds per MPix beyond the small run: what remains when start-up is paid."""
        return (self.large.cpu_s - self.small.cpu_s) / (self.large.mpx - self.small.mpx)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(words)
    photos, job = _spread(images_in(PHOTOS), options.photos), Job(options.codec, options.quality, usable_cpus())
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        runs = _measured(Path(folder), photos, options.times, job)
    threads = f"{job.threads} of torch in the loop and in the pool's one actor"
    print(report(runs))
    print(f"\n{conditions('tests.benchmarks.pipeline', words, threads, data_set(photos))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("tests.benchmarks.pipeline", __doc__)
    add = parser.add_argument
    add("--codec", default="cnn", help="any codec that takes a quality")
    add("--quality", type=float, default=60.0)
    add("--photos", type=int, default=7, help="sample photos in a shard")
    add("--times", type=int, default=10, help="shards of the large run; the small one has one")
    return parser


def _spread(photos: Sequence[Path], count: int) -> list[Path]:
    """`count` of them, from all over the list."""
    return [photos[k * len(photos) // count] for k in range(min(count, len(photos)))]


def _measured(folder: Path, photos: Sequence[Path], times: int, job: Job) -> Runs:
    loop, checked = bare(photos, folder, job), bare(photos, folder, job, checked=True)
    one_photo = recompressed("recompress, one photo", shards(photos[:1], folder / "one", 1), folder / "a1", job)
    small = recompressed("recompress, 1x", shards(photos, folder / "small", 1), folder / "a2", job)
    large = recompressed(f"recompress, {times}x", shards(photos, folder / "large", times), folder / "a3", job)
    checked_again, loop_again = bare(photos, folder, job, checked=True), bare(photos, folder, job)
    return Runs((loop, loop_again), (checked, checked_again), one_photo, small, large)


def shards(photos: Sequence[Path], folder: Path, count: int) -> Path:
    """A folder of `count` tar shards, each with all photos under names of its own."""
    folder.mkdir()
    for number in range(count):
        with tarfile.open(folder / f"photos-{number:04d}.tar", "w") as shard:
            for path in photos:
                shard.add(path, f"{number:04d}-{path.name}")
    return folder


def bare(photos: Sequence[Path], folder: Path, job: Job, checked: bool = False) -> Run:
    """The loop over the photos, the first one twice, since it is not counted."""
    source = folder / "loop"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for number, path in enumerate([photos[0], *photos]):
        shutil.copyfile(path, source / f"{number:04d}-{path.name}")
    words = [str(source), "--codec", job.codec, "--quality", f"{job.quality:g}", *(["--checked"] if checked else [])]
    watched = watch([sys.executable, "-m", "tests.benchmarks.bare", *words], job.environment)
    found = json.loads(watched.stdout)
    name = "bare loop, checked" if checked else "bare loop"
    return Run(name, found["images"], found["mpx"], found["mpx"] / found["loop_s"], found["loop_cpu_s"], watched)


def recompressed(name: str, source: Path, archive: Path, job: Job) -> Run:
    """`jobs.recompress` of all shards in `source`; no floor and no fallback, so that it codes what the loop codes."""
    flags = ["--source", str(source), "--archive", str(archive), "--json", "resources.device=cpu"]
    settings = [f"codec.name={job.codec}", f"codec.quality={job.quality:g}", "floor.psnr_db=0", "fallback=[]"]
    watched = watch([sys.executable, "-m", "jobs.recompress", *flags, *settings])
    rows = Archive(str(archive)).metrics(["width", "height", "status", "committed_at"]).to_pylist()
    commits = sorted(row["committed_at"].timestamp() for row in rows)
    mpx = [row["width"] * row["height"] / 1e6 for row in rows]
    later = sum(size for row, size in zip(rows, mpx, strict=True) if row["committed_at"].timestamp() > commits[0])
    steady = later / (commits[-1] - commits[0]) if later else 0.0
    encoded = sum(row["status"] == "encoded" for row in rows)
    return Run(name, len(rows), sum(mpx), steady, watched.cpu_s, watched, encoded, commits[0] - watched.started_at)


def report(runs: Runs) -> str:
    one_photo, small, large = runs.one_photo, runs.small, runs.large
    size = large.name.rpartition(" ")[2]
    ratios = {
        "steady MPix/s against the bare loop": f"{large.steady_mpx_per_s / _steady(runs.loops):.2f}",
        "steady MPix/s against the loop that checks, too": f"{large.steady_mpx_per_s / _steady(runs.checked):.2f}",
        f"whole run of {size}, start-up included, against the bare loop": f"{large.whole / _steady(runs.loops):.2f}",
        "CPU seconds per further MPix against the bare loop": f"{runs.further_cpu / _cpu(runs.loops):.2f}",
        "CPU seconds per further MPix against the loop that checks": f"{runs.further_cpu / _cpu(runs.checked):.2f}",
        f"peak memory of {size} against 1x": f"{large.watched.peak_mib / small.watched.peak_mib:.2f}",
        "start-up, command to the first committed part of one photo": f"{one_photo.first_part_s:.1f} s",
        "end, last commit to exit, one photo": f"{one_photo.watched.elapsed_s - one_photo.first_part_s:.1f} s",
        f"photos that ended as encoded, {size}": f"{large.encoded} of {large.images}",
    }
    rows = [*runs.loops, *runs.checked, one_photo, small, large]
    figures = table({"ratio": name, "value": value} for name, value in ratios.items())
    return f"{table(run.row() for run in rows)}\n\n{figures}"


def _steady(loops: Sequence[Run]) -> float:
    return sum(run.steady_mpx_per_s for run in loops) / len(loops)


def _cpu(loops: Sequence[Run]) -> float:
    """CPU seconds per MPix."""
    return sum(run.cpu_s for run in loops) / sum(run.mpx for run in loops)


if __name__ == "__main__":
    raise SystemExit(main())

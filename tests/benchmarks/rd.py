"""How small at which quality, and how fast: RD curves, BD-rates and speeds of all codecs on one set of pictures.

    python -m tests.benchmarks.rd [--images FOLDER] [--codecs cnn,jpeg,webp,avif,jxl] [--effort 0,1] [--workers 2]
                                  [--published FILE] [--out results.json] [--plot rd.svg]

Without --images it takes the photos in tests/data/photos, which are JPEG files already: for figures to quote, give
it lossless pictures. Speeds are measured last, by one process, at the quality nearest to --speed-psnr-db.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.benchmarks import conditions
from tests.benchmarks.points import QUALITIES, Row, Setting, curves, measure_all, published, settings_of
from tests.benchmarks.rd_report import Result
from tests.benchmarks.speed import at_equal_psnr, speeds


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(words)
    # OpenMP reads it once, when torch is imported, here or in a worker.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    images = conditions.images_in(options.images, options.limit)
    result = _measured(images, options, _conditions(words, options, images))
    print(result.text())
    if options.out:
        options.out.write_text(result.json(), encoding="utf-8")
    if options.plot:
        options.plot.write_text(result.svg(), encoding="utf-8")
    return 0


def _measured(images: Sequence[Path], options: argparse.Namespace, where: conditions.Conditions) -> Result:
    settings = [
        setting
        for codec in options.codecs
        for setting in settings_of(codec, options.effort, options.qualities, options.device, options.tune)
    ]
    rows = _rows(images, settings, options.workers)
    found = curves(rows)
    chosen = at_equal_psnr(settings, found, options.speed_psnr_db)
    timed = speeds(chosen, images[: options.speed_images], options.rounds)
    return Result(where, found | dict(published(path) for path in options.published), timed, rows)


def _rows(images: Sequence[Path], settings: Sequence[Setting], workers: int) -> list[Row]:
    started, rows = time.monotonic(), list[Row]()
    for number, of_image in enumerate(measure_all(images, settings, workers), 1):
        rows += of_image
        print(f"{number} of {len(images)} images, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def _conditions(words: Sequence[str], options: argparse.Namespace, images: Sequence[Path]) -> conditions.Conditions:
    threads = (
        f"{options.threads} per codec, {options.workers} workers for RD points; speeds: one process, "
        f"first {min(options.speed_images, len(images))} images, in turns, best of {options.rounds} rounds"
    )
    found = conditions.conditions("tests.benchmarks.rd", words, threads, conditions.data_set(images))
    return replace(found, hardware=f"{found.hardware}; cnn on {options.device}{conditions.gpu(options.device)}")


def _parser() -> argparse.ArgumentParser:
    parser = conditions.parser_of("tests.benchmarks.rd", __doc__)
    add = parser.add_argument
    add("--images", type=Path, default=conditions.PHOTOS, help="folder of pictures, lossless ones for fair results")
    add("--limit", type=int, default=None, help="only the first so many pictures")
    add("--codecs", type=_codecs, default=list(QUALITIES), help=f"some of {','.join(QUALITIES)}")
    add("--effort", type=_integers, default=[1], help="efforts of cnn, one curve each: 0,1")
    add("--tune", type=lambda text: text.split(","), default=["psnr"], help="of cnn, a curve each: psnr,ms-ssim")
    add("--qualities", type=int, default=None, help="at most so many settings a codec, at least 4 for a BD-rate")
    add("--workers", type=int, default=1, help="processes for the RD points; speeds are measured by one")
    add("--device", default="cpu", help="that cnn runs on: cpu, cuda, cuda:1")
    add("--threads", type=int, default=1, help="of torch, in each process")
    add("--rounds", type=int, default=3, help="how often each speed is measured; the best counts")
    add("--speed-images", type=int, default=6, help="speeds are measured on the first so many pictures")
    add("--speed-psnr-db", type=float, default=34.0, help="at the quality whose mean PSNR is nearest")
    add("--published", type=Path, action="append", default=[], help="a curve that others measured, as JSON")
    add("--out", type=Path, default=None, help="everything, as JSON")
    add("--plot", type=Path, default=None, help="RD plot, as SVG")
    return parser


def _codecs(text: str) -> list[str]:
    names, known = text.split(","), ",".join(QUALITIES)
    if unknown := [name for name in names if name not in QUALITIES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not known here; expected some of {known}")
    return names


def _integers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(main())

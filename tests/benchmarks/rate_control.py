"""How closely the learned codec meets a target, and in how many passes through its networks.

    python -m tests.benchmarks.rate_control [--images FOLDER] [--limit N] [--effort 1]

What was reached is measured on the payload: weighed, or decoded and compared with the picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.errors import CodecError
from pipeline.metrics.distortion import ms_ssim, mse, psnr_db
from pipeline.nn import integer
from pipeline.records import Picture, Rate
from tests.benchmarks import conditions

TARGETS = {"psnr_db": (30.0, 34.0, 38.0), "ms_ssim": (0.95, 0.98, 0.99), "bpp": (0.3, 0.8, 1.6)}
TOLERANCE = {"psnr_db": 0.05, "ms_ssim": 0.001, "bpp": 0.02}
"""dB, MS-SSIM, and a share of the target."""


class Hit(NamedTuple):
    """One picture at one target: how far off, in the units of TOLERANCE (None: out of reach), after how many passes."""

    miss: float | None
    passes: int


def hit(codec: Hyperprior, kind: str, target: float, rgb: np.ndarray) -> Hit:
    """What the codec makes of one target on one picture, (H, W, 3) uint8."""
    at = codec.at(Rate(**{kind: target}))
    with counted(at) as passes:
        try:
            payload = at.encode(Picture(rgb)).payload
        except CodecError:
            return Hit(None, len(passes))
    if kind == "bpp":
        miss = 8 * len(payload) / (rgb.size / 3) / target - 1
        at_the_end = miss < -TOLERANCE["bpp"] and max(passes) == integer.QUALITY_UNITS
        return Hit(None if at_the_end else miss, len(passes))
    decoded = at.decode(payload)
    return Hit((ms_ssim(rgb, decoded) if kind == "ms_ssim" else psnr_db(mse(rgb, decoded))) - target, len(passes))


@contextmanager
def counted(codec: Hyperprior) -> Iterator[list[int]]:
    """Notes the quality of every analysis while it lasts."""
    analyse, seen = codec.networks.analyse, list[int]()

    def noted(rgb: np.ndarray, quality_centi: int, *others: Any) -> object:
        seen.append(quality_centi)
        return analyse(rgb, quality_centi, *others)

    codec.networks.analyse = noted  # type: ignore[method-assign, assignment]
    try:
        yield seen
    finally:
        del codec.networks.analyse


def row(kind: str, target: float, hits: Sequence[Hit]) -> dict[str, object]:
    """A line of the table."""
    misses = [one.miss for one in hits if one.miss is not None]
    passes = [one.passes for one in hits]
    return {
        "target": f"{kind} {target:g}",
        "out of reach": len(hits) - len(misses),
        "within tolerance": f"{sum(abs(m) <= TOLERANCE[kind] for m in misses)} of {len(misses)}",
        "tolerance": f"{TOLERANCE[kind]:g}" if kind != "bpp" else f"{TOLERANCE[kind]:.0%}",
        "worst": f"{max(misses, key=abs, default=0.0):+.4f}",
        "passes, mean": f"{np.mean(passes):.1f}",
        "most": max(passes),
    }


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rate_control", description=__doc__)
    parser.add_argument("--images", type=Path, default=conditions.PHOTOS)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--effort", type=int, default=1)
    options = parser.parse_args(words)
    images = conditions.images_in(options.images, options.limit)
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in images]
    codec = Hyperprior(effort=options.effort)
    rows = [
        row(kind, target, [hit(codec, kind, target, rgb) for rgb in pictures])
        for kind, targets in TARGETS.items()
        for target in targets
    ]
    print(conditions.table(rows))
    print(f"\n{conditions.conditions('tests.benchmarks.rate_control', words, 'any', conditions.data_set(images))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

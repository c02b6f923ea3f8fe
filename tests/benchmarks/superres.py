"""Super-resolution by the protocol of the literature: PSNR and SSIM of Y against bicubic, Lanczos, published figures.

    python -m tests.benchmarks.superres [--images FOLDER] [--scale 2] [--models ID,FILE] [--reduced 0,5,10,20,30]

Pictures are cropped to multiples of the scale, reduced by MATLAB's bicubic to 8 bits, enlarged, and compared on Y with
`scale` pixels cropped on each side. Folders named Set5, Set14 or B100 are checked: bicubic must come out within 0.1 dB
of what papers say, or nothing else means anything. `--reduced` adds reduced-resolution coding: rate and RGB PSNR of
the codec at full size and at half size, restored, at these qualities, and what `codec.reduced=auto` makes of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.imaging.resize import KERNELS, resized
from pipeline.metrics.luma import psnr_and_ssim
from tests.benchmarks import conditions, superres_reduced

TOLERANCE_DB = 0.1
Method = Callable[[np.ndarray, int, int], np.ndarray]


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(words)
    import torch

    torch.set_num_threads(options.threads)
    images = conditions.images_in(options.images, options.limit)
    print(f"## {options.scale}x on {conditions.data_set(images)}\n")
    rows = rows_of(images, options.scale, options.models)
    print(conditions.table(rows))
    published = figures()
    complaint = protocol_complaint(options.images.name, options.scale, rows, published)
    if complaint is None:
        print(f"\n## Published, 2x ({published['source']})\n\n{conditions.table(anchor_rows(published))}")
        if options.reduced:
            print(f"\n## Reduced-resolution coding\n\n{superres_reduced.text(images, options.reduced, options.effort)}")
        threads = f"{options.threads}, one process"
        found = conditions.conditions("tests.benchmarks.superres", words, threads, conditions.data_set(images))
        print(f"\n{found}")
        return 0
    print(complaint, file=sys.stderr)
    return 1


def rows_of(images: Sequence[Path], scale: int, models: Sequence[str]) -> list[dict[str, Any]]:
    """One row a method: means of PSNR and SSIM over the images, what that is above bicubic, and output MPix/s."""
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in methods(scale, models)}
    seconds, mpx = dict.fromkeys(scores, 0.0), 0.0
    for path in images:
        true = cropped(np.asarray(Image.open(path).convert("RGB")), scale)
        low = resized(true, true.shape[0] // scale, true.shape[1] // scale)
        mpx += true.shape[0] * true.shape[1] / 1e6
        for name, method in methods(scale, models).items():
            started = time.process_time()
            larger = method(low, *true.shape[:2])
            seconds[name] += time.process_time() - started
            scores[name].append(psnr_and_ssim(true, larger, scale))
    means = {name: np.mean(found, axis=0) for name, found in scores.items()}
    least = {
        name: min(a[0] - b[0] for a, b in zip(found, scores["bicubic"], strict=True)) for name, found in scores.items()
    }
    return [
        {
            "method": name,
            "PSNR Y, dB": f"{psnr:.2f}",
            "SSIM Y": f"{ssim:.4f}",
            "over bicubic": f"{psnr - means['bicubic'][0]:+.2f}",
            "least of all": f"{least[name]:+.2f}",
            "MPix/s of CPU": f"{mpx / max(seconds[name], 1e-9):.2f}",
        }
        for name, (psnr, ssim) in means.items()
    ]


def methods(scale: int, models: Sequence[str]) -> dict[str, Method]:
    from pipeline.codecs.learned import superres

    found: dict[str, Method] = {name: _plain(name) for name in KERNELS}
    chosen = list(models) or [superres.require_scale(scale)]
    for model in chosen:
        model_id = superres.open_model(model)
        found[f"restore ({model_id})"] = _learned(model_id)
        superres.enlarger(model_id, "cpu")  # built before anything is timed
    return found


def _plain(kernel: str) -> Method:
    return lambda low, height, width: resized(low, height, width, kernel)


def _learned(model_id: str) -> Method:
    from pipeline.codecs.learned import superres

    return lambda low, height, width: superres.enlarger(model_id, "cpu")(low, superres.CLEAN)


def cropped(rgb: np.ndarray, scale: int) -> np.ndarray:
    """The picture without the rows and columns that `scale` does not divide."""
    return rgb[: rgb.shape[0] // scale * scale, : rgb.shape[1] // scale * scale]


def figures() -> dict[str, Any]:
    """Published figures, x2: method -> set -> [PSNR, SSIM]."""
    text = (resources.files("tests.benchmarks") / "published" / "superres.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def anchor_rows(published: dict[str, Any]) -> list[dict[str, str]]:
    methods = published["x2"]
    return [
        {"method": name}
        | {which: f"{psnr:.2f} / {ssim:.4f}" for which, (psnr, ssim) in of.items()}
        | {"over bicubic on B100": f"{of['B100'][0] - methods['bicubic']['B100'][0]:+.2f}"}
        for name, of in methods.items()
    ]


def protocol_complaint(
    folder: str, scale: int, rows: Sequence[dict[str, Any]], published: dict[str, Any]
) -> str | None:
    """What is wrong with bicubic on a set that papers report, if it is one."""
    known = (
        {name.lower(): values[0] for name, values in published[f"x{scale}"]["bicubic"].items()} if scale == 2 else {}
    )
    expected = known.get(folder.lower())
    found = float(next(row["PSNR Y, dB"] for row in rows if row["method"] == "bicubic"))
    if expected is None or abs(found - expected) <= TOLERANCE_DB:
        return None
    return (
        f"{folder}: bicubic gives {found:.2f} dB, papers say {expected:.2f}; is this the set they mean, uncompressed?"
    )


def _parser() -> argparse.ArgumentParser:
    parser = conditions.parser_of("tests.benchmarks.superres", __doc__)
    add = parser.add_argument
    add("--images", type=Path, default=conditions.PHOTOS, help="folder of pictures, lossless ones for figures to quote")
    add("--limit", type=int, default=None, help="only the first so many pictures")
    add("--scale", type=int, default=2)
    add("--models", type=lambda text: text.split(","), default=[], help="ids or files of super-resolvers, by commas")
    add("--reduced", type=lambda text: [float(word) for word in text.split(",")], default=[], help="qualities of cnn")
    add("--effort", type=int, default=1, help="of cnn, with --reduced")
    add("--threads", type=int, default=1, help="of torch")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

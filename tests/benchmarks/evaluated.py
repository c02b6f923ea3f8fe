"""The results of an evaluation as a Markdown file to keep: what its page says, point by point, and how it was made.

python -m jobs.evaluate --config configs/evaluate/kodak.yaml source.uri=FOLDER
python -m tests.benchmarks.evaluated results/kodak > tests/benchmarks/results/2026-01-31-kodak.md
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.report import words
from pipeline.report.measured import Curve, means
from pipeline.report.options import PageOptions
from pipeline.report.study import Study
from tests.benchmarks.conditions import table

_PATH = re.compile(r"(?<![\w.])/[^\s'\"]+")


def document(uri: str, title: str, options: PageOptions) -> str:
    """Raises what a page of these results raises."""
    study = Study(storage.absolute(uri), options)
    models = sorted({curve.model_id for curve in study.curves if curve.model_id})
    named = f" Learned codecs: model {', '.join(models)}." if models else ""
    parts = [
        f"# {title}",
        f"{int(study.found.complete.sum())} images, averages of bpp, of RGB PSNR, of MS-SSIM; BD-rate against "
        f"{study.anchor.name} in percent with 95 % bootstrap intervals over images; negative is smaller.{named}",
        table([_curve_row(study, curve) for curve in study.curves]),
        table([row for curve in study.curves for row in _points(study, curve)]),
        "\n".join(f"- {name}: {value}" for name, value in _conditions(study.records)),
    ]
    return "\n\n".join(parts) + "\n"


def _curve_row(study: Study, curve: Curve) -> dict[str, str]:
    at = study.at[curve.name]
    rate = "anchor" if curve is study.anchor else words.DASH
    rate = words.interval(study.rates[curve.name]) if curve.name in study.rates else rate
    return {
        "codec": curve.name,
        "BD-rate": rate,
        f"saved at {study.psnr_db:g} dB": words.percent(at.saved_pct),
        "images kept": str(at.kept),
    }


def _points(study: Study, curve: Curve) -> list[dict[str, str]]:
    images, rows = study.found.complete, []
    before = study.found.right_before[images]
    for at, mean in enumerate(means(curve, images)):
        row = {"setting": curve.label(at), "bpp": f"{mean['bpp']:.4f}", "PSNR, dB": words.number(mean["psnr_db"])}
        row["MS-SSIM"] = f"{mean['ms_ssim']:.5f}"
        row["encode MP/s"], row["decode MP/s"] = (
            words.number(_mpx_per_s(study, times[images, at])) for times in (curve.encode_ms, curve.decode_ms)
        )
        if study.asked:
            row["same class"] = _share(curve.same[images, at])
            row["right class"] = _share(curve.right[images, at]) + f" (sources {_share(before)})"
        rows.append(row)
    return rows


def _mpx_per_s(study: Study, milliseconds: np.ndarray) -> float:
    return float(study.found.pixels[study.found.complete].sum() / 1e3 / milliseconds.sum())


def _share(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return words.percent(100 * float(known.mean())) if len(known) else words.DASH


def _conditions(records: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Of the last run that measured something; folders are named by their last part only."""
    made = [record for record in records if (record.get("counters") or {}).get("rows")]
    if not made:
        return []
    last, counted = made[-1], made[-1]["counters"]
    machine = ", ".join(f"{name} {value}" for name, value in (counted.get("machine") or {}).items())
    return [
        ("command", _PATH.sub(lambda found: PurePath(found[0]).name, str(counted.get("command", "")))),
        ("commit", str(counted.get("commit", "unknown"))),
        ("hardware", machine),
        ("threads", f"{counted.get('threads', 1)} for learned codecs, 1 for the others"),
        ("versions", ", ".join(f"{name} {version}" for name, version in (last.get("versions") or {}).items())),
        ("measurements", f"{sum(record['counters']['rows'] for record in made):,} in {len(made)} runs"),
        ("date", f"{str(last.get('started_at', ''))[:16].replace('T', ' ')} UTC"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="folder or prefix that jobs.evaluate wrote")
    parser.add_argument("--title", default="Codecs compared")
    parser.add_argument("--anchor", help="BD-rates are against this curve; jpeg when unset")
    arguments = parser.parse_args(argv)
    print(document(arguments.results, arguments.title, PageOptions(anchor=arguments.anchor)), end="")


if __name__ == "__main__":
    main()

"""A grid of trainings from one config: each combination in a folder of its own, one table of rate against work."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs import training
from pipeline.config import TrainConfig, load_tree
from pipeline.errors import MetricError
from pipeline.metrics.bd import RDCurve, bd_rate

REPORT = "sweep.md"


def sweep(settings: TrainConfig) -> str:
    """Trains what is not trained yet, writes OUT/sweep.md and OUT/sweep.json, and returns the table."""
    runs = [(chosen, settled(settings, chosen)) for chosen in combinations(settings)]
    photos, held_out = training.photos_of(settings)
    rows = []
    for chosen, one in runs:
        trainer = training.fit(one, photos, held_out)
        path = training.export(one, trainer, photos)
        rows.append({"settings": chosen, "model": path.stem, **_measured(path)})
    out = Path(settings.out)
    (out / "sweep.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = table(rows)
    (out / REPORT).write_text(text + "\n")
    return text


def combinations(settings: TrainConfig) -> Iterator[dict[str, Any]]:
    """Every choice of one value for each key of the sweep, in the order they are written."""
    keys = list(settings.sweep)
    for values in itertools.product(*settings.sweep.values()):
        yield dict(zip(keys, values, strict=True))


def settled(settings: TrainConfig, chosen: dict[str, Any]) -> TrainConfig:
    """The config of one training: its choices made, its folder named after them. Raises ConfigError for a bad one."""
    words = [f"{key.rpartition('.')[2]}={value}" for key, value in chosen.items()]
    tree = settings.model_dump() | {"sweep": {}}
    overrides = {**chosen, "out": str(Path(settings.out) / ",".join(words).replace("/", "_"))}
    return load_tree(TrainConfig, tree, overrides, "sweep")


def _measured(path: Path) -> dict[str, Any]:
    from pipeline.codecs.learned import weights

    data = path.read_bytes()
    card = weights.meta_of(data)["card"]
    return {"bytes": len(data), "kmac_per_px": card["kmac_per_px"], "validation": card["validation"]}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: settings, work, size, the middle point, and BD-rate against the first row; gains of super-resolvers."""
    if "clean" in rows[0]["validation"]:
        return _gains(rows)
    lines = [
        "| settings | kMAC/px encoder | decoder | MB | validation loss | at quality 50 | BD-rate against first |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        work, (bpp, psnr_db) = row["kmac_per_px"], row["validation"]["bpp_psnr"][2]
        lines.append(
            f"| {_words(row)} | {work['encoder']:.1f} | {work['decoder']:.1f} | {row['bytes'] / 1e6:.1f} "
            f"| {row['validation']['loss']:.3f} | {bpp:.3f}, {psnr_db:.2f} dB | {_change(rows[0], row)} |"
        )
    return "\n".join(lines)


def _gains(rows: list[dict[str, Any]]) -> str:
    lines = ["| settings | kMAC/px | MB | PSNR Y | SSIM Y | over bicubic |", "|---|---|---|---|---|---|"]
    for row in rows:
        clean = row["validation"]["clean"]
        lines.append(
            f"| {_words(row)} | {row['kmac_per_px']['restore']:.1f} | {row['bytes'] / 1e6:.2f} "
            f"| {clean['psnr_db']:.2f} dB | {clean['ssim']:.4f} | {clean['gain_db']:+.2f} dB |"
        )
    return "\n".join(lines)


def _words(row: dict[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in row["settings"].items())


def _curve(row: dict[str, Any]) -> RDCurve:
    bpp, psnr_db = zip(*row["validation"]["bpp_psnr"], strict=True)
    return RDCurve(bpp, psnr_db)


def _change(anchor: dict[str, Any], row: dict[str, Any]) -> str:
    try:
        return f"{bd_rate(_curve(anchor), _curve(row)):+.1f} %"
    except MetricError:
        return "not defined"

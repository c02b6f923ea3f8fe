"""What a person sees at the end: a row per image while they are few, totals, and a last line that counts."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from pipeline.execution.recompression import Report
from pipeline.stages.commit import Tally

FEW_IMAGES = 50
_COLUMNS = ("image", "source", "payload", "saved", "PSNR", "MS-SSIM", "status")


def show(report: Report) -> None:
    """Prints the table of a run, with a row per image if they are few."""
    from rich.console import Console
    from rich.table import Table

    total = report.total
    if not total.images:
        return print(last_line(report))
    rows = report.rows() if total.images <= FEW_IMAGES else []
    lines = [_COLUMNS, *(_cells(row) for row in rows), _total_cells(total)]
    needed = [max(len(line[at]) for line in lines) for at in range(len(_COLUMNS))]
    gaps = 2 * (len(_COLUMNS) - 1)
    # A pipe has no width of its own, and a table cut at 80 columns would lose its numbers.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else max(80, sum(needed) + gaps))
    needed[0] = max(12, min(needed[0], console.width - sum(needed[1:]) - gaps))  # names give way, numbers do not
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column, width in zip(_COLUMNS, needed, strict=True):
        side: Any = "left" if column in ("image", "status") else "right"
        table.add_column(column, justify=side, no_wrap=True, overflow="ellipsis", width=width)
    for line in lines[1:-1]:
        table.add_row(*line)
    table.add_row(*lines[-1], style="bold")
    console.print(table)
    for row in rows:
        if row["reason"]:
            console.print(f"  {_short(row['source_uri'])}: {row['reason']}", markup=False, soft_wrap=True)
    console.print(last_line(report), markup=False, soft_wrap=True)


def last_line(report: Report) -> str:
    total, unchanged = report.total, ""
    if report.planned is not None and report.listed > report.planned:
        unchanged = f"; {report.listed - report.planned} were in the archive already"
    parts = f"{total.encoded} encoded, {total.kept_original} kept as original, {total.rejected} rejected"
    return f"{total.images} images: {parts}{unchanged}; {report.elapsed_s:.1f} s"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    payload, source = row["payload_bytes"], row["source_bytes"]
    saved = "" if payload is None or not source else f"{100 * (1 - payload / source):.1f} %"
    status = row["status"] if row["codec"] in (None, "original") else f"{row['status']} ({row['codec']})"
    name = _short(row["source_uri"])
    return name, _count(source), _count(payload), saved, _db(row["psnr_db"], row["mse"]), _ratio(row["ms_ssim"]), status


def _total_cells(total: Tally) -> tuple[str, ...]:
    psnr, ratio = _db(total.psnr_db, None), _ratio(total.ms_ssim)
    saved = f"{total.saved_pct:.1f} %"
    return f"total ({total.images})", _count(total.source_bytes), _count(total.payload_bytes), saved, psnr, ratio, ""


def _short(uri: str) -> str:
    name = uri.rstrip("/").rpartition("/")[2]
    return name if len(name) <= 48 else f"{name[:20]}...{name[-25:]}"


def _count(size: int | None) -> str:
    return "" if size is None else f"{size:,}"


def _db(value: float | None, mse: float | None) -> str:
    """The archive has NULL for the infinite PSNR of an exact picture, beside its mse of 0."""
    if mse == 0 or (value is not None and math.isinf(value)):
        return "exact"
    return "" if value is None else f"{value:.2f} dB"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

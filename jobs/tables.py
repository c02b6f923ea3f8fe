"""What a person sees at the end: a row per image while they are few, totals, and a last line that counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.stages.commit import Tally

FEW_IMAGES = 50
_COLUMNS = ("image", "source", "payload", "saved", "PSNR", "MS-SSIM", "status")


def show(rows: Sequence[Mapping[str, Any]], total: Tally, elapsed_s: float) -> None:
    """Prints the table of a run; `rows` are metrics rows, empty for a run over many images."""
    from rich.console import Console
    from rich.table import Table

    # A pipe has no width; a table cut at 80 columns would lose the file names.
    console = Console(highlight=False, soft_wrap=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("image", "status") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    table.add_row(*_total_cells(total), end_section=True, style="bold")
    console.print(table, crop=console.is_terminal, width=None if console.is_terminal else 200)
    for row in rows:
        if row["reason"]:
            console.print(f"  {_short(row['source_uri'])}: {row['reason']}", markup=False, soft_wrap=True)
    console.print(last_line(total, elapsed_s), markup=False, soft_wrap=True)


def last_line(total: Tally, elapsed_s: float) -> str:
    parts = f"{total.encoded} encoded, {total.kept_original} kept as original, {total.rejected} rejected"
    return f"{total.images} images: {parts}; {elapsed_s:.1f} s"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    payload, source = row["payload_bytes"], row["source_bytes"]
    saved = "" if payload is None or not source else f"{100 * (1 - payload / source):.1f} %"
    status = row["status"] if row["codec"] in (None, "original") else f"{row['status']} ({row['codec']})"
    name = _short(row["source_uri"])
    return name, _count(source), _count(payload), saved, _db(row["psnr_db"]), _ratio(row["ms_ssim"]), status


def _total_cells(total: Tally) -> tuple[str, ...]:
    psnr, ratio = _db(total.psnr_db), _ratio(total.ms_ssim)
    saved = f"{total.saved_pct:.1f} %"
    return f"total ({total.images})", _count(total.source_bytes), _count(total.payload_bytes), saved, psnr, ratio, ""


def _short(uri: str) -> str:
    name = uri.rstrip("/").rpartition("/")[2]
    return name if len(name) <= 48 else f"{name[:20]}...{name[-25:]}"


def _count(size: int | None) -> str:
    return "" if size is None else f"{size:,}"


def _db(value: float | None) -> str:
    if value is None:
        return ""
    return "exact" if math.isinf(value) else f"{value:.2f} dB"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

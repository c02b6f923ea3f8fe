"""How numbers are written in a page."""

from __future__ import annotations

import math

from pipeline.report.compare import Estimate

DASH = "–"


def number(value: float | None, digits: int = 2) -> str:
    """`value` rounded, "exact" for infinity (a PSNR), a dash for nothing."""
    if value is None or math.isnan(value):
        return DASH
    return "exact" if math.isinf(value) else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.{digits}f} %"


def interval(found: Estimate) -> str:
    """ "-31.2 % (-33.0 to -29.1)" """
    if found.low is None or found.high is None:
        return f"{found.value:+.1f} %"
    return f"{found.value:+.1f} % ({found.low:+.1f} to {found.high:+.1f})"


def share(found: Estimate) -> str:
    """A mean of zeros and ones: "65.0 % (55.0 to 74.0)" """
    span = "" if found.low is None or found.high is None else f" ({100 * found.low:.1f} to {100 * found.high:.1f})"
    return f"{100 * found.value:.1f} %{span}"


def unit_of(count: float) -> tuple[str, float]:
    """The unit of 1000, as storage is sold, that `count` bytes are told in, and its bytes."""
    units = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    return next(((unit, step) for unit, step in units if abs(count) >= step), ("B", 1.0))


def size(count: float) -> str:
    unit, step = unit_of(count)
    return f"{count / step:.2f} {unit}" if step > 1 else f"{count:.0f} B"


def money(amount: float, currency: str) -> str:
    digits = 2 if amount >= 1 or amount == 0 else 2 - math.floor(math.log10(abs(amount)))
    return f"{amount:,.{min(digits, 8)}f} {currency}".rstrip()


def short(uri: str, limit: int = 44) -> str:
    """The name at the end of a URI."""
    name = uri.rstrip("/").rpartition("/")[2]
    return name if len(name) <= limit else f"{name[: limit // 2 - 2]}...{name[-limit // 2 + 1 :]}"

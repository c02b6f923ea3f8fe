"""Drawings as text: axes, curves and boxes in SVG, coloured by classes so that the page decides light or dark.

Every mark of data carries `data-tip`, which the page's script shows on hover, touch and arrow keys; nothing here
needs the script to be seen. Curves differ in marker and dash as well as in colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 620, 400
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 54
MARKERS = ("circle", "square", "triangle", "diamond", "cross", "plus", "down")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 5", "12 4", "3 2 3 6")


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear or logarithmic scale from `low` to `high` onto pixels `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            steps = [m * 10.0**e for e in range(-4, 4) for m in (1, 2, 5)]
            return [step for step in steps if self.low <= step <= self.high]
        step = nice_step((self.high - self.low) / 6)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def nice_step(rough: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above twice `rough`."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough)


def padded(values: Sequence[float], share: float = 0.04) -> tuple[float, float]:
    """Ends of an axis that holds `values` with a little air."""
    low, high = min(values), max(values)
    air = (high - low) * share or abs(high) * share or 1.0
    return low - air, high + air


def text(x: float, y: float, words: str, anchor: str = "middle", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(words)}</text>'


def grid(x: Axis, y: Axis, x_title: str, y_title: str, number: Callable[[float], str] = "{:g}".format) -> str:
    """Grid lines, tick labels and axis titles."""
    parts = []
    for tick in y.ticks():
        at = y(tick)
        parts.append(f'<line class="grid" x1="{x.start:.1f}" x2="{x.stop:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(x.start - 7, at + 4, number(tick), "end"))
    for tick in x.ticks():
        at = x(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{y.start:.1f}" y2="{y.stop:.1f}"/>')
        parts.append(text(at, y.start + 18, number(tick)))
    parts.append(text((x.start + x.stop) / 2, y.start + 44, x_title, extra='class="title"'))
    middle = (y.start + y.stop) / 2
    parts.append(text(16, middle, y_title, extra=f'class="title" transform="rotate(-90 16 {middle:.1f})"'))
    return "".join(parts)


def marker(shape: str, x: float, y: float, size: float = 4.5) -> str:
    """One filled or stroked mark around (x, y)."""
    s = size
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s:.1f}"/>'
    outlines = {
        "square": [(-s, -s), (s, -s), (s, s), (-s, s)],
        "triangle": [(0, -s * 1.2), (s * 1.1, s), (-s * 1.1, s)],
        "down": [(0, s * 1.2), (s * 1.1, -s), (-s * 1.1, -s)],
        "diamond": [(0, -s * 1.3), (s * 1.3, 0), (0, s * 1.3), (-s * 1.3, 0)],
    }
    if shape in outlines:
        points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in outlines[shape])
        return f'<polygon points="{points}"/>'
    ends = [(-s, -s, s, s), (-s, s, s, -s)] if shape == "cross" else [(-s, 0, s, 0), (0, -s, 0, s)]
    lines = (f"M{x + a:.1f} {y + b:.1f}L{x + c:.1f} {y + d:.1f}" for a, b, c, d in ends)
    return f'<path class="open" d="{"".join(lines)}"/>'


def curve(style: int, name: str, points: Sequence[tuple[float, float, str]], kind: str = "") -> str:
    """A dashed line with markers through (x, y, tip); `style` picks colour, marker and dash."""
    if not points:
        return ""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dash = DASHES[style % len(DASHES)]
    parts = [f'<polyline points="{line}" stroke-dasharray="{dash}"/>']
    shape = MARKERS[style % len(MARKERS)]
    size = 3.0 if kind else 4.5
    for x, y, tip in points:
        parts.append(f'<g class="pt" data-x="{x:.1f}" data-y="{y:.1f}" data-tip="{escape(tip)}">')
        parts.append(marker(shape, x, y, size) + "</g>")
    return f'<g class="curve c{style % 7} {kind}" data-name="{escape(name)}">{"".join(parts)}</g>'


def legend_mark(style: int, kind: str = "") -> str:
    """A short piece of the curve for its legend entry."""
    dash = DASHES[style % len(DASHES)]
    line = f'<line x1="1" x2="35" y1="8" y2="8" stroke-dasharray="{dash}"/>'
    inside = line + marker(MARKERS[style % len(MARKERS)], 18, 8, 3.0 if kind else 4.5)
    return (
        f'<svg class="mark" width="36" height="16" aria-hidden="true"><g class="c{style % 7} {kind}">{inside}</g></svg>'
    )


def drawing(inside: str, label: str, height: float = HEIGHT) -> str:
    """The whole chart; focusable, so that arrow keys walk its points."""
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" tabindex="0" aria-label="{escape(label)}">'
        f"{inside}</svg>"
    )


def box(x: Axis, y: float, style: int, five: Sequence[float], tip: str, half: float = 10.0) -> str:
    """A horizontal box plot of (5 %, 25 %, 50 %, 75 %, 95 %) at height `y`."""
    p5, p25, p50, p75, p95 = (x(value) for value in five)
    width = max(p75 - p25, 1.0)
    return (
        f'<g class="pt box c{style % 7}" data-x="{p50:.1f}" data-y="{y:.1f}" data-tip="{escape(tip)}">'
        f'<line x1="{p5:.1f}" x2="{p95:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<line x1="{p5:.1f}" x2="{p5:.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}"/>'
        f'<line x1="{p95:.1f}" x2="{p95:.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}"/>'
        f'<rect x="{p25:.1f}" y="{y - half:.1f}" width="{width:.1f}" height="{2 * half:.1f}"/>'
        f'<line class="median" x1="{p50:.1f}" x2="{p50:.1f}" y1="{y - half:.1f}" y2="{y + half:.1f}"/></g>'
    )


def interval(x: Axis, y: float, style: int, value: float, span: Sequence[float], tip: str) -> str:
    """A mark at `value` on a line from one end of `span` to the other, at height `y`."""
    low, high = (x(end) for end in span)
    return (
        f'<g class="pt span c{style % 7}" data-x="{x(value):.1f}" data-y="{y:.1f}" data-tip="{escape(tip)}">'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<line x1="{low:.1f}" x2="{low:.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}"/>'
        f'<line x1="{high:.1f}" x2="{high:.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}"/>'
        f"{marker(MARKERS[style % len(MARKERS)], x(value), y, 6.0)}</g>"
    )


def bar(x: Axis, y: float, style: str, value: float, words: str, tip: str, half: float = 13.0) -> str:
    """A bar from the left end of the axis to `value` at height `y`, with `words` beside its end."""
    end = x(value)
    beside = text(end + 8, y + 4.5, words, "start", 'class="title"')
    return (
        f'<g class="pt bar {style}" data-x="{end:.1f}" data-y="{y:.1f}" data-tip="{escape(tip)}">'
        f'<rect x="{x.start:.1f}" y="{y - half:.1f}" width="{max(end - x.start, 1.0):.1f}" height="{2 * half:.1f}" '
        f'rx="3"/>{beside}</g>'
    )


def zero(x: Axis, bottom: float) -> str:
    return f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP}" y2="{bottom:.1f}"/>'


def level(x: Axis, y: Axis, value: float, words: str) -> str:
    """A horizontal line across the chart with words above its left end."""
    at = y(value)
    line = f'<line class="zero" x1="{x.start:.1f}" x2="{x.stop:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
    return line + text(x.start + 6, at - 5, words, "start")


def dot(x: float, y: float, style: int, tip: str) -> str:
    return (
        f'<g class="pt dot c{style % 7}" data-x="{x:.1f}" data-y="{y:.1f}" data-tip="{escape(tip)}">'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/></g>'
    )

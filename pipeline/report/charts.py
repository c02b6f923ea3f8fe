"""The charts of a page: rate against quality, per-image distributions, and what a classifier still sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.metrics.bd import ms_ssim_db
from pipeline.report import svg
from pipeline.report.compare import Estimate
from pipeline.report.published import Published

DOTS_UP_TO = 120
ROW_PX = 46
PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True, slots=True)
class Entry:
    """A legend entry: its mark (SVG), its words, and whether it is a published curve."""

    name: str
    mark: str
    title: str
    published: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, its legend, and its numbers as a table."""

    title: str
    note: str
    drawing: str
    legend: Sequence[Entry] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Line:
    """A measured curve for drawing: `points` are (bpp, value, label of the setting)."""

    name: str
    style: int
    points: Sequence[tuple[float, float, str]]


def rate_quality(
    title: str,
    note: str,
    y_title: str,
    lines: Sequence[Line],
    published: Sequence[tuple[Published, Sequence[float]]] = (),
    level: tuple[float, str] | None = None,
) -> Chart | None:
    """Quality over bits per pixel on a logarithmic axis; None when nothing can be drawn.

    `level` is a horizontal line: (value, words).
    """
    shown = [(line, [p for p in line.points if math.isfinite(p[1])]) for line in lines]
    measured = [point for _, points in shown for point in points]
    if not measured:
        return None
    low, high = min(p[0] for p in measured), max(p[0] for p in measured)
    x = svg.Axis(low / 1.12, high * 1.12, svg.LEFT, svg.WIDTH - svg.RIGHT, log=True)
    near = [(p, _within(p.bpp, values, x)) for p, values in published]
    heights = [p[1] for p in measured] + [value for _, points in near for _, value in points]
    heights += [] if level is None else [level[0]]
    y = svg.Axis(*svg.padded(heights), svg.HEIGHT - svg.BOTTOM, svg.TOP)
    marks = [
        svg.curve(at, p.name, [(x(b), y(v), _tip(p.title, b, v, y_title)) for b, v in points], "published")
        for at, (p, points) in enumerate(near)
    ]
    marks += [
        svg.curve(line.style, line.name, [(x(b), y(v), _tip(label, b, v, y_title)) for b, v, label in points])
        for line, points in shown
    ]
    legend = [Entry(line.name, svg.legend_mark(line.style), line.name) for line, points in shown if points]
    legend += [
        Entry(p.name, svg.legend_mark(at, "published"), p.title, True) for at, (p, points) in enumerate(near) if points
    ]
    rows = [[label, f"{b:.4f}", f"{v:.3f}"] for _, points in shown for b, v, label in points]
    inside = svg.grid(x, y, "bits per pixel", y_title) + ("" if level is None else svg.level(x, y, *level))
    inside += "".join(marks)
    return Chart(title, note, svg.drawing(inside, title), legend, ["setting", "bpp", y_title], rows)


def _within(bpp: Sequence[float], values: Sequence[float], x: svg.Axis) -> list[tuple[float, float]]:
    """Published points that lie where something was measured."""
    return [(b, v) for b, v in zip(bpp, values, strict=True) if x.low <= b <= x.high]


def _tip(label: str, bpp: float, value: float, y_title: str) -> str:
    name, _, unit = y_title.partition(", ")
    return f"{label}: {bpp:.3f} bpp, {name} {value:.2f} {unit}".rstrip()


def published_points(published: Sequence[Published], ms_ssim: bool) -> list[tuple[Published, Sequence[float]]]:
    """Curves with their values on the axis asked for; those without MS-SSIM are left out there."""
    if not ms_ssim:
        return [(p, p.psnr_db) for p in published]
    return [(p, [ms_ssim_db(value) for value in p.ms_ssim]) for p in published if p.ms_ssim is not None]


def distribution(
    title: str,
    note: str,
    x_title: str,
    groups: Sequence[tuple[str, int, np.ndarray, Sequence[str]]],
    number: Callable[[float], str],
) -> Chart | None:
    """A box plot per group, (name, style, values, names of the images), with single images as dots while few."""
    groups = [group for group in groups if np.isfinite(group[2]).any()]
    if not groups:
        return None
    everything = [float(value) for _, _, values, _ in groups for value in values[np.isfinite(values)]]
    frame = _Rows([name for name, _, _, _ in groups], everything, x_title)
    rows = []
    for at, (name, style, values, names) in enumerate(groups):
        five = [float(v) for v in np.percentile(values[np.isfinite(values)], PERCENTILES)]
        tip = f"{name}: median {number(five[2])}; middle half {number(five[1])} to {number(five[3])}"
        y = frame.middle(at)
        dots = _dots(frame.x, y, style, values, names, number) if len(values) <= DOTS_UP_TO else []
        frame.parts += [svg.box(frame.x, y, style, five, tip), *dots]
        rows.append([name, *(number(value) for value in five)])
    head = ["codec", *(f"{p} %" for p in PERCENTILES)]
    return Chart(title, note, frame.drawing(title), (), head, rows)


def intervals(
    title: str, note: str, x_title: str, found: Sequence[tuple[str, int, Estimate]], words: Callable[[Estimate], str]
) -> Chart | None:
    """A mark with its 95 % interval for each (name, style, estimate), and a line at zero."""
    if not found:
        return None
    spans = [
        (each.value if each.low is None else each.low, each.value if each.high is None else each.high)
        for _, _, each in found
    ]
    frame = _Rows([name for name, _, _ in found], [0.0, *(end for span in spans for end in span)], x_title)
    frame.parts.append(svg.zero(frame.x, frame.bottom))
    for at, ((name, style, each), span) in enumerate(zip(found, spans, strict=True)):
        frame.parts.append(svg.interval(frame.x, frame.middle(at), style, each.value, span, f"{name}: {words(each)}"))
    rows = [[name, words(each)] for name, _, each in found]
    return Chart(title, note, frame.drawing(title), (), ["codec", x_title], rows)


def bars(
    title: str, note: str, head: Sequence[str], found: Sequence[tuple[str, int | None, float, str]], beside: float = 90
) -> Chart:
    """A bar from zero for each (name, style or None for gray, value, words beside it); `head` names both columns.

    `beside` px on the right are left to the words.
    """
    frame = _Rows([name for name, _, _, _ in found], [value for _, _, value, _ in found], head[1], beside)
    for at, (name, style, value, words) in enumerate(found):
        look = "gray" if style is None else f"c{style % 7}"
        frame.parts.append(svg.bar(frame.x, frame.middle(at), look, value, words, f"{name}: {words}"))
    return Chart(title, note, frame.drawing(title), (), head, [[name, words] for name, _, _, words in found])


def speed_size(title: str, note: str, found: Sequence[tuple[str, int, float, float]]) -> Chart | None:
    """One mark for each (name, style, encoding MP/s, percent saved), speed on a logarithmic axis."""
    shown = [each for each in found if math.isfinite(each[2]) and each[2] > 0 and math.isfinite(each[3])]
    if not shown:
        return None
    speeds = [mpx_per_s for _, _, mpx_per_s, _ in shown]
    x = svg.Axis(min(speeds) / 1.6, max(speeds) * 1.6, svg.LEFT, svg.WIDTH - svg.RIGHT, log=True)
    y = svg.Axis(*svg.padded([saved for _, _, _, saved in shown], 0.1), svg.HEIGHT - svg.BOTTOM, svg.TOP)
    marks, rows = [], []
    for name, style, mpx_per_s, saved in shown:
        tip = f"{name}: {saved:.1f} % saved, {mpx_per_s:.2f} MP/s"
        marks.append(svg.curve(style, name, [(x(mpx_per_s), y(saved), tip)]))
        rows.append([name, f"{mpx_per_s:.2f}", f"{saved:.1f} %"])
    inside = svg.grid(x, y, "encoding, MP/s of one process", "saved, %") + "".join(marks)
    legend = [Entry(name, svg.legend_mark(style), name) for name, style, _, _ in shown]
    return Chart(title, note, svg.drawing(inside, title), legend, ["codec", "encode MP/s", "saved"], rows)


class _Rows:
    """The frame of a chart with one row per codec: names on the left, numbers along the bottom.

    With `beside` the axis begins at zero and ends that many px before the right edge.
    """

    def __init__(self, names: Sequence[str], values: Sequence[float], x_title: str, beside: float = 0) -> None:
        left = 24 + 12 * max(len(name) for name in names)  # as wide as on a phone
        low, high = (0.0, max(values) or 1.0) if beside else svg.padded(values)
        self.x = svg.Axis(low, high, min(left, 260), svg.WIDTH - svg.RIGHT - beside)
        self.bottom = svg.TOP + ROW_PX * len(names)
        self.parts = [_columns(self.x, self.bottom, x_title)]
        self.parts += [svg.text(self.x.start - 10, self.middle(at) + 4, name, "end") for at, name in enumerate(names)]

    def middle(self, at: int) -> float:
        return svg.TOP + ROW_PX * (at + 0.5)

    def drawing(self, label: str) -> str:
        return svg.drawing("".join(self.parts), label, self.bottom + svg.BOTTOM)


def _columns(x: svg.Axis, bottom: float, title: str) -> str:
    parts = []
    for tick in x.ticks():
        at = x(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{svg.TOP}" y2="{bottom:.1f}"/>')
        parts.append(svg.text(at, bottom + 18, f"{tick:g}"))
    parts.append(svg.text((x.start + x.stop) / 2, bottom + 44, title, extra='class="title"'))
    return "".join(parts)


def _dots(
    x: svg.Axis, y: float, style: int, values: np.ndarray, names: Sequence[str], number: Callable[[float], str]
) -> list[str]:
    """One dot per image, below its box; the offset only keeps neighbours apart."""
    return [
        svg.dot(x(float(value)), y + 14 + 3 * (at % 3), style, f"{name}: {number(float(value))}")
        for at, (name, value) in enumerate(zip(names, values, strict=True))
        if math.isfinite(value)
    ]

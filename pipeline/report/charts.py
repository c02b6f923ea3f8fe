"""The charts of a page: rate against quality, per-image distributions, and what a classifier still sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.metrics.bd import ms_ssim_db
from pipeline.report import svg
from pipeline.report.published import Published

DOTS_UP_TO = 120
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
    title: str, note: str, y_title: str, lines: Sequence[Line], published: Sequence[tuple[Published, Sequence[float]]]
) -> Chart | None:
    """Quality over bits per pixel on a logarithmic axis; None when nothing can be drawn."""
    shown = [(line, [p for p in line.points if math.isfinite(p[1])]) for line in lines]
    measured = [point for _, points in shown for point in points]
    if not measured:
        return None
    low, high = min(p[0] for p in measured), max(p[0] for p in measured)
    x = svg.Axis(low / 1.12, high * 1.12, svg.LEFT, svg.WIDTH - svg.RIGHT, log=True)
    near = [(p, _within(p.bpp, values, x)) for p, values in published]
    heights = [p[1] for p in measured] + [value for _, points in near for _, value in points]
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
        Entry(p.name, svg.legend_mark(at, "published"), f"{p.title} (published)", True)
        for at, (p, points) in enumerate(near)
        if points
    ]
    rows = [[label, f"{b:.4f}", f"{v:.3f}"] for _, points in shown for b, v, label in points]
    inside = svg.grid(x, y, "bits per pixel", y_title) + "".join(marks)
    return Chart(title, note, svg.drawing(inside, title), legend, ["setting", "bpp", y_title], rows)


def _within(bpp: Sequence[float], values: Sequence[float], x: svg.Axis) -> list[tuple[float, float]]:
    """Published points that lie where something was measured."""
    return [(b, v) for b, v in zip(bpp, values, strict=True) if x.low <= b <= x.high]


def _tip(label: str, bpp: float, value: float, unit: str) -> str:
    return f"{label}: {bpp:.3f} bpp, {value:.2f} {unit.partition(',')[0]}"


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
    everything = np.concatenate([values[np.isfinite(values)] for _, _, values, _ in groups])
    left = 150
    x = svg.Axis(*svg.padded([float(everything.min()), float(everything.max())]), left, svg.WIDTH - svg.RIGHT)
    step, height = 46, svg.TOP + 46 * len(groups) + svg.BOTTOM
    bottom = height - svg.BOTTOM
    parts = [_columns(x, bottom, x_title)]
    rows = []
    for at, (name, style, values, names) in enumerate(groups):
        y = svg.TOP + step * (at + 0.5)
        five = [float(v) for v in np.percentile(values[np.isfinite(values)], PERCENTILES)]
        tip = f"{name}: median {number(five[2])}; middle half {number(five[1])} to {number(five[3])}"
        parts.append(svg.text(left - 10, y + 4, name, "end"))
        parts.append(svg.box(x, y, style, five, tip))
        parts += _dots(x, y, style, values, names, number) if len(values) <= DOTS_UP_TO else []
        rows.append([name, *(number(value) for value in five)])
    head = ["codec", *(f"{p} %" for p in PERCENTILES)]
    return Chart(title, note, svg.drawing("".join(parts), title, height), (), head, rows)


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


def agreement(lines: Sequence[Line], note: str, baseline: float | None) -> Chart | None:
    """Share of images on which the classifier says the same as of the source, over bits per pixel."""
    chart = rate_quality("What a classifier still sees", note, "top-1 agreement, %", lines, [])
    if chart is None or baseline is None:
        return chart
    words = f"{chart.note} On the sources themselves the classifier is right on {baseline:.1f} % of the images."
    return Chart(chart.title, words, chart.drawing, chart.legend, chart.head, chart.rows)

"""RD curves as an SVG that needs no library to make and is readable on light and dark pages.

The background is transparent and every colour is of middle lightness: pages that show an SVG as an image tell it
nothing about their theme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

INK, GRID = "#7d8590", "#7d859055"
COLOURS = ("#e5484d", "#3b82f6", "#16a34a", "#d97706", "#a855f7", "#0d9488", "#db2777", "#78716c")
COLOURS += ("#84a10f", "#713f12", "#b45353", "#6d6fd6")
PANEL_WIDTH, PANEL_HEIGHT, TOP, LEFT, GAP, BOTTOM = 390, 340, 66, 52, 66, 48
RATE_TICKS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """Curves of (bpp, quality) by label, and what the quality is."""

    title: str
    curves: Mapping[str, Curve]


@dataclass(frozen=True)
class _Frame:
    """Data to pixels: log2 of the rate across, quality up."""

    left: float
    rate: tuple[float, float]
    quality: tuple[float, float]

    def x(self, bpp: float) -> float:
        low, high = (math.log2(value) for value in self.rate)
        return self.left + (math.log2(bpp) - low) / (high - low) * PANEL_WIDTH

    def y(self, quality: float) -> float:
        low, high = self.quality
        return TOP + (high - quality) / (high - low) * PANEL_HEIGHT


def rd_svg(panels: Sequence[Panel], caption: str) -> str:
    """Panels side by side under one legend; the caption says what was measured where."""
    width, height = LEFT + len(panels) * (PANEL_WIDTH + GAP) - GAP + 16, TOP + PANEL_HEIGHT + BOTTOM + 18
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    colours = {label: COLOURS[k % len(COLOURS)] for k, label in enumerate(labels)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="12" fill="{INK}">',
        f"<title>{escape('Rate-distortion curves: ' + ', '.join(labels))}</title>",
        *_legend(colours, width),
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, LEFT + number * (PANEL_WIDTH + GAP), colours)
    parts += [_text(LEFT, height - 8, caption, size=11), "</svg>"]
    return "\n".join(parts) + "\n"


def _legend(colours: Mapping[str, str], width: float) -> list[str]:
    """In rows, as many as it takes; there is room for two."""
    parts, x, y = [], float(LEFT), 14
    for label, colour in colours.items():
        across = 44 + 7.2 * len(label)
        if x > LEFT and x + across > width:
            x, y = float(LEFT), y + 18
        parts.append(f'<path d="M{x:.0f} {y}h20" stroke="{colour}" stroke-width="{_stroke(label)}"/>')
        parts.append(_text(x + 26, y + 4, label, colour=colour))
        x += across
    return parts


def _panel(panel: Panel, left: float, colours: Mapping[str, str]) -> list[str]:
    frame = _frame_of(panel, left)
    parts = [_text(left, TOP - 10, panel.title), _text(left + PANEL_WIDTH, TOP + PANEL_HEIGHT + 34, "bpp", "end")]
    for tick in (value for value in RATE_TICKS if frame.rate[0] <= value <= frame.rate[1]):
        parts.append(f'<path d="M{frame.x(tick):.1f} {TOP}v{PANEL_HEIGHT}" stroke="{GRID}"/>')
        parts.append(_text(frame.x(tick), TOP + PANEL_HEIGHT + 18, f"{tick:g}", "middle"))
    for tick in _quality_ticks(frame.quality):
        parts.append(f'<path d="M{left:.1f} {frame.y(tick):.1f}h{PANEL_WIDTH}" stroke="{GRID}"/>')
        parts.append(_text(left - 8, frame.y(tick) + 4, f"{tick:g}", "end"))
    for label, curve in panel.curves.items():
        parts += _line(frame, label, curve, colours[label])
    return parts


def _line(frame: _Frame, label: str, curve: Curve, colour: str) -> list[str]:
    at = [(frame.x(rate), frame.y(quality)) for rate, quality in sorted(curve)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    line = f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{_stroke(label)}"/>'
    return [line, *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in at)]


def _frame_of(panel: Panel, left: float) -> _Frame:
    """Covers every point, with a margin, so that a flat or single-point curve still has an extent."""
    rates = [rate for curve in panel.curves.values() for rate, _ in curve]
    qualities = [quality for curve in panel.curves.values() for _, quality in curve]
    return _Frame(
        left, (min(rates) / 1.1, max(rates) * 1.1), (math.floor(min(qualities)), math.ceil(max(qualities)) + 1)
    )


def _quality_ticks(limits: tuple[float, float]) -> list[int]:
    low, high = limits
    step = next(step for step in (1, 2, 5, 10, 20, 50) if (high - low) / step <= 9)
    return list(range(math.ceil(low / step) * step, math.floor(high) + 1, step))


def _stroke(label: str) -> float:
    return 2.5 if label.startswith("cnn") else 1.5


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = INK, size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{escape(text)}</text>'
    )


@dataclass(frozen=True)
class LogPanel:
    """A curve of positive numbers over positive numbers, both axes logarithmic, and the names of the axes."""

    title: str
    across: str
    up: str
    curve: Curve


def loglog_svg(panels: Sequence[LogPanel]) -> str:
    """Panels side by side; a dashed line of slope one through the middle point shows what straight growth would be."""
    width, height = LEFT + len(panels) * (PANEL_WIDTH + GAP) - GAP + 16, TOP + PANEL_HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="12" fill="{INK}">',
        f"<title>{escape('Growth: ' + ', '.join(panel.title for panel in panels))}</title>",
    ]
    for number, panel in enumerate(panels):
        parts += _log_panel(panel, LEFT + number * (PANEL_WIDTH + GAP))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _log_panel(panel: LogPanel, left: float) -> list[str]:
    across, up = (_decades([point[side] for point in panel.curve]) for side in (0, 1))

    def x(value: float) -> float:
        return left + (math.log10(value) - across[0]) / (across[1] - across[0]) * PANEL_WIDTH

    def y(value: float) -> float:
        return TOP + (up[1] - math.log10(value)) / (up[1] - up[0]) * PANEL_HEIGHT

    parts = [_text(left, TOP - 26, panel.title), _text(left, TOP - 10, panel.up, size=11)]
    parts.append(_text(left + PANEL_WIDTH, TOP + PANEL_HEIGHT + 34, panel.across, "end"))
    for decade in range(across[0], across[1] + 1):
        parts.append(f'<path d="M{x(10.0**decade):.1f} {TOP}v{PANEL_HEIGHT}" stroke="{GRID}"/>')
        parts.append(_text(x(10.0**decade), TOP + PANEL_HEIGHT + 18, f"{10.0**decade:,g}", "middle"))
    for decade in range(up[0], up[1] + 1):
        parts.append(f'<path d="M{left:.1f} {y(10.0**decade):.1f}h{PANEL_WIDTH}" stroke="{GRID}"/>')
        parts.append(_text(left - 8, y(10.0**decade) + 4, f"{10.0**decade:,g}", "end"))
    middle = sorted(panel.curve)[len(panel.curve) // 2]
    ends = [max(10.0 ** across[0], middle[0] * 10.0 ** up[0] / middle[1])]
    ends.append(min(10.0 ** across[1], middle[0] * 10.0 ** up[1] / middle[1]))
    line = " ".join(f"{x(end):.1f},{y(middle[1] * end / middle[0]):.1f}" for end in ends)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{INK}" stroke-dasharray="5 4"/>')
    at = [(x(size), y(cost)) for size, cost in sorted(panel.curve)]
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in at)
    parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[1]}" stroke-width="2"/>')
    return [*parts, *(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{COLOURS[1]}"/>' for px, py in at)]


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Powers of ten around all values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)

"""Charts say in numbers what they draw, and escape what they are given."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from pipeline.report import charts, published, svg, words
from pipeline.report.charts import Line
from pipeline.report.compare import Estimate


def parsed(drawing: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawing)


def test_a_chart_is_well_formed_and_every_point_has_a_tip():
    line = Line("<b>&", 0, [(0.1, 30.0, "<q1>"), (0.5, 35.0, '"q2"'), (1.0, float("inf"), "q3")])
    curves = charts.published_points(published.chosen(["vtm"]), False)
    chart = charts.rate_quality("PSNR", "", "PSNR, dB", [line], curves)
    assert chart is not None
    points = [node for node in parsed(chart.drawing).iter("g") if node.get("class") == "pt"]
    tips = [str(node.get("data-tip")) for node in points]
    assert "<q1>: 0.100 bpp, PSNR 30.00 dB" in tips
    assert any("VTM" in tip for tip in tips)
    assert [row[0] for row in chart.rows] == ["<q1>", '"q2"']


def test_nothing_to_draw_is_no_chart():
    assert charts.rate_quality("PSNR", "", "dB", [Line("a", 0, [(1.0, float("inf"), "q")])], []) is None
    assert charts.distribution("x", "", "x", [("a", 0, np.array([np.nan]), ["n"])], str) is None


def test_one_point_and_equal_values_can_be_drawn():
    assert charts.rate_quality("PSNR", "", "dB", [Line("a", 0, [(1.0, 30.0, "q")])], [])
    assert charts.distribution("x", "", "x", [("a", 0, np.full(3, 5.0), ["n"] * 3)], str)


def test_boxes_are_percentiles_and_few_images_are_dots():
    values = np.arange(101.0)
    chart = charts.distribution("x", "", "x", [("a", 0, values, [f"i{k}" for k in range(101)])], "{:.0f}".format)
    assert chart is not None
    assert list(chart.rows) == [["a", "5", "25", "50", "75", "95"]]
    assert chart.drawing.count('class="pt dot') == 101
    many = charts.distribution("x", "", "x", [("a", 0, np.arange(500.0), [""] * 500)], str)
    assert many is not None
    assert 'class="pt dot' not in many.drawing


def test_estimates_are_drawn_with_their_intervals_and_zero():
    found = [("a&b", 0, Estimate(-20.0, -25.0, -10.0)), ("c", 1, Estimate(5.0))]
    chart = charts.intervals("Bit rate", "", "BD-rate, %", found, words.interval)
    assert chart is not None
    (zero,) = [node for node in parsed(chart.drawing).iter("line") if node.get("class") == "zero"]
    first, second = [node for node in parsed(chart.drawing).iter("g") if "span" in str(node.get("class"))]
    ends = [float(str(first[0].get(name))) for name in ("x1", "x2")]
    assert (
        ends[0]
        < float(str(first.get("data-x")))
        < ends[1]
        < float(str(zero.get("x1")))
        < float(str(second.get("data-x")))
    )
    assert first.get("data-tip") == "a&b: -20.0 % (-25.0 to -10.0)"
    assert chart.rows == [["a&b", "-20.0 % (-25.0 to -10.0)"], ["c", "+5.0 %"]]
    assert charts.intervals("Bit rate", "", "", [], words.interval) is None


def test_a_level_is_a_line_inside_the_chart():
    line = Line("a", 0, [(0.1, 40.0, "q1"), (0.5, 60.0, "q2")])
    chart = charts.rate_quality("Accuracy", "", "right class, %", [line], (), (90.0, "sources"))
    assert chart is not None
    (level,) = [node for node in parsed(chart.drawing).iter("line") if node.get("class") == "zero"]
    assert svg.TOP <= float(str(level.get("y1"))) < svg.HEIGHT - svg.BOTTOM
    assert "sources" in chart.drawing


def test_curves_differ_without_colour():
    styles = {(svg.MARKERS[k % len(svg.MARKERS)], svg.DASHES[k % len(svg.DASHES)]) for k in range(7)}
    assert len(styles) == 7


@pytest.mark.parametrize(("low", "high"), [(0.03, 2.5), (27.0, 44.0), (-5.0, 100.0)])
def test_axes_have_a_handful_of_round_ticks(low, high):
    ticks = svg.Axis(low, high, 0, 100, log=low > 0 and high < 5).ticks()
    assert 3 <= len(ticks) <= 9
    assert all(low <= tick <= high for tick in ticks)

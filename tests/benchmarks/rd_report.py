"""What `rd` says in the end: tables to read, JSON to compute with, and the plot of the README."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from pipeline.errors import MetricError
from pipeline.metrics.bd import Method, RDCurve, bd_rate
from tests.benchmarks.conditions import Conditions, table
from tests.benchmarks.plot import COLOURS, Panel, rd_svg
from tests.benchmarks.points import Point, Row, as_json
from tests.benchmarks.speed import Speed

METHODS: tuple[Method, ...] = ("pchip", "akima")
MEASURES = {"PSNR": "psnr_db", "MS-SSIM": "ms_ssim_db"}
BDRates = dict[str, dict[str, dict[str, float | None]]]


@dataclass(frozen=True)
class Result:
    """Curves by label (published ones included), speeds by label, and the rows that the curves are means of."""

    where: Conditions
    curves: Mapping[str, Sequence[Point]]
    speeds: Mapping[str, Speed]
    rows: Sequence[Row]

    @cached_property
    def bd_rates(self) -> BDRates:
        """Tested -> anchor -> measure and method -> percent; None where the curves cannot be compared."""
        tested = [label for label in self.curves if label.startswith("cnn")]
        anchors = [label for label in self.curves if label not in tested] + tested[:1]
        return {test: {anchor: self._bd_rates(anchor, test) for anchor in anchors if anchor != test} for test in tested}

    def _bd_rates(self, anchor: str, test: str) -> dict[str, float | None]:
        return {
            f"{measure} {method}": self._bd_rate(anchor, test, field, method)
            for measure, field in MEASURES.items()
            for method in METHODS
        }

    def _bd_rate(self, anchor: str, test: str, field: str, method: Method) -> float | None:
        try:
            return bd_rate(self._curve(anchor, field), self._curve(test, field), method)
        except MetricError:  # too few points, or nothing in common: a dash in the table
            return None

    def _curve(self, label: str, field: str) -> RDCurve:
        points = self.curves[label]
        return RDCurve([point.bpp for point in points], [getattr(point, field) for point in points], label)

    def text(self) -> str:
        """Markdown."""
        parts = ["BD-rate: change of bytes at equal quality, negative is smaller", *self._bd_tables()]
        parts += ["Speed at about equal PSNR, with sizes and qualities of the same pictures", self._speed_table()]
        parts += ["RD points, means over all pictures", self._point_table(), str(self.where)]
        return "\n\n".join(parts)

    def _bd_tables(self) -> list[str]:
        return [
            table(
                {f"{test} against": anchor} | {key: _percent(value) for key, value in values.items()}
                for anchor, values in anchors.items()
            )
            for test, anchors in self.bd_rates.items()
        ]

    def _speed_table(self) -> str:
        return table(
            {"codec": label, **_cells(speed.point)}
            | {"encode MPix/s": f"{speed.encode_mpx_per_s:.2f}", "decode MPix/s": f"{speed.decode_mpx_per_s:.2f}"}
            for label, speed in self.speeds.items()
        )

    def _point_table(self) -> str:
        return table({"codec": label, **_cells(point)} for label, curve in self.curves.items() for point in curve)

    def json(self) -> str:
        result = {
            "conditions": asdict(self.where),
            "curves": {label: [as_json(point) for point in points] for label, points in self.curves.items()},
            "bd_rate_pct": self.bd_rates,
            "speeds": {
                label: as_json(speed.point)
                | {"encode_mpx_per_s": speed.encode_mpx_per_s, "decode_mpx_per_s": speed.decode_mpx_per_s}
                for label, speed in self.speeds.items()
            },
            "images": [as_json(row) for row in self.rows],
        }
        return json.dumps(result, indent=1, allow_nan=False) + "\n"

    def svg(self) -> str:
        where = self.where
        caption = f"{where.data_set.rpartition(', ')[0]}; real payload bytes; {where.date[:10]}, commit {where.commit}"
        return rd_svg([self._panel(measure, field) for measure, field in MEASURES.items()], caption)

    def _panel(self, measure: str, field: str) -> Panel:
        curves = {
            label: [(p.bpp, getattr(p, field)) for p in self.curves[label] if math.isfinite(getattr(p, field))]
            for label in self._drawn()
        }
        return Panel(f"{measure}, dB", curves)

    def _drawn(self) -> list[str]:
        """All curves, or, where there are more of them than colours, of each tuning of cnn the ends of its efforts."""
        labels = list(self.curves)
        if len(labels) <= len(COLOURS):
            return labels
        by_tuning: dict[str, list[str]] = {}
        for label in labels:
            by_tuning.setdefault(label.partition(" tune ")[2] if label.startswith("cnn") else label, []).append(label)
        return [label for label in labels if any(label in (group[0], group[-1]) for group in by_tuning.values())]


def _cells(point: Point) -> dict[str, str]:
    return {
        "quality": "-" if math.isnan(point.quality) else f"{point.quality:g}",
        "bpp": f"{point.bpp:.3f}",
        "PSNR dB": f"{point.psnr_db:.2f}",
        "MS-SSIM": f"{point.ms_ssim:.4f}",
        "MS-SSIM dB": f"{point.ms_ssim_db:.2f}",
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f} %"

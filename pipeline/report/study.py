"""What is compared on the page of an evaluation, and against what: everything it says follows from a `Study`."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from pipeline.archive import results
from pipeline.errors import ConfigError
from pipeline.report import compare, published
from pipeline.report.compare import Estimate
from pipeline.report.measured import Curve, Measured, means, measured
from pipeline.report.options import PageOptions


class Study:
    """The rows, the arrays made of them, and the curves compared."""

    def __init__(self, uri: str, options: PageOptions) -> None:
        self.uri, self.options = uri, options
        self.table = results.read(uri)
        self.found: Measured = measured(self.table)
        self.records = results.run_records(uri)
        self.anchor = self._anchor()
        self.focus = self._focus()
        self.psnr_db = options.psnr_db if options.psnr_db is not None else self._middle_db()
        self.at = {curve.name: compare.at_quality(self.found, curve, self.psnr_db) for curve in self.found.curves}
        self.published = published.chosen(options.published)

    @property
    def curves(self) -> list[Curve]:
        return self.found.curves

    def style(self, curve: Curve) -> int:
        return self.curves.index(curve)

    def _named(self, name: str, what: str) -> Curve:
        curve = self.found.curve(name)
        if curve is None:
            known = ", ".join(each.name for each in self.found.curves)
            raise ConfigError(f"report.{what}: no curve {name!r} in {self.uri}; expected one of {known}")
        return curve

    def _anchor(self) -> Curve:
        if self.options.anchor is not None:
            return self._named(self.options.anchor, "anchor")
        lossy = [curve for curve in self.found.curves if not curve.lossless]
        usual = self.found.curve("jpeg")
        return usual or next((c for c in lossy if not c.model_id), (lossy or self.found.curves)[0])

    def _focus(self) -> Curve:
        if self.options.focus is not None:
            return self._named(self.options.focus, "focus")
        lossy = [curve for curve in self.found.curves if not curve.lossless]
        learned = [curve for curve in lossy if curve.model_id]
        if learned:
            return learned[-1]
        others = [curve for curve in lossy if curve is not self.anchor]
        known = [(rate.value, each.name) for each in others if (rate := self.rates.get(each.name)) is not None]
        return self._named(min(known)[1], "focus") if known else (others or self.found.curves)[0]

    @cached_property
    def rates(self) -> dict[str, Estimate]:
        """BD-rates against the anchor; curves that cannot be compared with it are left out."""
        lossy = [curve for curve in self.curves if curve is not self.anchor and not curve.lossless]
        found = {curve.name: compare.bd_rate_with_interval(self.found, self.anchor, curve) for curve in lossy}
        return {name: rate for name, rate in found.items() if isinstance(rate, Estimate)}

    @property
    def asked(self) -> list[Curve]:
        """Curves whose pictures a classifier has seen."""
        return [curve for curve in self.curves if np.isfinite(curve.same).any()]

    @property
    def focus_setting(self) -> int:
        return self.nearest_setting(self.focus)

    def nearest_setting(self, curve: Curve) -> int:
        """The setting whose mean PSNR is nearest to the quality that sizes are compared at."""
        means_db = [row["psnr_db"] for row in means(curve, self.found.complete)]
        return int(np.argmin([abs(db - self.psnr_db) if math.isfinite(db) else math.inf for db in means_db]))

    def _middle_db(self) -> float:
        rows = means(self.focus, self.found.complete)
        middle = rows[len(rows) // 2]["psnr_db"]
        return round(2 * middle) / 2 if math.isfinite(middle) else 40.0

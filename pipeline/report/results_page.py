"""The page of an evaluation: what `jobs.evaluate` measured, from the headline to how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.archive import results
from pipeline.errors import ConfigError
from pipeline.metrics.bd import ms_ssim_db
from pipeline.records import KEPT_ORIGINAL, REJECTED
from pipeline.report import charts, compare, provenance, published, words
from pipeline.report.charts import Chart, Line
from pipeline.report.compare import AtQuality, Estimate
from pipeline.report.measured import Curve, Measured, means, measured, reasons
from pipeline.report.options import PageOptions
from pipeline.report.page import Page, Section, Table
from pipeline.report.results_gallery import galleries

AVERAGING = (
    "Averages run over the images that every lossy codec could code at every setting: mean bits per pixel (whole "
    "payload, pixels not samples), mean of per-image RGB PSNR in dB, mean MS-SSIM over RGB."
)
BD = (
    "BD-rate: average change of bit rate at equal PSNR, log rate interpolated by PCHIP over the PSNR range both curves "
    "cover; negative is smaller. In brackets the 95 % bootstrap interval over images."
)
EQUAL = (
    "Sizes are compared with every image at {db:g} dB or better: per image, log bytes interpolated over PSNR between "
    "measured settings. An image that a codec cannot bring there, or not below its source size, counts as kept."
)
SPEED = "Speed is of one process, all settings together, pixels to payload and back without measuring; see the machine."


class Study:
    """Everything a page says follows from these: the rows, the arrays, and the curves compared."""

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
        rates = {curve.name: compare.bd_rate_with_interval(self.found, self.anchor, curve) for curve in others}
        known = [(rate.value, name) for name, rate in rates.items() if isinstance(rate, Estimate)]
        return self._named(min(known)[1], "focus") if known else (others or self.found.curves)[0]

    @property
    def focus_setting(self) -> int:
        """The setting of the focus that is nearest to the quality sizes are compared at."""
        means_db = [row["psnr_db"] for row in means(self.focus, self.found.complete)]
        return int(np.argmin([abs(db - self.psnr_db) if math.isfinite(db) else math.inf for db in means_db]))

    def _middle_db(self) -> float:
        rows = means(self.focus, self.found.complete)
        middle = rows[len(rows) // 2]["psnr_db"]
        return round(2 * middle) / 2 if math.isfinite(middle) else 40.0


def results_page(uri: str, options: PageOptions) -> Page:
    """Raises ConfigError for a curve that is not there, ArchiveError for results that cannot be read."""
    uri = storage.absolute(uri)
    study = Study(uri, options)
    images = int(study.found.complete.sum())
    if not images:
        return Page("Codecs compared", _subtitle(study), [_counts(study), provenance.section(study.records)])
    sections = [_headline(study), _curves(study), _savings(study), *_fidelity(study), *galleries(study)]
    sections += [_counts(study), provenance.section(study.records)]
    return Page("Codecs compared on your images", _subtitle(study), sections, _figures(study))


def _subtitle(study: Study) -> str:
    found, sources = study.found, {str(_config(record)["source"]["uri"]) for record in study.records if _config(record)}
    names = ", ".join(sorted(storage.redact(each) for each in sources))
    pixels = float(np.nansum(found.pixels[found.complete])) / 1e6
    all_images, used = len(found.image_ids), int(found.complete.sum())
    left_out = f" ({all_images - used} more could not be coded by every codec)" if used < all_images else ""
    return f"{used} images{left_out}, {pixels:,.1f} megapixels{' of ' + names if names else ''}"


def _config(record: Mapping[str, Any]) -> dict[str, Any]:
    config = record.get("config")
    return config if isinstance(config, dict) and "source" in config else {}


def _figures(study: Study) -> list[tuple[str, str]]:
    focus, at = study.focus, study.at[study.focus.name]
    figures = [(words.percent(at.saved_pct), f"of source bytes saved by {focus.name} at {study.psnr_db:g} dB")]
    rate = compare.bd_rate_with_interval(study.found, study.anchor, focus)
    if isinstance(rate, Estimate) and focus is not study.anchor:
        figures.append((f"{rate.value:+.1f} %", f"bit rate of {focus.name} against {study.anchor.name} at equal PSNR"))
    if study.options.price_per_gb_month is not None:
        per_tb = 1e3 * at.saved_pct / 100 * study.options.price_per_gb_month
        amount = words.money(per_tb, study.options.currency)
        figures.append((amount, "saved a month for each TB of such sources"))
    return figures


def _headline(study: Study) -> Section:
    price, currency = study.options.price_per_gb_month, study.options.currency
    head = ["codec", f"BD-rate against {study.anchor.name}", "encode MP/s", "decode MP/s"]
    head += [f"size at {study.psnr_db:g} dB", "saved", "images kept"]
    head += [f"{currency} saved a month, per TB", "and for these images"][: _money_columns(study)]
    rows = [_headline_row(study, curve, price) for curve in study.curves]
    notes = [AVERAGING, BD, EQUAL.format(db=study.psnr_db), SPEED]
    if price is not None:
        notes.append(f"Money at {price:g} {currency} per GB (10^9 bytes) and month, for each TB of such sources.")
    return Section("At a glance", table=Table(head, rows, frozenset({0}), study.curves.index(study.focus)), notes=notes)


def _headline_row(study: Study, curve: Curve, price: float | None) -> list[str]:
    at: AtQuality = study.at[curve.name]
    saved = compare.saved_with_interval(at)
    span = "" if saved.low is None or saved.high is None else f" ({saved.low:.1f} to {saved.high:.1f})"
    speeds = [words.number(compare.mpx_per_s(study.found, ms)) for ms in (curve.encode_ms, curve.decode_ms)]
    cells = [curve.name, _bd_cell(study, curve), *speeds, words.size(float(at.stored_bytes.sum()))]
    cells += [f"{saved.value:.1f} %{span}", str(at.kept)]
    if price is not None:
        saved_gb = at.saved_bytes / 1e9
        both = [words.money(1e3 * at.saved_pct / 100 * price, ""), words.money(saved_gb * price, "")]
        cells += both[: _money_columns(study)]
    return cells


def _money_columns(study: Study) -> int:
    """Money for these images is worth a column from a GB on."""
    if study.options.price_per_gb_month is None:
        return 0
    return 2 if float(study.at[study.focus.name].source_bytes.sum()) >= 1e9 else 1


def _bd_cell(study: Study, curve: Curve) -> str:
    if curve is study.anchor:
        return "anchor"
    if curve.lossless:
        return "lossless"
    rate = compare.bd_rate_with_interval(study.found, study.anchor, curve)
    return words.DASH if isinstance(rate, str) else words.interval(rate)


def _curves(study: Study) -> Section:
    lossy = [curve for curve in study.curves if not curve.lossless]
    psnr = [_line(study, curve, lambda row: row["psnr_db"]) for curve in lossy]
    ssim = [_line(study, curve, lambda row: ms_ssim_db(row["ms_ssim"])) for curve in lossy]
    drawn = [
        charts.rate_quality(
            "PSNR", "over bit rate; up and left is better.", "dB", psnr, charts.published_points(study.published, False)
        ),
        charts.rate_quality(
            "MS-SSIM",
            "as -10 log10(1 - MS-SSIM).",
            "dB, MS-SSIM",
            ssim,
            charts.published_points(study.published, True),
        ),
    ]
    notes = [f"{each.title}: {each.source}" for each in study.published]
    if study.published:
        notes.insert(
            0, f"Published curves are facts about other images than these, unless these are: {published.dataset()}."
        )
    return Section("Rate and distortion", charts=[chart for chart in drawn if chart], notes=notes)


def _line(study: Study, curve: Curve, value: Any) -> Line:
    rows = means(curve, study.found.complete)
    points = [(row["bpp"], float(value(row)), curve.label(at)) for at, row in enumerate(rows)]
    return Line(curve.name, study.style(curve), sorted(points))


def _savings(study: Study) -> Section:
    names = [words.short(study.found.uris[i]) for i in np.flatnonzero(study.found.complete)]
    groups = [(curve.name, study.style(curve), study.at[curve.name].per_image_pct, names) for curve in study.curves]
    note = f"of its source size, with every image at {study.psnr_db:g} dB or better. Box: middle half; line: 5 to 95 %."
    chart = charts.distribution("What each image saves", note, "saved, %", groups, words.percent)
    return Section("From image to image", charts=[chart] if chart else [])


def _fidelity(study: Study) -> list[Section]:
    """A table and a plot, when a classifier was asked."""
    asked = [curve for curve in study.curves if np.isfinite(curve.same).any()]
    if not asked:
        return []
    images = study.found.complete
    lines, rows = [], []
    for curve in asked:
        points = []
        for at, row in enumerate(means(curve, images)):
            same, right = (_share(values[images, at]) for values in (curve.same, curve.right))
            points.append((row["bpp"], same, curve.label(at)))
            cells = [curve.label(at), f"{row['bpp']:.3f}", words.number(row["psnr_db"])]
            rows.append([*cells, words.percent(same), words.percent(right)])
        lines.append(Line(curve.name, study.style(curve), sorted(points)))
    before = _share(study.found.right_before[images])
    note = f"{_classifier(study)}: share of images whose most likely class is that of the source."
    chart: Chart | None = charts.agreement(lines, note, before if math.isfinite(before) else None)
    table = Table(["setting", "bpp", "PSNR, dB", "top-1 agreement", "top-1 accuracy"], rows)
    text = [f"Accuracy on the sources: {words.percent(before)}."] if math.isfinite(before) else []
    return [Section("What a classifier still sees", text, table, [chart] if chart else [])]


def _classifier(study: Study) -> str:
    found = [(_config(record).get("fidelity") or {}).get("network") for record in study.records]
    return next((str(name) for name in reversed(found) if name), "classifier")


def _share(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return 100 * float(known.mean()) if len(known) else math.nan


def _counts(study: Study) -> Section:
    table: pa.Table = study.table
    by_status = table.group_by(["status"]).aggregate([("image_id", "count")]).to_pylist()
    total = ", ".join(f"{row['image_id_count']:,} {row['status']}" for row in by_status)
    rows = [
        [series, status, reason, f"{count:,}"]
        for series, status, reason, count in reasons(table, (REJECTED, KEPT_ORIGINAL))
    ]
    text = [
        f"{len(table):,} measurements: {total}. Kept means that recompressing at this setting would keep the source."
    ]
    shown = Table(["codec", "status", "reason", "measurements"], rows[:40], frozenset({0, 1, 2})) if rows else None
    return Section("What was not encoded", text, shown)

"""The page of an evaluation: what `jobs.evaluate` measured, from the headline to how it was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.metrics.bd import ms_ssim_db
from pipeline.records import KEPT_ORIGINAL, REJECTED
from pipeline.report import charts, compare, enlarged, provenance, published, svg, words
from pipeline.report.charts import Line
from pipeline.report.compare import AtQuality
from pipeline.report.measured import Curve, means, reasons
from pipeline.report.options import PageOptions
from pipeline.report.page import Page, Section, Table
from pipeline.report.results_gallery import galleries
from pipeline.report.study import Study

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
SAME = (
    "Same class: share of images that the classifier takes for the same at each codec's setting nearest to {db:g} dB."
)
SPEED = "Speed is of one process, all settings together, pixels to payload and back without measuring; see the machine."


def results_page(uri: str, options: PageOptions) -> Page:
    """Raises ConfigError for a curve that is not there, ArchiveError for results that cannot be read."""
    uri = storage.absolute(uri)
    study = Study(uri, options)
    images = int(study.found.complete.sum())
    if not images:
        return Page("Codecs compared", _subtitle(study), [_counts(study), provenance.section(study.records)])
    sections = [_smaller(study), _headline(study), _curves(study), _images(study), *_fidelity(study)]
    sections += galleries(study)
    sections += enlarged.sections(study)
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
    figures = [
        (words.percent(at.saved_pct), f"of source bytes saved by {focus.name}, every image at {at.psnr_db:g} dB")
    ]
    if (rate := study.rates.get(focus.name)) is not None:
        than = "fewer" if rate.value <= 0 else "more"
        figures.append((f"{abs(rate.value):.1f} %", f"{than} bits than {study.anchor.name} at equal PSNR"))
    if study.options.price_per_gb_month is not None:
        per_tb = 1e3 * at.saved_pct / 100 * study.options.price_per_gb_month
        amount = words.money(per_tb, study.options.currency)
        figures.append((amount, "saved a month for each TB of such sources"))
    return figures


def _best_first(study: Study) -> list[Curve]:
    return sorted(study.curves, key=lambda curve: float(study.at[curve.name].stored_bytes.sum()))


def _headline(study: Study) -> Section:
    price, currency = study.options.price_per_gb_month, study.options.currency
    head = ["codec", f"saved at {study.psnr_db:g} dB", f"BD-rate against {study.anchor.name}"]
    head += [f"size at {study.psnr_db:g} dB"]
    head += [f"{currency} saved a month, per TB", "and for these images"][: _money_columns(study)]
    head += [f"same class at {study.psnr_db:g} dB"] if study.asked else []
    head += ["images kept", "encode MP/s", "decode MP/s"]
    curves = _best_first(study)
    rows = [_headline_row(study, curve, price) for curve in curves]
    marks = [svg.legend_mark(study.style(curve)) for curve in curves]
    notes = [BD, EQUAL.format(db=study.psnr_db), SPEED]
    if study.asked:
        notes.append(SAME.format(db=study.psnr_db))
    if price is not None:
        notes.append(f"Money at {price:g} {currency} per GB (10^9 bytes) and month, for each TB of such sources.")
    table = Table(head, rows, frozenset({0}), curves.index(study.focus), marks)
    return Section("Codec by codec", [AVERAGING], table, notes=notes)


def _headline_row(study: Study, curve: Curve, price: float | None) -> list[str]:
    at: AtQuality = study.at[curve.name]
    saved = compare.saved_with_interval(at)
    span = "" if saved.low is None or saved.high is None else f" ({saved.low:.1f} to {saved.high:.1f})"
    speeds = [words.number(compare.mpx_per_s(study.found, ms)) for ms in (curve.encode_ms, curve.decode_ms)]
    cells = [curve.name, f"{saved.value:.1f} %{span}", _bd_cell(study, curve), words.size(float(at.stored_bytes.sum()))]
    if price is not None:
        saved_gb = at.saved_bytes / 1e9
        both = [words.money(1e3 * at.saved_pct / 100 * price, ""), words.money(saved_gb * price, "")]
        cells += both[: _money_columns(study)]
    if study.asked:
        setting = study.nearest_setting(curve)
        cells.append(words.percent(_share(curve.same[study.found.complete, setting])))
    return [*cells, str(at.kept), *speeds]


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
    rate = study.rates.get(curve.name)
    return words.DASH if rate is None else words.interval(rate)


def _smaller(study: Study) -> Section:
    """What a terabyte becomes, and BD-rates with their intervals; the best codec first."""
    curves = _best_first(study)
    became = [(curve, 1e3 * (1 - study.at[curve.name].saved_pct / 100)) for curve in curves]
    rows: list[tuple[str, int | None, float, str]] = [("source files", None, 1e3, "1,000 GB")]
    rows += [(curve.name, study.style(curve), left_gb, f"{left_gb:,.0f} GB") for curve, left_gb in became]
    compared = [curve for curve in study.curves if curve.name in study.rates]
    compared.sort(key=lambda curve: study.rates[curve.name].value)
    rates = [(curve.name, study.style(curve), study.rates[curve.name]) for curve in compared]
    against = f"against {study.anchor.name} at equal PSNR, with 95 % intervals; left is smaller."
    note = f"of such source files becomes this, with every image at {study.psnr_db:g} dB or better."
    drawn = [
        charts.bars("1 TB", note, ["codec", "GB"], rows),
        charts.intervals("Bit rate", against, "BD-rate, %", rates, words.interval),
    ]
    return Section("How much smaller", charts=[chart for chart in drawn if chart])


def _images(study: Study) -> Section:
    """What single images save, and what saving costs in time."""
    names = [words.short(study.found.uris[i]) for i in np.flatnonzero(study.found.complete)]
    curves = _best_first(study)
    groups = [(curve.name, study.style(curve), study.at[curve.name].per_image_pct, names) for curve in curves]
    note = f"of its source size, with every image at {study.psnr_db:g} dB or better. Box: middle half; line: 5 to 95 %."
    speeds = [
        (
            curve.name,
            study.style(curve),
            compare.mpx_per_s(study.found, curve.encode_ms),
            study.at[curve.name].saved_pct,
        )
        for curve in curves
    ]
    drawn = [
        charts.distribution("What each image saves", note, "saved, %", groups, words.percent),
        charts.speed_size("Saved, and how fast", "as all settings together ran; up and right is better.", speeds),
    ]
    return Section("From image to image", charts=[chart for chart in drawn if chart])


def _curves(study: Study) -> Section:
    lossy = [curve for curve in study.curves if not curve.lossless]
    psnr = [_line(study, curve, lambda _, row: row["psnr_db"]) for curve in lossy]
    ssim = [_line(study, curve, lambda _, row: ms_ssim_db(row["ms_ssim"])) for curve in lossy]
    others = [charts.published_points(study.published, ms_ssim) for ms_ssim in (False, True)]
    scale = "as -10 log10(1 - MS-SSIM): 10 dB are 0.9, 20 dB are 0.99."
    drawn = [
        charts.rate_quality("PSNR", "over bit rate; up and left is better.", "PSNR, dB", psnr, others[0]),
        charts.rate_quality("MS-SSIM", scale, "MS-SSIM, dB", ssim, others[1]),
    ]
    notes = [f"{each.title}: {each.source}" for each in study.published]
    text = [f"Published curves (gray): {published.dataset()}. They say nothing about other images."] if notes else []
    shown = [chart for chart in drawn if chart]
    return Section("Rate and distortion", text, charts=shown, more="Sources of published curves", notes=notes)


def _line(study: Study, curve: Curve, value: Callable[[int, Mapping[str, float]], float]) -> Line:
    """`value` gives a point's height from the number of its setting and the setting's means."""
    rows = means(curve, study.found.complete)
    points = [(row["bpp"], float(value(at, row)), curve.label(at)) for at, row in enumerate(rows)]
    return Line(curve.name, study.style(curve), sorted(points))


def _fidelity(study: Study) -> list[Section]:
    """Agreement and, where labels are known, accuracy over bit rate, when a classifier was asked."""
    if not study.asked:
        return []
    images = study.found.complete
    before = study.found.right_before[images]
    same = [_line(study, curve, _shares(curve.same[images])) for curve in study.asked]
    drawn = [charts.rate_quality("Agreement", "with what it sees in the source.", "same class, %", same)]
    text = [f"{_classifier(study)}: the class it finds most likely, in the decoded picture and in the source."]
    if np.isfinite(before).any():
        known = compare.mean_with_interval(before[np.isfinite(before)])
        level = (100 * known.value, f"sources: {100 * known.value:.1f} %")
        right = [_line(study, curve, _shares(curve.right[images])) for curve in study.asked]
        drawn.append(
            charts.rate_quality("Accuracy", "against the labels of the images.", "right class, %", right, (), level)
        )
        text.append(f"On the sources it is right on {words.share(known)} of {int(np.isfinite(before).sum()):,} images.")
    return [Section("What a classifier still sees", text, charts=[chart for chart in drawn if chart])]


def _shares(values: np.ndarray) -> Callable[[int, Mapping[str, float]], float]:
    """Percentages of each setting; `values` is (images, settings) of 0, 1 and NaN."""
    return lambda at, row: _share(values[:, at])


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

"""The page of an archive: what it holds, what it saves, how good it is, and what was not taken."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.archive import Archive, open_archive, results
from pipeline.codecs import registry
from pipeline.codecs.base import Codec
from pipeline.errors import ArchiveError, PipelineError
from pipeline.imaging.decode import decode
from pipeline.records import ENCODED, KEPT_ORIGINAL, REJECTED
from pipeline.report import charts, compare, gallery, originals, provenance, words
from pipeline.report.gallery import Specimen, Wanted
from pipeline.report.options import PageOptions
from pipeline.report.page import Page, Section, Table

_COLUMNS = (
    "image_id", "source_uri", "source_version", "source_format", "source_bytes", "width", "height", "status", "reason",
    "codec", "model_id", "payload_bytes", "bpp", "mse", "psnr_db", "ms_ssim", "encode_ms", "part",
)  # fmt: skip


def archive_page(uri: str, options: PageOptions) -> Page:
    """Raises ArchiveError when there is no archive, or one that cannot be read."""
    archive = open_archive(uri)
    holdings = Holdings(archive, archive.metrics(_COLUMNS))
    sections = [*_before_and_after(holdings), _by_codec(holdings), _by_format(holdings), *_distributions(holdings)]
    sections += _galleries(holdings, options)
    sections += [_not_encoded(holdings), provenance.section(results.run_records(archive.uri))]
    subtitle = f"{storage.redact(archive.uri)}: {len(holdings.table):,} images"
    return Page("What the archive holds", subtitle, sections, _figures(holdings, options))


class Holdings:
    """The newest metrics rows of an archive, and numbers that follow from them. Rejected images store nothing."""

    def __init__(self, archive: Archive, table: pa.Table) -> None:
        self.archive, self.table = archive, table
        self.stored = table.filter(pc.field("status") != REJECTED)
        self.encoded = table.filter(pc.field("status") == ENCODED)

    @cached_property
    def source_bytes(self) -> int:
        return int(pc.sum(self.stored["source_bytes"]).as_py() or 0)

    @cached_property
    def payload_bytes(self) -> int:
        return int(pc.sum(self.stored["payload_bytes"]).as_py() or 0)

    @property
    def saved_pct(self) -> float:
        return 100 * (1 - self.payload_bytes / self.source_bytes) if self.source_bytes else 0.0


def _figures(holdings: Holdings, options: PageOptions) -> list[tuple[str, str]]:
    saved = holdings.source_bytes - holdings.payload_bytes
    before, after = words.size(holdings.source_bytes), words.size(holdings.payload_bytes)
    figures = [
        (words.percent(holdings.saved_pct), f"saved: {before} are now {after}"),
        (f"{len(holdings.encoded):,}", "images encoded"),
        (f"{len(holdings.table) - len(holdings.encoded):,}", "kept as they were, or rejected"),
    ]
    if options.price_per_gb_month is not None:
        price, currency = options.price_per_gb_month, options.currency
        amount, whose = saved / 1e9 * price, ""
        if abs(amount) < 0.01:  # a small archive; what it says about larger ones is worth more
            amount, whose = 1e3 * holdings.saved_pct / 100 * price, " for each TB of such sources"
        figures.append((words.money(amount, currency), f"saved a month{whose}, at {price:g} {currency} per GB-month"))
    return figures


def _before_and_after(holdings: Holdings) -> list[Section]:
    """All source bytes as a bar, and below it what is stored of them, codec by codec."""
    if not holdings.source_bytes:
        return []
    names = sorted(str(name) for name in holdings.stored["codec"].unique().to_pylist())
    sizes = {name: _stored_bytes(holdings, name) for name in names}
    unit, step = words.unit_of(holdings.source_bytes)
    rows: list[tuple[str, int | None, float, str]] = [
        ("source files", None, holdings.source_bytes / step, words.size(holdings.source_bytes))
    ]
    rows += [(name, style, sizes[name] / step, words.size(sizes[name])) for style, name in enumerate(names)]
    if len(names) > 1:
        rows.insert(1, ("stored", None, holdings.payload_bytes / step, words.size(holdings.payload_bytes)))
    note = "without the images that were rejected, of which nothing is stored."
    return [Section("How much smaller", charts=[charts.bars("Before and after", note, ["", unit], rows, 110)])]


def _stored_bytes(holdings: Holdings, codec: str) -> int:
    rows = holdings.stored.filter(pc.field("codec") == codec)
    return int(pc.sum(rows["payload_bytes"]).as_py() or 0)


def _by_codec(holdings: Holdings) -> Section:
    table = _grouped(holdings.stored, ["status", "codec"])
    head = ["status", "codec", "images", "source", "stored", "saved", "mean bpp", "mean PSNR, dB", "encode MP/s"]
    note = "Mean PSNR is over lossy pictures; exact ones have none. Rejected images are not in this table."
    return Section("By codec", [note], Table(head, table, frozenset({0, 1})))


def _by_format(holdings: Holdings) -> Section:
    head = ["source format", "images", "source", "stored", "saved", "mean bpp", "mean PSNR, dB", "encode MP/s"]
    return Section("By source format", table=Table(head, _grouped(holdings.stored, ["source_format"])))


def _grouped(table: pa.Table, keys: list[str]) -> list[list[str]]:
    megapixels = pc.divide(pc.multiply(table["width"], table["height"]), 1e6)
    sums = [("image_id", "count"), ("source_bytes", "sum"), ("payload_bytes", "sum"), ("bpp", "mean")]
    sums += [("psnr_db", "mean"), ("encode_ms", "sum"), ("megapixels", "sum")]
    grouped = table.append_column("megapixels", megapixels).group_by(keys).aggregate(sums)
    return [_group_row(row, keys) for row in grouped.sort_by([(key, "ascending") for key in keys]).to_pylist()]


def _group_row(row: dict[str, Any], keys: list[str]) -> list[str]:
    source, stored = row["source_bytes_sum"] or 0, row["payload_bytes_sum"] or 0
    speed = 1e3 * row["megapixels_sum"] / row["encode_ms_sum"] if row["encode_ms_sum"] else None
    cells = [str(row[key] or words.DASH) for key in keys] + [f"{row['image_id_count']:,}"]
    cells += [words.size(source), words.size(stored), words.percent(100 * (1 - stored / source) if source else None)]
    return [*cells, words.number(row["bpp_mean"], 3), words.number(row["psnr_db_mean"]), words.number(speed)]


def _distributions(holdings: Holdings) -> list[Section]:
    names = [str(name) for name in holdings.stored["codec"].unique().to_pylist()]
    saved, quality = [], []
    for style, name in enumerate(sorted(names)):
        rows = holdings.stored.filter(pc.field("codec") == name)
        images = [words.short(uri) for uri in rows["source_uri"].to_pylist()]
        share = 100 * (1 - _floats(rows, "payload_bytes") / _floats(rows, "source_bytes"))
        saved.append((name, style, share, images))
        quality.append((name, style, _floats(rows, "psnr_db"), images))
    note = "Box: middle half; line: 5 to 95 %; dots: images, where there are few."
    drawn = [
        charts.distribution("What each image saves", note, "saved, %", saved, words.percent),
        charts.distribution("Quality of each lossy picture", note, "PSNR, dB", quality, words.number),
    ]
    shown = [chart for chart in drawn if chart is not None]
    return [Section("From image to image", charts=shown)] if shown else []


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].cast(pa.float64()).fill_null(float("nan")).to_numpy())


def _galleries(holdings: Holdings, options: PageOptions) -> list[Section]:
    table = holdings.encoded
    lossy = np.isfinite(_floats(table, "psnr_db"))
    if not options.worst or not lossy.any():
        return []
    share = 100 * (1 - _floats(table, "payload_bytes") / _floats(table, "source_bytes"))
    chosen = [compare.worst(values, lossy, options.worst) for values in (_floats(table, "psnr_db"), share)]
    rows = {i: table.slice(i, 1).to_pylist()[0] for each in chosen for i in each}
    lists = [[Wanted(i, words.short(rows[i]["source_uri"]), _facts(rows[i])) for i in each] for each in chosen]
    shown = gallery.exhibits(lists, Stored(holdings.archive, rows))
    above = gallery.shown_above(lists[1], lists[0])
    return [
        Section("Worst by quality", [gallery.HOW], exhibits=shown[0]),
        Section("Least saved of lossy pictures", above, exhibits=shown[1]),
    ]


def _facts(row: dict[str, Any]) -> str:
    saved = 100 * (1 - row["payload_bytes"] / row["source_bytes"])
    return f"{row['codec']}: {words.number(row['psnr_db'])} dB, {words.number(row['bpp'], 3)} bpp, saves {saved:.1f} %"


class Stored:
    """Fetches the source, if it is still there, and decodes what is stored of it."""

    def __init__(self, archive: Archive, rows: dict[int, dict[str, Any]]) -> None:
        self._archive, self._rows = archive, rows
        self._decoders: dict[tuple[str, str | None], Codec] = {}

    def __call__(self, i: int) -> Specimen:
        row = self._rows[i]
        (stored,) = self._archive.stored([row])
        codec = self._decoder(stored.codec, stored.model_id)
        try:
            picture, _ = originals.picture(row["source_uri"], row["source_version"])
        except PipelineError as error:
            raise ArchiveError(f"the source cannot be shown: {storage.redact(str(error))}") from error
        restored = codec.restore_source(stored.payload)
        after = codec.decode(stored.payload) if restored is None else decode(restored).rgb
        return Specimen(picture.rgb, after, gallery.bit_map(codec, stored.payload))

    def _decoder(self, codec: str, model_id: str | None) -> Codec:
        key = codec, model_id
        if key not in self._decoders:
            self._decoders[key] = registry.decoder_for(codec, model_id, self._archive.weights)
        return self._decoders[key]


def _not_encoded(holdings: Holdings) -> Section:
    table = holdings.table.filter(pc.is_in(pc.field("status"), pa.array([REJECTED, KEPT_ORIGINAL])))
    grouped = table.group_by(["status", "reason"]).aggregate([("image_id", "count"), ("source_bytes", "sum")])
    ordered = sorted(grouped.to_pylist(), key=lambda row: -row["image_id_count"])
    rows = [
        [
            row["status"],
            row["reason"] or words.DASH,
            f"{row['image_id_count']:,}",
            words.size(row["source_bytes_sum"] or 0),
        ]
        for row in ordered[:40]
    ]
    text = [] if rows else ["Every image was encoded."]
    shown = Table(["status", "reason", "images", "source"], rows, frozenset({0, 1})) if rows else None
    return Section("What was not encoded", text, shown)

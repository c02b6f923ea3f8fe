"""Result rows as arrays: for each curve one column per setting and one line per image, NaN where nothing was made.

Averages over images are taken over those that every lossy curve could code at every setting, so that no codec looks
better for having failed on the hard ones: mean bpp, mean of per-image PSNR in dB, mean MS-SSIM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ArchiveError

_NUMBERS = ("payload_bytes", "bpp", "psnr_db", "ssim", "ms_ssim", "encode_ms", "decode_ms")


@dataclass(frozen=True, eq=False)
class Curve:
    """One codec over its settings, worst quality first. Arrays are (images, settings) float64.

    psnr_db is inf where the decoded picture is exact. `same` and `right` say whether the classifier agreed with
    itself and was right on the decoded picture (1, 0, NaN where it was not asked).
    """

    name: str
    codec: str
    model_id: str | None
    qualities: tuple[float | None, ...]
    setting_ids: tuple[str, ...]
    payload_bytes: np.ndarray
    bpp: np.ndarray
    psnr_db: np.ndarray
    ssim: np.ndarray
    ms_ssim: np.ndarray
    encode_ms: np.ndarray
    decode_ms: np.ndarray
    same: np.ndarray
    right: np.ndarray

    @property
    def lossless(self) -> bool:
        """Every picture that was made is exact."""
        made = np.isfinite(self.payload_bytes)
        return bool(made.any() and np.isinf(self.psnr_db[made]).all())

    def label(self, at: int) -> str:
        quality = self.qualities[at]
        return self.name if quality is None else f"{self.name} q{quality:g}"


@dataclass(frozen=True, eq=False)
class Measured:
    """All curves over the same images. `complete` are the images that averages are taken over."""

    image_ids: list[str]
    uris: list[str]
    versions: list[str]
    source_bytes: np.ndarray
    pixels: np.ndarray
    right_before: np.ndarray
    curves: list[Curve]
    complete: np.ndarray

    def curve(self, name: str) -> Curve | None:
        return next((curve for curve in self.curves if curve.name == name), None)


def measured(table: pa.Table) -> Measured:
    """From the rows of `archive.results.read`. Raises ArchiveError when nothing was measured."""
    if not len(table):
        raise ArchiveError("results: found no rows; run `python -m jobs.evaluate` on a source with images")
    ids, lines = _coded(table["image_id"])
    first = np.full(len(ids), -1)
    first[lines[::-1]] = np.arange(len(lines))[::-1]
    heads = table.take(pa.array(first)).select(["source_uri", "source_version", "source_bytes", "width", "height"])
    names, series = _coded(table["series"])
    curves = [
        _curve(table.filter(pa.array(series == names.index(name))), lines[series == names.index(name)], len(ids))
        for name in sorted(names, key=lambda name: (not name.startswith("cnn"), name))
    ]
    lossy = [curve for curve in curves if not curve.lossless]
    made = [np.isfinite(curve.payload_bytes).all(axis=1) for curve in (lossy or curves)]
    return Measured(
        image_ids=ids,
        uris=heads["source_uri"].to_pylist(),
        versions=heads["source_version"].to_pylist(),
        source_bytes=_floats(heads["source_bytes"]),
        pixels=_floats(heads["width"]) * _floats(heads["height"]),
        right_before=_right_before(table, lines, len(ids)),
        curves=curves,
        complete=np.logical_and.reduce(made),
    )


def _coded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Distinct values, sorted, and the index of each row's value."""
    encoded = column.combine_chunks().dictionary_encode()
    values = np.asarray(encoded.dictionary.to_pylist())
    order = np.argsort(values)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return [str(value) for value in values[order]], place[encoded.indices.to_numpy()]


def _curve(rows: pa.Table, lines: np.ndarray, images: int) -> Curve:
    quality = _floats(rows["quality"])
    levels = sorted({float(q) for q in quality if np.isfinite(q)}) + ([np.nan] if np.isnan(quality).any() else [])
    columns = np.where(np.isnan(quality), len(levels) - 1, np.searchsorted(np.sort(levels), quality))

    def spread(values: np.ndarray) -> np.ndarray:
        out = np.full((images, len(levels)), np.nan)
        out[lines, columns] = values
        return out

    numbers = {name: spread(_floats(rows[name])) for name in _NUMBERS}
    exact = spread((_floats(rows["mse"]) == 0).astype(float)) == 1
    numbers["psnr_db"] = np.where(exact, np.inf, numbers["psnr_db"])
    ids: list[str] = [""] * len(levels)
    for at, setting in zip(columns, rows["setting_id"].to_pylist(), strict=True):
        ids[at] = setting
    seen, before, label = (_floats(rows[name]) for name in ("top1_decoded", "top1_source", "label"))
    known = np.isfinite(seen)
    models = [model for model in rows["model_id"].unique().to_pylist() if model]
    return Curve(
        name=str(rows["series"][0]),
        codec=str(rows["codec"][0]),
        model_id=models[-1] if models else None,
        qualities=tuple(None if np.isnan(level) else level for level in levels),
        setting_ids=tuple(ids),
        same=spread(np.where(known & np.isfinite(before), seen == before, np.nan)),
        right=spread(np.where(known & np.isfinite(label), seen == label, np.nan)),
        **numbers,
    )


def _right_before(table: pa.Table, lines: np.ndarray, images: int) -> np.ndarray:
    """Whether the classifier was right on the source, per image."""
    top1, label = _floats(table["top1_source"]), _floats(table["label"])
    out = np.full(images, np.nan)
    known = np.isfinite(top1) & np.isfinite(label)
    out[lines[known]] = (top1 == label)[known]
    return out


def _floats(column: Any) -> np.ndarray:
    return np.asarray(column.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False))


def means(curve: Curve, images: np.ndarray) -> list[dict[str, float]]:
    """Averages of each setting over `images` (a mask); psnr_db is inf when one of them is exact."""
    found = []
    for at in range(len(curve.qualities)):
        row = {name: float(np.mean(getattr(curve, name)[images, at])) for name in _NUMBERS if name != "payload_bytes"}
        found.append(row | {"payload_bytes": float(np.sum(curve.payload_bytes[images, at]))})
    return found


def reasons(table: pa.Table, statuses: Sequence[str]) -> list[tuple[str, str, str, int]]:
    """(series, status, reason, rows) for every reason behind `statuses`, most frequent first."""
    picked = table.filter(pa.compute.is_in(table["status"], pa.array(list(statuses))))
    grouped = picked.group_by(["series", "status", "reason"]).aggregate([("image_id", "count")])
    rows = [(r["series"], r["status"], r["reason"] or "", r["image_id_count"]) for r in grouped.to_pylist()]
    return sorted(rows, key=lambda row: (-row[3], row[0], row[2]))

"""Symbols <-> payload for models whose tables are fixed with the weights: no side information about each latent.

The side information about the whole picture rides in section z: how many channels are sent, and the six integers of
the input normalisation where the model has one. FORMAT.md has the details.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.bitstream import container
from pipeline.bitstream.container import Container
from pipeline.codecs.base import Symbols
from pipeline.codecs.learned.symbols import band_words, opened
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.entropy.coder import SymbolDecoder, SymbolEncoder
from pipeline.errors import BitstreamError
from pipeline.nn import integer
from pipeline.nn.spec import SCALE_BOUNDS, SCALE_STEPS_PER_OCTAVE, SPECS, StaticSpec

BAND_POSITIONS = 4096
UNITS_PER_STEP = (integer.INDEX_STEPS_PER_OCTAVE << integer.SCALE_BITS) // SCALE_STEPS_PER_OCTAVE


class Side(NamedTuple):
    """What z says: `kept` channels, `means` in 8-bit levels and `scales` in sixteenths of an octave, (3,) or empty."""

    kept: int
    means: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, z: np.ndarray) -> Side:
        flat = z.ravel().astype(np.int64)
        return cls(int(flat[0]), flat[1:4], flat[4:7])

    def to_z(self) -> np.ndarray:
        """(1 or 7, 1, 1) int16."""
        return np.concatenate([[self.kept], self.means, self.scales]).astype(np.int16).reshape(-1, 1, 1)

    @property
    def offset(self) -> int:
        """What the scales add to the index of every channel, in the units of `log2_base`."""
        return int(self.scales.sum()) // 3 * UNITS_PER_STEP if len(self.scales) else 0


def spec_of_model(model: FrozenModel) -> StaticSpec:
    spec = SPECS[model.kind](**model.spec)
    if not isinstance(spec, StaticSpec):
        raise BitstreamError(f"weights: a model of kind {model.kind} has no static tables")
    return spec


def grid_of(model: FrozenModel, height_px: int, width_px: int) -> tuple[int, int]:
    """(h, w) of y."""
    unit = spec_of_model(model).unit_px
    return -(-height_px // unit), -(-width_px // unit)


def channels(model: FrozenModel, kept: int) -> np.ndarray:
    """The `kept` most important channels, in rising order."""
    return np.sort(model.arrays["channels.order"][:kept].astype(np.int64))


def table_indexes(model: FrozenModel, quality_centi: int, side: Side) -> np.ndarray:
    """(M,) uint8: the table of each channel; a model with uniform codes has only the first."""
    if model.spec["num_bits"] is not None:
        return np.zeros(model.spec["latent"], dtype=np.uint8)
    base = integer.interpolate(model.arrays["log2_base"], quality_centi).astype(np.float64)
    return np.asarray(integer.index_of(integer.fixed_log2_sigma(base, float(side.offset))), dtype=np.uint8)


def entropy_encode(model: FrozenModel, symbols: Symbols) -> bytes:
    """The payload of `symbols`."""
    side = Side.of(symbols.z)
    chosen = channels(model, side.kept)
    index = table_indexes(model, symbols.quality_centi, side)[chosen]
    encoder, y_words = SymbolEncoder(model.tables), []
    for rows in _bands(*symbols.y.shape[1:]):
        values = symbols.y[chosen, rows]
        words = encoder.encode(values.ravel(), np.repeat(index, values[0].size), model.skip_below)
        y_words.append(container.varint(len(words) // 4) + words)
    sections = {container.Z: symbols.z.astype("<i2").tobytes(), container.Y: b"".join(y_words)}
    sections[container.ESCAPES] = encoder.escapes()
    return container.pack(
        Container(symbols.model_id, symbols.width_px, symbols.height_px, symbols.quality_centi, symbols.gray, sections)
    )


def entropy_decode(model: FrozenModel, payload: bytes) -> Symbols:
    """The symbols of a payload; integer arithmetic only.

    Raises:
        BitstreamError: damaged, foreign, made by another model, or larger than 500 megapixels.
    """
    box = opened(model, payload)
    z = _side_in(model, box.sections[container.Z])
    side, (height, width) = Side.of(z), grid_of(model, box.height_px, box.width_px)
    chosen = channels(model, side.kept)
    index = table_indexes(model, box.quality_centi, side)[chosen]
    decoder = SymbolDecoder(model.tables, box.sections.get(container.ESCAPES, b""))
    y = np.zeros((model.spec["latent"], height, width), dtype=np.int16)
    bands = list(_bands(height, width))
    for rows, words in zip(bands, band_words(box.sections[container.Y], len(bands)), strict=True):
        shape = (len(chosen), len(range(*rows.indices(height))), width)
        values = decoder.decode(words, np.repeat(index, shape[1] * width), model.skip_below)
        y[chosen, rows] = values.reshape(shape)
    decoder.finish()
    return Symbols(box.model_id, box.height_px, box.width_px, box.gray, box.quality_centi, y, z)


def _bands(height: int, width: int) -> Iterator[slice]:
    rows = max(1, BAND_POSITIONS // width)
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def _side_in(model: FrozenModel, section: bytes) -> np.ndarray:
    wanted = 7 if spec_of_model(model).normalise else 1
    z = np.frombuffer(section, dtype="<i2") if len(section) == 2 * wanted else np.zeros(0, np.int16)
    if len(z) != wanted or not 1 <= z[0] <= model.spec["latent"] or not _within(z[4:], *SCALE_BOUNDS):
        raise BitstreamError(f"payload: {len(section)} bytes of side information do not fit this model; it is damaged")
    return z.astype(np.int16).reshape(-1, 1, 1)


def _within(values: np.ndarray, low: int, high: int) -> bool:
    return bool(((values >= low) & (values <= high)).all())

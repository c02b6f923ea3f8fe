"""Where the bits go: what each position of y cost under the tables it was coded with.

The entropy model gives every symbol a probability; -log2 of it is its share of the payload. Summed over channels this
is a map with one value for each 16 x 16 px block: bright where the model found the picture hard to predict.
"""

from __future__ import annotations

import numpy as np

from pipeline.codecs.base import Symbols
from pipeline.codecs.learned.dequantise import placed
from pipeline.codecs.learned.symbols import Grid
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.entropy.order import tables_of
from pipeline.entropy.tables import FrequencyTables
from pipeline.nn import integer

BLOCK_PX = 16


def allocation(model: FrozenModel, symbols: Symbols) -> np.ndarray:
    """Bits of y at each position, (ceil(H/16), ceil(W/16)) float64; skipped symbols cost nothing.

    The side information z, a few percent of a payload, belongs to no single block and is left out.
    """
    grid = Grid.of(symbols.height_px, symbols.width_px)
    z = symbols.z.astype(np.float64)
    bits = np.zeros((grid.height, grid.width))
    for band in grid.bands():
        index = placed(model, symbols.quality_centi, symbols.adaptive, band.scales(model.h_s, z)).index
        y, tables = symbols.y[:, band.rows], model.tables
        if trellis := model.trellis_of(symbols.trellis):
            tables = trellis.tables
            index = tables_of(index, model.skip_below, integer.INDEX_COUNT, y, symbols.trellis)
        bits[band.rows] = _cost(tables, y, index, model.skip_below).sum(axis=0)
    return bits


def _cost(tables: FrequencyTables, values: np.ndarray, index: np.ndarray, skip_below: int) -> np.ndarray:
    """Bits of each of `values` (M, h, w) under tables `index` of the same shape."""
    cost = np.zeros(values.shape)
    for table in np.unique(index):
        if table < skip_below:
            continue
        reach, here = int(tables.reaches[table]), index == table
        held, bits = values[here].astype(np.int64), tables.bits(int(table))
        beyond = np.abs(held) > reach
        # An escape pays for the last entry of the table and for its value as a byte string of 7 bits a byte.
        escaped = bits[-1] + 8 * np.maximum(1, np.ceil(np.log2(2 * np.abs(held) + 2) / 7))
        cost[here] = np.where(beyond, escaped, bits[np.clip(held, -reach, reach) + reach])
    return cost

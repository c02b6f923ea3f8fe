"""What hyper-latents say of one another: z in turns, from coarse to fine, each told what was decoded before it.

Every eighth position of z comes first, then what is halfway between, until all are there; each time in three turns:
centres of squares, which see four corners, what is left of every row with a corner, which sees four neighbours, and
the rest, which sees eight. A small network for each of the three, the same at every distance, says of each value how
its scale differs from its channel's, and its mean. Its layers are those of `integer`: means and scales choose tables,
so that they must be exact on every device.

Coarse to fine as in Reed et al., "Parallel Multiscale Autoregressive Density Estimation", ICML 2017; means and scales
from what is decoded, Minnen, Balle & Toderici, "Joint Autoregressive and Hierarchical Priors", NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pipeline.errors import BitstreamError
from pipeline.nn import integer
from pipeline.nn.integer import ACTIVATION_BITS, IntegerLayer

LEVELS = 3
FARTHEST = 1 << LEVELS - 1
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
CROSS = ((-1, 0), (0, -1), (0, 1), (1, 0))
NEIGHBOURS = (CORNERS, CROSS, CORNERS + CROSS)
"""(down, right) of what each of the three networks looks at, in distances of its turn."""
LAYER_NAMES = ("enter", "mid", "out")
SCALE_STEPS, SCALES, FRACTIONS = 2, 37, 8
"""Tables are for every second scale index, up to sigma = 2^6, and for means in eighths: 0 to 4 above an integer."""
TABLES_A_SCALE = FRACTIONS // 2 + 1
TABLE_COUNT = SCALES * TABLES_A_SCALE
MEAN_LIMIT = 255
POSITIONS = 4096
"""Of z, that are done at once."""


class Turn(NamedTuple):
    """rows, columns  (n,) of the positions of z that are decoded together.
    network  which one looks at their neighbours, None for those that come first.
    level  how often its distance, 2^level, was halved until 1 is reached.
    """

    rows: np.ndarray
    columns: np.ndarray
    network: int | None
    level: int


def turns(height: int, width: int) -> Iterator[Turn]:
    """Each position of z (height, width) once; those of a turn in reading order."""

    def those_from(top: int, left: int, step: int, network: int | None, level: int) -> Iterator[Turn]:
        rows, columns = np.meshgrid(np.arange(top, height, step), np.arange(left, width, step), indexing="ij")
        for first in range(0, rows.size, POSITIONS):
            part = slice(first, first + POSITIONS)
            yield Turn(rows.ravel()[part], columns.ravel()[part], network, level)

    yield from those_from(0, 0, 2 * FARTHEST, None, LEVELS)
    for level in reversed(range(LEVELS)):
        apart = 1 << level
        for network, (top, left) in enumerate(((apart, apart), (0, apart), (apart, 0))):
            yield from those_from(top, left, 2 * apart, network, level)


def inputs(network: int, channels: int) -> int:
    """What a network reads: channels and whether they are known of each neighbour, quality, and level."""
    return len(NEIGHBOURS[network]) * (channels + 1) + 2


class Expected(NamedTuple):
    """Of each value of a turn, (N, n): it is coded as `sign * (value - whole)` under table `table`."""

    table: np.ndarray
    whole: np.ndarray
    sign: np.ndarray


@dataclass(frozen=True, eq=False)
class IntegerContext:
    """The three networks after export.

    compression  (256,) integers: what |z| becomes on entry, that of h_s.
    sigmas  (positions,) integers in units of 2^-ACTIVATION_BITS: sigma at each fixed-point position of a scale.
    """

    networks: tuple[tuple[IntegerLayer, ...], ...]
    compression: np.ndarray
    sigmas: np.ndarray

    def expect(self, seen: Seen, turn: Turn, base: np.ndarray, quality_centi: int) -> Expected:
        """Of the values of a turn; `base` (N,) is log2 sigma of each channel at this quality, in fixed point."""
        count = len(turn.rows)
        offset, mean = np.zeros((2, len(base), count))
        if turn.network is not None:
            quality = (quality_centi << ACTIVATION_BITS) // integer.QUALITY_UNITS
            told = np.array([[quality], [turn.level << ACTIVATION_BITS - 1]], np.float64)
            x = np.concatenate([seen.around(turn), told.repeat(count, 1)])[..., None]
            for layer in self.networks[turn.network]:
                x = layer(x)
            offset, mean = np.split(x[..., 0], 2)
        position = integer.fixed_log2_sigma(base[:, None], offset)
        scale = np.minimum((integer.index_of(position).astype(np.int64) + 1) // SCALE_STEPS, SCALES - 1)
        # Integers below 2^53, all of them: at most 2^24 sigmas of 2^16.
        means = mean * self.sigmas[position.astype(np.int64)]
        eighths = np.floor(means * (FRACTIONS * 0.5 ** (2 * ACTIVATION_BITS)) + 0.5)
        eighths = eighths.clip(-FRACTIONS * MEAN_LIMIT, FRACTIONS * MEAN_LIMIT).astype(np.int64)
        whole = (eighths + FRACTIONS // 2) // FRACTIONS
        above = eighths - FRACTIONS * whole
        table = (scale * TABLES_A_SCALE + np.abs(above)).astype(np.uint8)
        return Expected(table, whole, np.where(above < 0, -1, 1))


class Seen:
    """What has been decoded of z (N, height, width) so far, and how networks see it."""

    def __init__(self, context: IntegerContext, shape: tuple[int, int, int]) -> None:
        channels, height, width = shape
        self.compression = context.compression
        self.planes = np.zeros((channels + 1, height, width), np.float32)  # which holds integers up to 2^24

    def show(self, turn: Turn, values: np.ndarray) -> None:
        """The values of a turn, (N, n) integers."""
        magnitude = self.compression[np.minimum(np.abs(values.astype(np.int64)), len(self.compression) - 1)]
        self.planes[:-1, turn.rows, turn.columns] = magnitude * np.sign(values)
        self.planes[-1, turn.rows, turn.columns] = 1 << ACTIVATION_BITS

    def around(self, turn: Turn) -> np.ndarray:
        """(neighbours * (N + 1), n): each neighbour's channels, and whether they are known; zeros where not."""
        assert turn.network is not None
        _, height, width = self.planes.shape
        found = []
        for down, right in NEIGHBOURS[turn.network]:
            rows, columns = turn.rows + (down << turn.level), turn.columns + (right << turn.level)
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            found.append(self.planes[:, rows.clip(0, height - 1), columns.clip(0, width - 1)] * inside)
        return np.concatenate(found).astype(np.float64)


def load(arrays: Mapping[str, np.ndarray], channels: int) -> IntegerContext | None:
    """From `z_context.<network>.<layer>.weight`, `.bias`, `.shift` and `z_context.sigmas`; None where a model has none.

    Raises:
        BitstreamError: an array is missing, misshapen or of other than integers, or a sum could leave what is exact.
    """
    if not any(name.startswith("z_context.") for name in arrays):
        return None
    networks = []
    for k in range(len(NEIGHBOURS)):
        layers = integer.layers(arrays, {f"z_context.{k}.{name}": name != "out" for name in LAYER_NAMES})
        sizes = [layer.weight.shape for layer in layers]
        widths = [inputs(k, channels), *(size[1] for size in sizes)]
        wanted = [(1, after, before) for before, after in pairwise(widths)]
        if sizes != wanted or widths[-1] != 2 * channels:
            raise BitstreamError(f"weights: z_context.{k} has layers of {sizes}; the file is damaged, fetch it again")
        networks.append(layers)
    sigmas = arrays.get("z_context.sigmas")
    count = (integer.INDEX_COUNT - 1 << integer.SCALE_BITS) + 1
    if (
        sigmas is None
        or sigmas.shape != (count,)
        or sigmas.dtype.kind not in "iu"
        or sigmas.min() < 0
        or sigmas.max() > 1 << 16
    ):
        raise BitstreamError(f"weights: z_context.sigmas are not {count} integers up to 2^16; the file is damaged")
    return IntegerContext(tuple(networks), arrays["h_s.compression"].astype(np.float64), sigmas.astype(np.float64))

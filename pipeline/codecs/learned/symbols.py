"""Symbols <-> payload: the CPU half of a learned codec, in integers and without torch.

This is where `nn` and `entropy` meet: the integer hyper-decoder says which table each symbol is coded under.
y goes in bands of rows, so that memory does not grow with the picture; FORMAT.md has the details.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pipeline.bitstream import container
from pipeline.bitstream.container import Container
from pipeline.codecs.base import Symbols
from pipeline.codecs.learned import hyper_latents
from pipeline.codecs.learned.dequantise import DecodedBand, placed
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.codecs.learned.wiener import Wiener
from pipeline.entropy.coder import SymbolDecoder, SymbolEncoder, Words
from pipeline.errors import BitstreamError
from pipeline.nn import integer

BAND_POSITIONS = 1024
HALO_ROWS = 2
PIXEL_LIMIT = 500_000_000


class Grid(NamedTuple):
    """Sizes of y (height, width) and z (z_height, z_width) for a picture."""

    height: int
    width: int
    z_height: int
    z_width: int

    @classmethod
    def of(cls, height_px: int, width_px: int) -> Grid:
        height, width = -(-height_px // 16), -(-width_px // 16)
        return cls(height, width, -(-height // 4), -(-width // 4))

    def bands(self) -> Iterator[Band]:
        rows = max(1, BAND_POSITIONS // self.z_width)
        for top in range(0, self.z_height, rows):
            bottom = min(top + rows, self.z_height)
            yield Band(self, top, bottom)


class Band(NamedTuple):
    """Rows [top, bottom) of z and the rows of y over them."""

    grid: Grid
    top: int
    bottom: int

    @property
    def rows(self) -> slice:
        """The band's rows of y."""
        return slice(4 * self.top, min(4 * self.bottom, self.grid.height))

    def hyper(self, h_s: integer.IntegerHyperSynthesis, z: integer.Array) -> tuple[integer.Array, integer.Array]:
        """Scale offsets and means (M, rows, width) of the band; z (N, hz, wz) float64 integers of the whole picture."""
        offset, mean = h_s(self._seen(z))
        return self._own(offset), self._own(mean)

    def scales(self, h_s: integer.IntegerHyperSynthesis, z: integer.Array) -> integer.Array:
        """The offsets of `hyper` alone, for a fifth less work."""
        return self._own(h_s.scales(self._seen(z)))

    def _seen(self, z: integer.Array) -> integer.Array:
        """The rows of z that h_s must look at to say something about the band."""
        return z[:, max(0, self.top - HALO_ROWS) : min(self.grid.z_height, self.bottom + HALO_ROWS)]

    def _own(self, found: integer.Array) -> integer.Array:
        """The band's part of what h_s says of the rows it has seen."""
        first = 4 * (self.top - max(0, self.top - HALO_ROWS))
        return found[:, first : first + self.rows.stop - self.rows.start, : self.grid.width]


def entropy_encode(model: FrozenModel, symbols: Symbols) -> bytes:
    """The payload of `symbols`; needs no accelerator."""
    grid = Grid.of(symbols.height_px, symbols.width_px)
    encoder = SymbolEncoder(model.tables)
    z_words = hyper_latents.encode(model, encoder, symbols.z, symbols.quality_centi)
    z = symbols.z.astype(np.float64)
    y_words = []
    trellis = model.trellis_of(symbols.trellis)
    for band in grid.bands():
        if symbols.index is None:
            offset = band.scales(model.h_s, z)
            index = placed(model, symbols.quality_centi, symbols.adaptive, offset).index
        else:
            index = symbols.index[:, band.rows]
        y = symbols.y[:, band.rows].ravel()
        if trellis:
            words = encoder.encode_trellis(y, index.ravel(), model.skip_below, trellis.tables, symbols.trellis)
        else:
            words = encoder.encode(y, index.ravel(), model.skip_below)
        y_words.append(container.varint(len(words) // 4) + words)
    sections = {container.Z: z_words, container.ESCAPES: encoder.escapes(), container.Y: b"".join(y_words)}
    if symbols.reduced is not None:
        sections[container.REDUCED] = symbols.reduced.to_bytes()
    if symbols.adaptive:
        sections[container.ADAPTIVE] = bytes([symbols.adaptive])
    if symbols.wiener:
        sections[container.FILTER] = symbols.wiener
    return container.pack(
        Container(
            model_id=symbols.model_id,
            width_px=symbols.width_px,
            height_px=symbols.height_px,
            quality_centi=symbols.quality_centi,
            gray=symbols.gray,
            sections=sections,
            trellis=symbols.trellis,
            z_in_turns=model.z_context is not None,
        )
    )


def entropy_decode(model: FrozenModel, payload: bytes, on_band: Callable[[DecodedBand], None] | None = None) -> Symbols:
    """The symbols of a payload; integer arithmetic only.

    `on_band` is given each band of y, so that synthesis need not ask h_s again.

    Raises:
        BitstreamError: damaged, foreign, made by another model, or larger than 500 megapixels.
    """
    box = opened(model, payload)
    grid = Grid.of(box.height_px, box.width_px)
    decoder = SymbolDecoder(model.tables, box.sections.get(container.ESCAPES, b""))
    hyper, latent = model.spec["hyper"], model.spec["latent"]
    z_words, y_words = Words(box.sections[container.Z]), band_words(box.sections[container.Y], len(list(grid.bands())))
    z = hyper_latents.decode(model, decoder, z_words, box.quality_centi, (hyper, grid.z_height, grid.z_width))
    y = np.zeros((latent, grid.height, grid.width), dtype=np.int16)
    z_float, strength = z.astype(np.float64), box.adaptive
    levels = np.empty((grid.height, grid.width), np.int8) if strength else None
    trellis = model.trellis_of(box.trellis)
    for band, words in zip(grid.bands(), y_words, strict=True):
        mean: integer.Array = None
        if on_band:
            offset, mean = band.hyper(model.h_s, z_float)
        else:
            offset = band.scales(model.h_s, z_float)
        scales = placed(model, box.quality_centi, strength, offset)
        index = scales.index
        if levels is not None and scales.level is not None:
            levels[band.rows] = scales.level.astype(np.int8)
        if trellis:
            found, used = decoder.decode_trellis(words, index.ravel(), model.skip_below, trellis.tables, box.trellis)
            index = used.reshape(index.shape)
        else:
            found = decoder.decode(words, index.ravel(), model.skip_below)
        y[:, band.rows] = found.reshape(index.shape)
        if on_band:
            on_band(DecodedBand(y[:, band.rows], index, scales.position, mean, trellis))
    decoder.finish()
    return Symbols(
        model_id=box.model_id,
        height_px=box.height_px,
        width_px=box.width_px,
        gray=box.gray,
        quality_centi=box.quality_centi,
        y=y,
        z=z,
        reduced=box.reduced,
        trellis=box.trellis,
        adaptive=strength,
        wiener=box.sections.get(container.FILTER, b""),
        levels=levels,
    )


def opened(model: FrozenModel, payload: bytes) -> Container:
    """The container of a payload, once it is known to be of this model and of a size that can be decoded."""
    box = container.unpack(payload)
    if box.model_id != model.model_id:
        raise BitstreamError(
            f"payload: it was made by model {box.model_id}, this is {model.model_id}; "
            "decode it with the weights that its archive carries"
        )
    width_px, height_px = box.picture_size
    if width_px * height_px > PIXEL_LIMIT:
        raise BitstreamError(f"payload: {width_px}x{height_px} is more than {PIXEL_LIMIT:,} pixels; refused")
    if box.reduced is not None and not model.h_s.layers:
        raise BitstreamError("payload: a reduced picture under a model with static tables; it is damaged")
    if box.adaptive and not model.h_s.layers:
        raise BitstreamError("payload: adaptive quantisation under a model with static tables; it is damaged")
    if (section := box.sections.get(container.FILTER)) is not None:
        if not model.h_s.layers:
            raise BitstreamError("payload: a filter under a model with static tables; it is damaged")
        Wiener.of(section, model.tables, box.gray)
    model.trellis_of(box.trellis)
    if box.z_in_turns != (model.z_context is not None):
        raise BitstreamError(f"payload: its flags and model {model.model_id} differ in how z is coded; it is damaged")
    return box


def band_words(section: bytes, count: int) -> list[Words]:
    """The section of y cut into its bands."""
    words, at = [], 0
    for _ in range(count):
        length, at = container.read_varint(section, at)
        if at + 4 * length > len(section):
            raise BitstreamError(f"payload: a band of y wants {4 * length} bytes, {len(section) - at} are left")
        words.append(Words(section[at : at + 4 * length]))
        at += 4 * length
    if at != len(section):
        raise BitstreamError(f"payload: {len(section) - at} bytes are left over after the last band of y")
    return words

"""z <-> words: under one static table a channel, or in turns, where a model has a context for it (`nn.context`)."""

from __future__ import annotations

import numpy as np

from pipeline.codecs.learned.weights import FrozenModel
from pipeline.entropy.coder import VALUE_LIMIT, SymbolDecoder, SymbolEncoder, Words
from pipeline.errors import BitstreamError
from pipeline.nn import context, integer

LIMIT = VALUE_LIMIT - context.MEAN_LIMIT
"""Of magnitudes of z: what is coded is the difference to a mean."""


def encode(model: FrozenModel, encoder: SymbolEncoder, z: np.ndarray, quality_centi: int) -> bytes:
    """Words of z (N, h, w) int16, at most LIMIT."""
    if model.z_context is None:
        return encoder.encode(z.ravel(), static_tables(model, quality_centi, z.shape))
    turns, (network, tables) = [], model.z_context
    seen, base = context.Seen(network, z.shape), log2_sigma(model, quality_centi)
    for turn in context.turns(*z.shape[1:]):
        values, expected = z[:, turn.rows, turn.columns], network.expect(seen, turn, base, quality_centi)
        coded = (values - expected.whole) * expected.sign
        turns.append((coded.astype(np.int16).ravel(), expected.table.ravel()))
        seen.show(turn, values)
    return encoder.encode_turns(turns, tables)


def decode(
    model: FrozenModel, decoder: SymbolDecoder, words: Words, quality_centi: int, shape: tuple[int, int, int]
) -> np.ndarray:
    """z (N, h, w) int16. Raises BitstreamError for words that `encode` cannot have written."""
    if model.z_context is None:
        return decoder.decode(words, static_tables(model, quality_centi, shape)).reshape(shape)
    z, (network, tables) = np.zeros(shape, np.int16), model.z_context
    seen, base = context.Seen(network, shape), log2_sigma(model, quality_centi)
    for turn in context.turns(*shape[1:]):
        expected = network.expect(seen, turn, base, quality_centi)
        coded = decoder.decode_turn(words, expected.table.ravel(), tables).reshape(expected.table.shape)
        values = coded * expected.sign + expected.whole
        if np.abs(values).max(initial=0) > LIMIT:
            raise BitstreamError(f"payload: a hyper-latent of {np.abs(values).max()}; at most {LIMIT}; it is damaged")
        z[:, turn.rows, turn.columns] = values
        seen.show(turn, values)
    words.require_read()
    return z


def log2_sigma(model: FrozenModel, quality_centi: int) -> np.ndarray:
    """(N,) integers as float64: log2 sigma of each channel at this quality, before any context."""
    return integer.interpolate(model.arrays["log2_sigma_z"], quality_centi).astype(np.float64)


def static_tables(model: FrozenModel, quality_centi: int, shape: tuple[int, ...]) -> np.ndarray:
    """(N * h * w,) uint8: one static table a channel."""
    position = integer.fixed_log2_sigma(log2_sigma(model, quality_centi), 0.0)
    return np.repeat(integer.index_of(position).astype(np.uint8), shape[1] * shape[2])

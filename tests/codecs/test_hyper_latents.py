"""z in turns: comes back from any size and any values, by either reader, and is refused where it cannot be read."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bitstream import container
from pipeline.codecs.learned import hyper_latents, symbols, weights
from pipeline.codecs.learned.hyper_latents import LIMIT
from pipeline.entropy import coder
from pipeline.entropy.coder import SymbolDecoder, SymbolEncoder, Words
from pipeline.errors import BitstreamError
from tests.fuzz import tiny

MODEL = tiny.model(in_turns=True)


def read(words: bytes, escapes: bytes, centi: int, shape: tuple[int, int, int], compiled: bool) -> np.ndarray:
    with patch.object(coder, "_compiled_if_any", coder._compiled if compiled else lambda: None):
        decoder = SymbolDecoder(MODEL.tables, escapes)
        z = hyper_latents.decode(MODEL, decoder, Words(words), centi, shape)
        decoder.finish()
    return z


@pytest.mark.parametrize("compiled", [True, False])
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([0, 1, 9, LIMIT]), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_any_z_comes_back(compiled, height, width, largest, centi):
    random, shape = np.random.default_rng(height * 31 + width), (tiny.HYPER, height, width)
    z = random.integers(-largest, largest + 1, shape).astype(np.int16)
    encoder = SymbolEncoder(MODEL.tables)
    words = hyper_latents.encode(MODEL, encoder, z, centi)
    assert np.array_equal(read(words, encoder.escapes(), centi, shape, compiled), z)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_words_are_read_alike_or_refused(data):
    shape, z = (tiny.HYPER, 12, 13), np.random.default_rng(0).integers(-5, 6, (tiny.HYPER, 12, 13)).astype(np.int16)
    encoder = SymbolEncoder(MODEL.tables)
    words = bytearray(hyper_latents.encode(MODEL, encoder, z, 5000))
    for _ in range(data.draw(st.integers(1, 4))):
        words[data.draw(st.integers(0, len(words) - 1))] ^= data.draw(st.integers(1, 255))
    found = []
    for compiled in (True, False):
        try:
            found.append(read(bytes(words), encoder.escapes(), 5000, shape, compiled).tolist())
        except BitstreamError as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_words_of_one_turn_less_or_more_are_refused():
    z = np.full((tiny.HYPER, 5, 6), 3, np.int16)
    encoder = SymbolEncoder(MODEL.tables)
    words = hyper_latents.encode(MODEL, encoder, z, 5000)
    with pytest.raises(BitstreamError, match="words are left over"):
        read(words, encoder.escapes(), 5000, (tiny.HYPER, 1, 1), True)


def test_values_that_no_encoder_sends_are_refused():
    """An escape next to a mean far from zero."""
    far = np.zeros((tiny.HYPER, 1, 1), np.int16)
    encoder = SymbolEncoder(MODEL.tables)
    far[0] = LIMIT + 1
    words = hyper_latents.encode(MODEL, encoder, far, 5000)
    with pytest.raises(BitstreamError, match=f"a hyper-latent of {LIMIT + 1}; at most {LIMIT}"):
        read(words, encoder.escapes(), 5000, far.shape, True)


def test_flags_say_how_z_is_coded_and_so_must_the_model():
    """Releases from before know no such flag, and refuse in one sentence what they cannot read."""
    payload = tiny.payload(in_turns=True)
    box = container.unpack(payload)
    assert box.z_in_turns
    assert payload[5] == 8
    assert np.array_equal(
        symbols.entropy_decode(MODEL, payload).z, symbols.entropy_decode(tiny.model(), tiny.payload()).z
    )
    for model, made in ((MODEL, replace(box, z_in_turns=False)), (tiny.model(), container.unpack(tiny.payload()))):
        flagged = container.pack(replace(made, z_in_turns=not box.z_in_turns if model is MODEL else True))
        with pytest.raises(BitstreamError, match="differ in how z is coded"):
            symbols.entropy_decode(model, flagged)
    with pytest.raises(BitstreamError, match="flags 0x18"):
        container.unpack(_with_flags(payload, 0x18))


def _with_flags(payload: bytes, flags: int) -> bytes:
    import zlib

    body = payload[:5] + bytes([flags]) + payload[6:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_a_context_that_is_not_whole_is_refused():
    import safetensors.numpy

    arrays = safetensors.numpy.load(tiny.file_in_turns())
    meta = weights.meta_of(tiny.file_in_turns())
    for name in ("z_context.frequencies", "z_context.reaches", "z_context.sigmas", "z_context.1.mid.bias"):
        less = {key: part for key, part in arrays.items() if key != name}
        with pytest.raises(BitstreamError, match=r"^weights: .*z_context"):
            weights.parse(weights.serialise(less, meta))
    fewer = arrays | {
        "z_context.frequencies": arrays["tables.frequencies"],
        "z_context.reaches": arrays["tables.reaches"],
    }
    with pytest.raises(BitstreamError, match="z_context has 89 tables, expected 185"):
        weights.parse(weights.serialise(fewer, meta))

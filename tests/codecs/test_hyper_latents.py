"""z in turns: comes back from any size and any values, by either reader, and is refused where it cannot be read."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import constriction
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
from pipeline.nn import context, integer
from pipeline.nn.context import Seen
from tests.fuzz import tiny

MODEL = tiny.model(in_turns=True)


def read(words: bytes, escapes: bytes, centi: int, shape: tuple[int, int, int], compiled: bool) -> np.ndarray:
    with patch.object(coder, "_compiled_if_any", coder.compiled if compiled else lambda: None):
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


def test_turns_are_cut_where_they_are_long(monkeypatch):
    z = np.random.default_rng(3).integers(-4, 5, (tiny.HYPER, 131, 140)).astype(np.int16)
    monkeypatch.setattr(context, "POSITIONS", 37)
    encoder = SymbolEncoder(MODEL.tables)
    words = hyper_latents.encode(MODEL, encoder, z, 5000)
    assert np.array_equal(read(words, encoder.escapes(), 5000, z.shape, True), z)


def by_the_book(words: bytes, centi: int, shape: tuple[int, int, int]) -> np.ndarray:
    """As FORMAT.md says it, position by position, by constriction; without escapes."""
    assert MODEL.z_context is not None
    arrays, tables = MODEL.arrays, MODEL.z_context.tables
    channels, height, width = shape
    z, known = np.zeros(shape, np.int64), np.zeros((height, width), bool)
    stream = constriction.stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))
    base = integer.interpolate(arrays["log2_sigma_z"], centi)
    cross, corners = [(-1, 0), (0, -1), (0, 1), (1, 0)], [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    turns = [(None, 0, [(i, j) for i in range(0, height, 8) for j in range(0, width, 8)])]
    for level in (2, 1, 0):
        d = 2**level
        for k, (odd_row, odd_column) in enumerate([(1, 1), (0, 1), (1, 0)]):
            rows, columns = range(odd_row * d, height, 2 * d), range(odd_column * d, width, 2 * d)
            turns.append((k, level, [(i, j) for i in rows for j in columns]))
    for k, level, places in turns:
        asked = []
        for order, (i, j) in enumerate(places):
            offset = mean = np.zeros(channels, np.int64)
            if k is not None:
                x: list[int] = []
                for down, right in [corners, cross, corners + cross][k]:
                    a, b = i + down * 2**level, j + right * 2**level
                    if 0 <= a < height and 0 <= b < width:
                        assert known[a, b]
                        table = arrays["h_s.compression"].astype(np.int64)
                        x += [int(np.sign(v) * table[min(abs(v), 255)]) for v in z[:, a, b]] + [256]
                    else:
                        x += [0] * (channels + 1)
                x += [256 * centi // 10000, 128 * level]
                for name, low in (("enter", 0), ("mid", 0), ("out", -(2**24))):
                    weight, bias, shift = (arrays[f"z_context.{k}.{name}.{p}"] for p in ("weight", "bias", "shift"))
                    total = weight[0].astype(np.int64) @ np.array(x, np.int64) + bias
                    x = [int(v) for v in np.clip(total >> int(shift), low, 2**24)]
                offset, mean = np.split(np.array(x, np.int64), 2)
            for n in range(channels):
                position = int(np.clip(base[n] + offset[n] + 1536, 0, 5632))
                scale = min(((position + 32 >> 6) + 1) // 2, 36)
                raw = int(mean[n]) * int(arrays["z_context.sigmas"][position]) * 8 + 32768
                eighths = max(-2040, min(2040, raw >> 16))
                whole = (eighths + 4) // 8
                above = eighths - 8 * whole
                asked.append((5 * scale + abs(above), n, order, i, j, whole, -1 if above < 0 else 1))
        for table, n, _, i, j, whole, sign in sorted(asked):
            symbol = int(stream.decode(tables.models[table], 1)[0]) - int(tables.reaches[table])
            z[n, i, j] = whole + sign * symbol
        for i, j in places:
            known[i, j] = True
    assert stream.is_empty()
    assert known.all()
    return z


@pytest.mark.parametrize(("shape", "centi"), [((2, 1, 1), 0), ((2, 17, 12), 6789), ((2, 9, 30), 10_000)])
def test_it_is_what_the_format_says(shape, centi):
    """Values are drawn around what is expected of them, so that none escapes."""
    assert MODEL.z_context is not None
    network, z = MODEL.z_context.network, np.zeros(shape, np.int16)
    random, seen, base = np.random.default_rng(5), Seen(network, shape), hyper_latents.log2_sigma(MODEL, centi)
    signs = set[int]()
    for turn in context.turns(*shape[1:]):
        _, whole, sign = network.expect(seen, turn, base, centi)
        z[:, turn.rows, turn.columns] = whole + random.integers(-2, 3, whole.shape)
        seen.show(turn, z[:, turn.rows, turn.columns])
        signs |= set(sign.ravel().tolist())
    encoder = SymbolEncoder(MODEL.tables)
    words = hyper_latents.encode(MODEL, encoder, z, centi)
    assert not encoder.escapes()
    assert shape[1:] == (1, 1) or signs == {-1, 1}
    assert np.array_equal(by_the_book(words, centi, shape), z)


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

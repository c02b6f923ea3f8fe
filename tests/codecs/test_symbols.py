"""What lies between the hyper-decoder, symbols and y_hat, with Numba and without."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import pytest

from pipeline.codecs.learned import symbols
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.codecs.learned.symbols import DecodedBand
from pipeline.nn import integer
from pipeline.records import Picture, Rate
from tests.codecs import made_static

NAME = "pipeline.codecs.learned.symbols_compiled"


@pytest.fixture(scope="module")
def codec() -> Hyperprior:
    return Hyperprior(Rate(quality=60.0), device="cpu")


@pytest.fixture(scope="module")
def bands(codec) -> list[DecodedBand]:
    """Of a picture in several bands, whose last columns h_s says more than is needed of."""
    photo = np.ascontiguousarray(made_static.photos()[0][:211, :173])
    payload = codec.encode(Picture(photo)).payload
    found = list[DecodedBand]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symbols, "BAND_POSITIONS", 1)
        payload = codec.encode(Picture(photo)).payload
        symbols.entropy_decode(codec.frozen, payload, found.append)
    assert len(found) == 4
    return found


def in_numpy(model, band: DecodedBand) -> np.ndarray:
    """y_hat by the letter, one value after the other."""
    out = np.empty(band.y.shape, np.float32)
    for place in np.ndindex(out.shape):
        symbol, table = int(band.y[place]), int(band.index[place])
        out[place] = np.float32(band.mean[place] / 256) * integer.sigmas()[int(band.position[place])]
        if symbol and band.trellis is not None:
            magnitude = np.float32(abs(symbol) - (0.5 if table >= integer.INDEX_COUNT else 0))
            out[place] += np.sign(symbol) * (magnitude * np.float32(band.trellis.step) - band.trellis.shifts[table])
        elif symbol:
            out[place] += np.float32(symbol) - np.sign(symbol) * model.shifts[table]
    return out


@pytest.mark.parametrize("fault", [None, "missing", "placed", "mu", "add_symbols"])
@pytest.mark.parametrize("trellis", [True, False])
def test_y_hat_is_the_same_with_numba_and_without(codec, bands, fault, trellis, monkeypatch, caplog):
    monkeypatch.setattr(symbols, "compiled_symbols", cache(symbols.compiled_symbols.__wrapped__))
    if fault == "missing":
        monkeypatch.setitem(sys.modules, NAME, None)
    elif fault:
        monkeypatch.setattr(sys.modules[NAME], fault, lambda *_: None)
    assert (symbols.compiled_symbols() is None) == (fault is not None)
    assert ("symbols go on without Numba" in caplog.text) == (fault not in (None, "missing"))
    for band in bands[:2]:
        if not trellis:
            band = DecodedBand(band.y, band.index % integer.INDEX_COUNT, band.position, band.mean)
        assert band.y.any()
        assert np.array_equal(symbols.dequantised(codec.frozen, band), in_numpy(codec.frozen, band))


@pytest.mark.parametrize("compiled", [True, False])
def test_scales_are_where_integers_say(codec, compiled, monkeypatch):
    """In one piece or not, to the ends of tables and beyond, and for arrays that may not be written to."""
    if not compiled:
        monkeypatch.setattr(symbols, "compiled_symbols", lambda: None)
    offset = np.random.default_rng(0).integers(-4000, 4000, (codec.frozen.spec["latent"], 9, 20)).astype(np.float32)
    offset.flags.writeable = False
    for part in (offset, offset[:, 2:, :17]):
        found = symbols.placed(codec.frozen, 4321, 0, part)
        base = integer.interpolate(codec.frozen.arrays["log2_base"], 4321)[:, None, None]
        wanted = (base + part.astype(np.int64) + 24 * 64).clip(0, 88 * 64)
        assert np.array_equal(found.position, wanted)
        assert np.array_equal(found.table, (wanted + 32) // 64)
        assert (found.position.dtype, found.table.dtype) == (np.float32, np.uint8)
        assert found.level is None
        assert len({0, 88} & set(found.table.ravel().tolist())) == 2

"""What lies between the hyper-decoder, symbols and y_hat, with Numba and without."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import pytest

from pipeline.codecs.learned import dequantise, symbols
from pipeline.codecs.learned.dequantise import DecodedBand
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.nn import integer
from pipeline.records import Picture, Rate
from tests.codecs import made_static

NAME = "pipeline.codecs.learned.dequantise_compiled"


@pytest.fixture(scope="module")
def codec() -> Hyperprior:
    return Hyperprior(Rate(quality=60.0), device="cpu")


@pytest.fixture(scope="module")
def bands(codec) -> list[DecodedBand]:
    """Of a picture in several bands, whose last columns h_s says more than is needed of."""
    photo = np.ascontiguousarray(made_static.photos()[0][:211, :173])
    found = list[DecodedBand]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symbols, "BAND_POSITIONS", 1)
        payload = codec.encode(Picture(photo)).payload
        symbols.entropy_decode(codec.frozen, payload, found.append)
    assert len(found) == 4
    assert all(band.trellis is not None and (band.index >= integer.INDEX_COUNT).any() for band in found)
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
    monkeypatch.setattr(dequantise, "compiled_dequantiser", cache(dequantise.compiled_dequantiser.__wrapped__))
    if fault == "missing":
        monkeypatch.setitem(sys.modules, NAME, None)
    elif fault:
        monkeypatch.setattr(sys.modules[NAME], fault, lambda *_: None)
    assert (dequantise.compiled_dequantiser() is None) == (fault is not None)
    assert ("dequantisers go on without Numba" in caplog.text) == (fault not in (None, "missing"))
    for band in bands[:2]:
        if not trellis:
            band = DecodedBand(band.y, band.index % integer.INDEX_COUNT, band.position, band.mean)
        assert band.y.any()
        assert np.array_equal(dequantise.dequantised(codec.frozen, band), in_numpy(codec.frozen, band))


@pytest.mark.parametrize("compiled", [True, False])
def test_scales_are_where_integers_say(codec, compiled, monkeypatch):
    """In one piece or not, to the ends of tables and beyond, and for arrays that may not be written to."""
    if not compiled:
        monkeypatch.setattr(dequantise, "compiled_dequantiser", lambda: None)
    offset = np.random.default_rng(0).integers(-4000, 4000, (codec.frozen.spec["latent"], 9, 20)).astype(np.float32)
    offset.flags.writeable = False
    for part in (offset, offset[:, 2:, :17]):
        found = dequantise.placed(codec.frozen, 4321, 0, part)
        base = integer.interpolate(codec.frozen.arrays["log2_base"], 4321)[:, None, None]
        wanted = (base + part.astype(np.int64) + 24 * 64).clip(0, 88 * 64)
        assert np.array_equal(found.position, wanted)
        assert np.array_equal(found.index, (wanted + 32) // 64)
        assert (found.position.dtype, found.index.dtype) == (np.float32, np.uint8)
        assert found.level is None
        assert len({0, 88} & set(found.index.ravel().tolist())) == 2

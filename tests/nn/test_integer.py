import sys
from functools import cache

import numpy as np
import pytest
import torch

from pipeline.errors import BitstreamError
from pipeline.nn import integer
from pipeline.nn.freeze import freeze_h_s
from pipeline.nn.hyperprior import MeanScaleHyperprior
from pipeline.nn.spec import HyperpriorSpec

SPEC = HyperpriorSpec(latent=24, width=16, encoder_blocks=1, decoder_blocks=1, hyper_width=32, hyper=8)


@pytest.fixture(scope="module")
def model() -> MeanScaleHyperprior:
    torch.manual_seed(0)
    model = MeanScaleHyperprior(SPEC)
    torch.nn.init.normal_(model.h_s.out.weight, std=0.3)
    return model


@pytest.fixture(scope="module")
def h_s(model) -> integer.IntegerHyperSynthesis:
    return integer.load_layers(freeze_h_s(model))


def z_of(seed: int, height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (SPEC.hyper, height, width)).round()


def test_the_integer_network_follows_the_float_one(model, h_s):
    z = z_of(0)
    with torch.no_grad():
        offset, mean = model.h_s(torch.from_numpy(z).float()[None])
    exact_offset, exact_mean = h_s(z)
    assert np.abs(exact_offset / 512 - offset[0].numpy()).max() < 0.05
    assert np.abs(exact_mean / 256 - mean[0].numpy()).max() < 0.05


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mkldnn", [True, False])
def test_numpy_and_torch_agree_to_the_bit(h_s, threads, mkldnn, monkeypatch):
    z = z_of(1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.backends.mkldnn.flags(enabled=mkldnn):
            found = h_s.to(torch.from_numpy)(torch.from_numpy(z))
    finally:
        torch.set_num_threads(before)
    with_torch = h_s(z)
    with monkeypatch.context() as hidden:
        hidden.setitem(sys.modules, "torch", None)
        alone = h_s(z)  # as in a process that reads symbols and has no torch
    for own, left, right in zip(alone, with_torch, found, strict=True):
        assert np.array_equal(own, left)
        assert np.array_equal(own, right.numpy())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_agrees_to_the_bit(h_s):
    z = z_of(2, 16, 16)
    found = h_s.to(lambda a: torch.from_numpy(a).cuda())(torch.from_numpy(z).cuda())
    for left, right in zip(h_s(z), found, strict=True):
        assert np.array_equal(left, right.cpu().numpy())


def test_scales_alone_are_those_of_the_whole(h_s):
    for z in (z_of(3), torch.from_numpy(z_of(3))):
        offsets, _ = h_s.to(torch.from_numpy)(z) if isinstance(z, torch.Tensor) else h_s(z)
        alone = h_s.to(torch.from_numpy).scales(z) if isinstance(z, torch.Tensor) else h_s.scales(z)
        assert (alone == offsets).all()


@pytest.mark.parametrize("taps", [1, 9])
def test_the_narrow_result_is_the_wide_one(taps):
    """Over more positions than one piece has, and a number of them that no piece ends at."""
    random = np.random.default_rng(taps)
    weight, bias = random.integers(-60_000, 60_000, (taps, 20, 7)), random.integers(-(2**22), 2**22, 20)
    layer = integer.IntegerLayer(weight.astype(np.float64), bias.astype(np.float64), 14, False)
    x = random.integers(-(2**20), 2**20, (7, 23, 31)).astype(np.float64)
    assert x[0].size > 2 * integer.COLUMNS
    found = layer.narrow(x)
    assert found.dtype == np.float32
    assert np.array_equal(found, layer(x))
    assert np.array_equal(
        found,
        integer.IntegerLayer(*map(torch.from_numpy, (layer.weight, layer.bias)), 14, False)
        .narrow(torch.from_numpy(x))
        .numpy(),
    )


def test_results_are_integers_even_for_absurd_input(h_s):
    for out in h_s(np.full((SPEC.hyper, 3, 3), 32767.0)):
        assert np.array_equal(out, np.floor(out))
        assert np.abs(out).max() <= integer.ACTIVATION_LIMIT


def test_pixel_shuffle_is_torchs():
    x = np.arange(2 * 4 * 3 * 5, dtype=np.float64).reshape(8, 3, 5)
    expected = torch.nn.functional.pixel_shuffle(torch.from_numpy(x)[None], 2)[0].numpy()
    assert np.array_equal(integer._pixel_shuffle(x), expected)


def test_interpolation_is_exact_at_anchors_and_floors_between():
    table = np.array([[0], [-3], [10]])
    assert [int(integer.interpolate(table, q)[0]) for q in (0, 5000, 10_000)] == [0, -3, 10]
    assert int(integer.interpolate(table, 2500)[0]) == -2  # -1.5, floored


def test_scale_indexes_cover_the_range_and_no_more():
    position = integer.fixed_log2_sigma(np.array([-1e9, 0.0, 1e9]), 0.0)
    assert integer.index_of(position).tolist() == [0, 24, 88]
    assert integer.sigma_of_index(24) == 1.0
    assert integer.sigma_of(position)[1] == 1.0


def test_weights_that_could_leave_exact_arithmetic_are_refused(model):
    arrays = freeze_h_s(model)
    arrays["h_s.conv2.weight"] = np.full_like(arrays["h_s.conv2.weight"], 2**30)
    with pytest.raises(BitstreamError, match="exact arithmetic"):
        integer.load_layers(arrays)
    del arrays["h_s.conv2.weight"]
    with pytest.raises(BitstreamError, match="missing"):
        integer.load_layers(arrays)


@pytest.mark.parametrize("fault", [None, "missing", "wrong"])
def test_layers_are_the_same_with_numba_and_without(h_s, fault, monkeypatch, caplog):
    """Also of more positions than are multiplied at once, and of such as do not fill that."""
    z, found = z_of(2, 9, 31), h_s(z_of(2, 9, 31))
    monkeypatch.setattr(integer, "compiled_layers", cache(integer.compiled_layers.__wrapped__))
    name = "pipeline.nn.integer_compiled"
    if fault == "missing":
        monkeypatch.setitem(sys.modules, name, None)
    elif fault == "wrong":
        monkeypatch.setattr(sys.modules[name], "floored", lambda *_: None)
    assert (integer.compiled_layers() is None) == (fault is not None)
    assert ("hyper-decoders go on without Numba" in caplog.text) == (fault == "wrong")
    for columns in (integer.COLUMNS, 100):
        monkeypatch.setattr(integer, "COLUMNS", columns)
        for left, right in zip(found, h_s(z), strict=True):
            assert np.array_equal(left, right)

"""Slopes in bytes are those of the decoder in integers, as autograd takes them through it in floats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.codecs.learned import networks, tiles, weights
from pipeline.codecs.learned.byte_rows import ByteProduct, compiled_rows, packed
from pipeline.codecs.learned.byte_slopes import InBytes, factors_of
from pipeline.codecs.learned.networks import Networks
from pipeline.nn import parted
from pipeline.nn.exact import ExactSynthesis
from tests.codecs import made_static

pytestmark = pytest.mark.skipif(compiled_rows() is None, reason="this CPU does not multiply bytes: see test_slopes")


@pytest.fixture(scope="module")
def own() -> Networks:
    found = Networks(weights.packaged_model(weights.default_model_id("cnn")), "cpu")
    assert isinstance(found.by_hand, InBytes)
    return found


@pytest.fixture(scope="module")
def floats(own: Networks) -> Networks:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "compiled_rows", lambda: None)
        patch.setattr(networks, "has_fast_bf16", lambda: False)
        return Networks(own.model, "cpu")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return made_static.photos()[0]


def likeness(found: Tensor, wanted: Tensor) -> float:
    return float(torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0))


class _Coded(torch.autograd.Function):
    """Rounded or not, and held within a limit; slopes pass."""

    @staticmethod
    def forward(ctx, x, limit, rounded):
        return (x.round() if rounded else x).clamp(-limit, limit)

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


def picture_of(own: Networks, y: Tensor, centi: Tensor) -> Tensor:
    """What integers make of y (M, h, w) in quantiser steps, on 0 .. 1, in floats that autograd can take back."""
    exact, arrays = own.synthesis.exact, own.model.arrays
    assert isinstance(exact, ExactSynthesis)
    channels, height, width = y.shape
    _, to_asinh, of_h = exact.factors(centi)

    def product(x: Tensor, layer: str) -> Tensor:
        return x @ factors_of(arrays, layer).t() + torch.from_numpy(arrays[f"exact.{layer}.bias"])

    def coded(x: Tensor, limit: int = 127, rounded: bool = True) -> Tensor:
        return _Coded.apply(x, limit, rounded)

    steps = y.permute(1, 2, 0).reshape(-1, channels)
    x = coded(torch.asinh(steps * to_asinh / 128) * exact.entry)
    x = product(x, "up").view(height, width, -1, 2, 2) * of_h.view(-1, 1, 1)
    x = x.permute(0, 3, 1, 4, 2).reshape(4 * height * width, -1)
    for k, block in enumerate(exact.blocks):
        x = coded(x * block.enter, rounded=False)
        v = product(coded(x), f"{k}.expand")
        spread = coded(256 * torch.sigmoid(v / 16) * v * block.spread, 2047)
        image = spread.view(1, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)
        seen = F.conv2d(image, block.kernel, block.bias, 1, 1, 1, len(block.bias)).permute(0, 2, 3, 1)
        x = x + product(coded(seen.reshape(x.shape)), f"{k}.project")
        u, v = product(coded(x), f"{k}.gate").chunk(2, 1)
        x = x + product(coded(256 * torch.sigmoid(v / 16) * u), f"{k}.merge")
    fine = product(coded(x * exact.leave), "head").view(2 * height, 2 * width, 8, 24).transpose(1, 2)
    klt = own.transforms.g_s.klt(y[None] / own._steps(int(centi)).gain) + 0.5
    return klt + fine.reshape(16 * height, 16 * width, 3).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("centi", [1500, 6000, 9000])
def test_slopes_are_those_of_the_decoder_in_integers(own, photo, centi):
    """Of the errors of a photo, for all together and for what does not go by the KLT."""
    steps = own._steps(centi)
    rgb = photo[:256, :256]
    with torch.no_grad():
        y_hat = own.latents_sent(rgb, centi, 0)
        x_hat, back = own.by_hand(y_hat[0], steps, linear=False)
        x = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None] / 255
        found = back(x_hat - x) / steps.gain
        by_klt = own.transforms.g_s.linear_slope(x_hat - x) / steps.gain
    leaf = y_hat[0].clone().requires_grad_()
    picture = picture_of(own, leaf, steps.centi)
    assert float((picture.detach() - x_hat).square().mean().sqrt()) * 255 < 0.6  # their gates are not rounded
    (wanted,) = torch.autograd.grad(picture, leaf, x_hat - x)
    assert likeness(found[0], wanted) > 0.985
    assert abs(float(found.norm() / wanted.norm()) - 1) < 0.03
    assert likeness(found - by_klt, wanted - by_klt[0]) > 0.97


def test_the_picture_is_that_of_the_decoder(own, photo):
    y_hat, steps = own.latents_sent(photo, 6000, 0), own._steps(6000)
    with torch.no_grad():
        x_hat, _ = own.by_hand(y_hat[0], steps, linear=False)
        wanted = own.synthesis.exact(y_hat[0], steps.centi)
    assert torch.equal(x_hat[0].permute(1, 2, 0), wanted * (1 / 255))


@pytest.mark.parametrize("strength", [0, 2])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("centi", [1500, 9000])
def test_they_are_close_to_those_of_floats(own, floats, photo, centi, gray, strength):
    """Whose network is another one, a little: these have the errors that it makes of its own."""
    with torch.no_grad():
        symbols, y_hat = own._quantised(photo, centi, gray, 0, strength)
        levels = own._levels_of(symbols) if strength else None
        rows, steps = slice(0, y_hat.shape[2]), own._steps(centi, levels)
        found, wanted = (
            each._slope(photo, y_hat[0], rows, steps, gray, None, True, linear=False) for each in (own, floats)
        )
    assert likeness(found, wanted) > 0.95
    assert abs(float(found.norm() / wanted.norm()) - 1) < 0.05


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(("height", "width"), [(65, 130), (1, 1), (16, 333)])
@pytest.mark.parametrize("threads", [2, 3])
def test_any_size_will_do_with_any_number_of_threads(own, photo, height, width, threads, linear, monkeypatch):
    """And in strips, of slopes and of latents before them."""
    monkeypatch.setattr(parted, "LEAST_ROWS", 8)
    monkeypatch.setattr(parted, "STRIP_ROWS", 32)
    rgb, before = photo[:height, :width], torch.get_num_threads()
    found = []
    for count in (1, threads):
        torch.set_num_threads(count)
        try:
            with torch.no_grad():
                _, y_hat = own._quantised(rgb, 6000, False, 0, 0)
                rows, steps = slice(0, y_hat.shape[2]), own._steps(6000)
                found.append(own._slope(rgb, y_hat[0], rows, steps, False, None, linear=linear))
        finally:
            torch.set_num_threads(before)
    assert found[0].shape == (own.model.spec["latent"], -(-height // 16), -(-width // 16))
    assert likeness(found[0], found[1]) > 0.9999


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("place", [0, 1])
def test_tiles_leave_no_seams(own, place, linear, monkeypatch):
    rgb = made_static.photos()[place]

    def slope() -> Tensor:
        with torch.no_grad():
            return own._slope(rgb, y_hat[0], slice(0, y_hat.shape[2]), own._steps(6000), False, None, linear=linear)

    with torch.no_grad():
        _, y_hat = own._quantised(rgb, 6000, False, 0, 0)
    whole = slope()
    monkeypatch.setattr(tiles, "TILE_PX", 128)
    assert likeness(slope(), whole) > 0.998  # each rounds rows for itself as far as it sees


def test_rows_are_told_in_units_of_their_own():
    """The largest of each is 127 of them, and products are those of what was told."""
    x = torch.randn(700, 96, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 700)[:, None]
    x[3] = 0
    codes, units = packed(compiled_rows(), x)
    told = (codes.float() - 128) * units[:, None]
    assert ((told - x).abs() <= 0.501 * units[:, None]).all()
    assert torch.equal((codes.float() - 128).abs().amax(1), torch.where(x.abs().amax(1) > 0, 127.0, 0.0))
    weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(1))
    found, wanted = ByteProduct(weight)(codes) * units[:, None], told @ weight.t()
    assert (found - wanted).square().mean(1).sqrt().div(wanted.square().mean(1).sqrt().clamp_min(1e-20)).max() < 0.02


def test_what_is_compiled_is_looked_at_before_it_is_used(monkeypatch, caplog):
    made = compiled_rows()
    compiled_rows.cache_clear()
    monkeypatch.setattr(made, "gated", lambda *_: None)
    try:
        assert compiled_rows() is None
        assert "encoders go on without Numba, whose results for this processor are wrong" in caplog.text
    finally:
        monkeypatch.undo()
        compiled_rows.cache_clear()
    assert compiled_rows() is made

"""Slopes by hand agree with those of autograd through the float network in fp32."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipeline.codecs.learned import networks, tiles, weights
from pipeline.codecs.learned.networks import Networks
from pipeline.codecs.learned.slopes import ByHand, by_autograd
from tests.codecs import made_static
from tests.codecs.test_tiles import HAS_BF16

pytestmark = pytest.mark.skipif(not tiles.multiplies_rows(), reason="oneDNN is not at home here, autograd is used")


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def fast(request: pytest.FixtureRequest) -> Networks:
    """In both ways there are in floats, whichever is the faster here."""
    if request.param == "bf16" and not HAS_BF16:
        pytest.skip("this CPU has no instruction for bf16; in fp32 the same is looked at")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "has_fast_bf16", lambda: request.param == "bf16")
        patch.setattr(networks, "compiled_rows", lambda: None)
        return Networks(weights.packaged_model(weights.default_model_id("cnn")), "cpu")


@pytest.fixture(scope="module")
def plain(fast: Networks) -> Networks:
    """The same network in fp32, which autograd takes back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "has_fast_bf16", lambda: False)
        patch.setattr(networks, "multiplies_rows", lambda: False)
        return Networks(fast.model, "cpu")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return made_static.photos()[0]


def slopes(
    fast: Networks,
    plain: Networks,
    rgb: np.ndarray,
    centi: int,
    gray: bool = False,
    strength: int = 0,
    linear: bool = False,
) -> list[torch.Tensor]:
    with torch.no_grad():
        symbols, y_hat = fast._quantised(rgb, centi, gray, 0, strength)
        levels = fast._levels_of(symbols) if strength else None
        rows = slice(0, y_hat.shape[2])
        return [
            each._slope(rgb, y_hat[0], rows, each._steps(centi, levels), gray, None, linear=linear)
            for each in (fast, plain)
        ]


def likeness(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0))


@pytest.mark.parametrize("strength", [0, 2])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("centi", [1500, 9000])
@pytest.mark.parametrize("linear", [False, True])
def test_slopes_by_hand_are_those_of_autograd(fast, plain, photo, centi, gray, strength, linear):
    """Or, if linear, of nothing but the KLT, which is all that those know of as well."""
    found, wanted = slopes(fast, plain, photo, centi, gray, strength, linear)
    assert likeness(found, wanted) > 0.995  # 0.9969 at least; autograd in bf16 has 0.9953
    assert abs(float(found.norm() / wanted.norm()) - 1) < 0.02


def test_they_are_nearer_than_those_of_autograd_in_bf16(fast, plain, photo, monkeypatch):
    found, wanted = slopes(fast, plain, photo, 6000)
    monkeypatch.setattr(fast, "by_hand", None)
    monkeypatch.setattr(fast, "bf16", True)
    usual, _ = slopes(fast, plain, photo, 6000)
    assert likeness(found, wanted) > likeness(usual, wanted)


@pytest.mark.parametrize(("height", "width"), [(65, 130), (1, 1), (16, 333)])
def test_any_size_will_do(fast, plain, photo, height, width):
    found, wanted = slopes(fast, plain, photo[:height, :width], 6000)
    assert likeness(found, wanted) > 0.96  # autograd in bf16 has 0.965, for few pixels are in the middle of many


@pytest.mark.parametrize("place", [0, 1])
def test_tiles_leave_no_seams(fast, plain, place, monkeypatch):
    """What lies beyond a tile's halo, there and back, is worth next to nothing."""
    rgb = made_static.photos()[place]
    whole = slopes(fast, plain, rgb, 6000)
    monkeypatch.setattr(tiles, "TILE_PX", 128)
    parted = slopes(fast, plain, rgb, 6000)
    assert likeness(parted[0], whole[0]) > 0.9999
    assert likeness(parted[1], whole[1]) > 0.9999
    assert likeness(*parted) > 0.995


def test_slopes_by_hand_are_those_of_autograd_where_much_is_held(fast, photo):
    """As in autograd, what is cut off lets slopes pass, those of gates as well."""
    g_s = copy.deepcopy(fast.transforms.g_s)
    for block in g_s.blocks:
        block.held = 0.1 * block.held
    y_hat, steps = fast.latents_sent(photo, 6000, 0), fast._steps(6000)
    with torch.no_grad():
        by_hand = ByHand(g_s, fast.by_hand.dtype)(y_hat[0], steps, linear=False)
        automatic = by_autograd(g_s.float(), steps.in_pixel_units(y_hat), steps.quality, False)
        free = fast.by_hand(y_hat[0], steps, linear=False)[0]
        over = torch.from_numpy(np.random.default_rng(0).normal(size=automatic[0].shape)).float()
        found, wanted = (back(over) for _, back in (by_hand, automatic))
    assert (by_hand[0] - free).square().mean() > 30 * (by_hand[0] - automatic[0]).square().mean()
    assert likeness(found, wanted) > 0.995


def test_the_picture_is_nearer_to_that_of_fp32_than_autograds(fast, plain, photo):
    with torch.no_grad():
        y_hat = fast.latents_sent(photo, 6000, 0)
        steps = fast._steps(6000)
        part, quality = steps.in_pixel_units(y_hat), steps.quality
        wanted = plain.transforms.g_s(part, quality)
        by_hand = fast.by_hand(y_hat[0], steps, linear=False)[0]
        automatic = by_autograd(fast.transforms.g_s, part, quality, True)[0]
    error, usual = (float((x_hat - wanted).square().mean().sqrt()) * 255 for x_hat in (by_hand, automatic))
    assert error < 0.25
    assert error < usual

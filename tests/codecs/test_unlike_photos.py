"""Noise, dithering and hard patterns, which no photo teaches: pictures come back, and payloads stay small.

Models without limits took such pictures for a million bits a pixel, or for a quarter of a flat gray one's quality.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.metrics.distortion import mse, psnr_db
from pipeline.nn import models
from pipeline.nn.spec import HyperpriorSpec
from pipeline.nn.transforms import FREE, Blocks
from pipeline.records import Picture, Rate
from pipeline.training import export
from pipeline.training.data import Crops, load_photos
from pipeline.training.loop import rd_loss
from pipeline.training.spec import AugmentSpec

HEIGHT, WIDTH = 96, 160
RNG = np.random.default_rng(0)


def gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, 2).astype(np.uint8)


UNLIKE_PHOTOS = {
    "noise": gray(RNG.integers(0, 256, (HEIGHT, WIDTH))),
    "black and white": gray(255 * RNG.integers(0, 2, (HEIGHT, WIDTH))),
    "dithering": gray(255 * (np.linspace(0, 1, WIDTH) > RNG.random((HEIGHT, WIDTH)))),
    "checkers": gray(255 * np.kron(np.indices((HEIGHT // 2, WIDTH // 2)).sum(0) % 2, np.ones((2, 2)))),
    "mosaic": np.kron(RNG.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8),
    "colour noise": RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
}


@pytest.mark.parametrize("effort", [0, 1, 3])
@pytest.mark.parametrize("name", UNLIKE_PHOTOS)
def test_what_photos_do_not_teach_comes_back(name, effort):
    rgb = UNLIKE_PHOTOS[name]
    for quality in (10.0, 58.0, 90.0):
        codec = Hyperprior(Rate(quality=quality), device="cpu", effort=effort)
        payload = codec.encode(Picture(rgb)).payload
        found = psnr_db(mse(rgb, codec.decode(payload)))
        assert found > psnr_db(float(rgb.astype(float).var())), (quality, found)  # better than one flat colour
        assert 8 * len(payload) / (HEIGHT * WIDTH) < 16, quality


SMALL = HyperpriorSpec(
    latent=48, width=16, encoder_blocks=2, decoder_blocks=2, hyper_width=32, hyper=16, limited=True
)  # fmt: skip


@pytest.fixture
def crops(photos) -> Crops:
    return Crops([p[:300, :300] for p in load_photos(photos[0].parent)[:3]], 0)


def made(spec: HyperpriorSpec, crops: Crops) -> models.Model:
    torch.manual_seed(0)
    model = models.build(spec)
    model.start(crops.batch, 2000)
    for part in (model.g_a.down, model.g_s.head):
        torch.nn.init.normal_(part.weight, std=0.05)
    return model.eval()


def test_limits_change_nothing_on_photos_and_hold_noise_back(crops):
    model = made(SMALL, crops)
    x, quality = crops.batch(4, 64).float() / 255, torch.full((4,), 0.5)
    before = model(x, quality).x_hat
    assert not model.calibrated
    model.calibrate(crops.batch)
    assert model.calibrated
    assert torch.equal(model(x, quality).x_hat, before)
    wild = 1e3 * torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        through = model.g_s.blocks(wild.clone())
    assert (through.abs() <= model.g_s.blocks.limits[-1]).all()


def test_the_slope_of_what_is_held_back_passes_outside_of_training():
    row = Blocks(8, 1, limited=True).eval()
    row.limits.fill_(0.5)
    x = torch.full((1, 8, 2, 2), 3.0, requires_grad=True)
    for training, expected in ((False, True), (True, False)):
        row.train(training)
        (slope,) = torch.autograd.grad(row(1 * x).sum(), x)
        assert bool(slope.abs().max() > 0) == expected
    assert row(1 * x).abs().max() <= 0.5


def test_models_without_limits_have_no_such_arrays(crops):
    free = made(replace(SMALL, limited=False), crops)
    assert not [name for name in free.state_dict() if "limits" in name]
    assert free.calibrated


def test_export_calibrates_what_training_has_not(crops):
    model = made(SMALL, crops)
    photos = [photo.numpy() for photo in crops.photos]
    data = export.export(SMALL, model.state_dict(), photos, {})
    frozen = Hyperprior.from_weights(data, Rate(quality=50.0)).frozen
    assert isinstance(frozen, FrozenModel)
    for part in ("g_a", "g_s"):
        limits = frozen.arrays[f"{part}.blocks.limits"]
        assert limits.shape == (3, 16, 1, 1)
        assert limits.dtype == np.float32
        assert (limits > 0).all()
        assert (limits < FREE).all()


def test_new_blocks_of_a_row_have_the_limits_of_its_end(crops):
    short, long = made(SMALL, crops), made(replace(SMALL, encoder_blocks=3), crops)
    short.calibrate(crops.batch)
    long.load_state_dict(models.grown(short.state_dict(), long))
    old, new = short.g_a.blocks.limits, long.g_a.blocks.limits
    assert len(new) > len(old)
    assert torch.equal(new[: len(old)], old)
    assert all(torch.equal(limit, old[-1]) for limit in new[len(old) :])
    assert long.calibrated
    assert torch.equal(long.g_s.blocks.limits, short.g_s.blocks.limits)


def test_a_share_of_crops_is_synthetic(crops):
    crops.augment = AugmentSpec(synthetic=0.5)
    plain = Crops([photo.numpy() for photo in crops.photos], 0)
    x, photos = crops.augmented(8, 64), plain.augmented(8, 64)
    assert x.dtype == torch.uint8
    assert torch.equal(x[4:], photos[4:])
    assert all((a != b).any() for a, b in zip(x[:4], photos[:4], strict=True))


def test_synthetic_crops_have_a_bounded_loss_and_no_curvature(crops):
    model = made(SMALL, crops).train()
    x = crops.batch(2, 64).float() / 255
    x[0] = (torch.rand(64, 64) > 0.5).float()
    quality = torch.full((2,), 0.02)
    torch.manual_seed(0)
    whole = rd_loss(model, SMALL, x, quality)[0]
    torch.manual_seed(0)
    bounded = rd_loss(model, SMALL, x, quality, synthetic=1)[0]
    torch.manual_seed(0)
    photo = rd_loss(model, SMALL, x, quality, synthetic=2)[0]
    assert photo < bounded < whole
    assert bounded < whole - 1

"""The super-resolvers that come with the package, and `restore` for plain pictures."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import pipeline
from pipeline.codecs.learned import superres, weights
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.errors import ConfigError
from pipeline.imaging.resize import resized
from pipeline.metrics.luma import psnr_and_ssim
from pipeline.nn.spec import SuperresSpec
from pipeline.nn.superres import SuperResolver, freeze
from tests.codecs import made_static


@pytest.mark.parametrize("model_id", sorted(superres.packaged()))
def test_every_packaged_file_is_what_its_name_says_small_and_has_a_card(model_id):
    data = superres.packaged_bytes(model_id)
    model = superres.parse(data)
    assert hashlib.sha256(data).hexdigest().startswith(model_id)
    assert len(data) < 2_000_000
    assert {"name", "made", "steps", "recipe", "kmac_per_px", "validation"} <= model.card.keys()
    assert model_id in superres.trained_scales().values()


def test_restoring_beats_bicubic_by_a_decibel_on_photos():
    gains = []
    for photo in made_static.photos():
        low = resized(photo, 160, 200)
        ours, bicubic = superres.restore(low, 2, device="cpu"), resized(low, 320, 400)
        gains.append(psnr_and_ssim(photo, ours, 2)[0] - psnr_and_ssim(photo, bicubic, 2)[0])
    assert np.mean(gains) > 1.0
    assert min(gains) > 0


def test_tiles_leave_no_seams(monkeypatch):
    from pipeline.codecs.learned import enlarging

    rgb = made_static.photos()[2][:150, :210]
    network = superres.enlarger(superres.require_scale(2), "cpu")
    whole = network(rgb, 60.0)
    monkeypatch.setattr(enlarging, "TILE_PX", 48)
    assert np.abs(network(rgb, 60.0).astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
    "spec",
    [
        SuperresSpec(scale=3, width=8, blocks=12),
        SuperresSpec(trunk="codec", width=8, latent=48),
        SuperresSpec(trunk="backbone", backbone="mobilenet_v2", layer="features.1", width=8),
    ],
    ids=lambda spec: spec.trunk,
)
def test_no_trunk_leaves_seams(spec, monkeypatch):
    from pipeline.codecs.learned import enlarging

    torch.manual_seed(0)
    model = SuperResolver(spec)
    for parameter in model.trunk.out.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    meta = {"kind": "superres", "spec": spec.to_json(), "card": {}}
    network = superres.built(weights.serialise(freeze(model), meta), "cpu")
    rgb = made_static.photos()[2][:39, :389]
    whole = network(rgb, 60.0)
    assert np.abs(whole.astype(int) - resized(rgb, *whole.shape[:2])).mean() > 5
    monkeypatch.setattr(enlarging, "TILE_PX", 96)
    assert np.abs(network(rgb, 60.0).astype(int) - whole).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (33, 2)])
def test_any_size_comes_back_twice_as_large(height, width):
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert superres.restore(rgb, device="cpu").shape == (2 * height, 2 * width, 3)


def test_gray_pictures_stay_gray():
    gray = np.repeat(made_static.photos()[0][:40, :40, :1], 3, axis=2)
    out = superres.restore(gray, device="cpu")
    assert (out[..., :1] == out).all()


def test_scales_that_nobody_trained_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"scale 3: this installation has super-resolvers for 2x; train one") as told:
        superres.restore(np.zeros((8, 8, 3), np.uint8), scale=3)
    assert "\n" not in str(told.value)
    with pytest.raises(ConfigError, match=r"scale 4: super-resolver \w+ enlarges 2x"):
        superres.restore(np.zeros((8, 8, 3), np.uint8), scale=4, model=superres.require_scale(2))
    with pytest.raises(ConfigError, match="quality is 101"):
        superres.restore(np.zeros((8, 8, 3), np.uint8), quality=101)


def test_the_public_functions_keep_alpha_and_metadata():
    image = Image.fromarray(made_static.photos()[0][:30, :40]).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((40, 30)))
    image.info["icc_profile"] = profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    out = pipeline.restore(image, scale=2)
    assert (out.size, out.mode, out.info["icc_profile"]) == ((80, 60), "RGBA", profile)
    rgb = np.asarray(image.convert("RGB"))
    assert np.array_equal(Hyperprior(device="cpu").restore(rgb, scale=2), superres.restore(rgb, device="cpu"))

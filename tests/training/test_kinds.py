"""One loop for every kind of model: it learns, resumes exactly, takes losses, augmentation and backbones."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.static import Transfer
from pipeline.errors import ConfigError, TrainingError
from pipeline.nn import models
from pipeline.nn.backbone import Backbone
from pipeline.nn.complexity import kmac_per_px
from pipeline.nn.spec import ConvSpec, ModelSpec, TileSpec, TransferSpec
from pipeline.nn.static import reduced_rank
from pipeline.records import Picture, Rate
from pipeline.training import backbones, export, losses
from pipeline.training.data import Crops
from pipeline.training.loop import Trainer
from pipeline.training.spec import AugmentSpec, BackboneSpec, LossSpec, TrainSpec
from tests.codecs import made_static

BACKBONES = os.environ.get("SHARDPRESS_BACKBONES")
KINDS: dict[str, ModelSpec] = {
    "transfer": TransferSpec(backbone="squeezenet1_1", layer="features.2", latent=48, width=16, blocks=1),
    "conv": ConvSpec(levels=3, width=12, latent=48),
    "tile-autoencoder": TileSpec(levels=2, tile_px=16, width=12, latent=48),
}
SPEC = TrainSpec(
    steps=4, batch=2, crop_px=64, large_crop_px=64, warmup_steps=2, save_every_steps=100, validate_every_steps=100,
    holdout=2, klt_patches=1500, backbone=BackboneSpec(weights="none"),
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return made_static.photos()


def trained(spec: TrainSpec, pictures, out: Path, steps: int | None = None) -> Trainer:
    trainer = Trainer(spec, pictures, out)
    for _ in range(spec.steps - trainer.step if steps is None else steps):
        trainer.train_step()
    return trainer


@pytest.mark.parametrize("kind", ["conv", "tile-autoencoder"])
def test_training_lowers_the_loss(kind, pictures, tmp_path):
    spec = replace(SPEC, steps=120, model=KINDS[kind], ema_decay=0.5, klt_patches=400)
    trainer = Trainer(spec, pictures, tmp_path)
    before = trainer.validate()["loss"]
    for _ in range(120):
        trainer.train_step()
    assert trainer.validate()["loss"] < before


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_as_if_it_had_never_stopped(kind, pictures, tmp_path):
    spec = replace(SPEC, model=KINDS[kind], loss=LossSpec(adversarial=0.1), augment=AugmentSpec(brightness=0.2))
    whole = trained(spec, pictures, tmp_path / "whole")
    trained(spec, pictures, tmp_path / "broken", 2).save()
    resumed = trained(spec, pictures, tmp_path / "broken")
    assert resumed.step == whole.step == 4
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, value in whole.adversary.judge.state_dict().items():
        assert torch.equal(value, resumed.adversary.judge.state_dict()[name]), name


def test_a_frozen_backbone_stays_and_a_tuned_one_moves(pictures, tmp_path):
    for finetune in (False, True):
        spec = replace(SPEC, model=KINDS["transfer"], backbone=BackboneSpec("none", finetune=finetune), warmup_steps=1)
        trainer = Trainer(spec, pictures, tmp_path / str(finetune))
        before = {name: value.clone() for name, value in trainer.model.g_a.features.state_dict().items()}
        trainer.train_step()
        after = trainer.model.g_a.features.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items()) is not finetune


def test_the_linear_start_is_the_best_prediction_through_that_many_numbers():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, 20))
    pixels = features[:, :6] @ rng.normal(size=(6, 12)) + 3
    found = reduced_rank(features, pixels, 6)
    y = features @ found.encode.T + found.encode_bias
    assert np.allclose(y @ found.decode.T + found.decode_bias, pixels, atol=0.05)
    assert np.allclose(y.std(axis=0), found.std, rtol=1e-2)
    assert np.allclose(found.decode.T @ found.decode, np.eye(6), atol=1e-9)
    with pytest.raises(ConfigError, match=r"run\.model\.latent is 13"):
        reduced_rank(features, pixels, 13)


def test_the_start_is_not_fooled_by_features_that_say_nothing():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(900, 420))
    pixels = features[:, :6] @ rng.normal(size=(6, 12)) + rng.normal(size=(900, 12))
    found = reduced_rank(features[:600], pixels[:600], 12)
    missed = (features[600:] @ found.encode.T + found.encode_bias) @ found.decode.T + found.decode_bias - pixels[600:]
    assert np.square(missed).mean() < 2.6  # 1 is noise that nobody can predict; least squares misses by 3.4


@pytest.mark.parametrize("kind", ["mse", "ms-ssim", "mixed"])
def test_losses_are_zero_for_equal_pictures_and_rise_with_noise(kind):
    x = torch.rand(2, 3, 192, 192)
    distortion = losses.distortion_of(LossSpec(kind=kind), torch.device("cpu"))
    assert distortion(x, x).abs().max() < 1e-3
    little, more = (distortion(x + s * torch.randn_like(x), x) for s in (0.02, 0.1))
    assert (little > 0).all()
    assert (more > little).all()


def test_ms_ssim_says_what_crops_it_needs(pictures, tmp_path):
    spec = replace(SPEC, model=KINDS["conv"], loss=LossSpec(kind="ms-ssim"))
    with pytest.raises(TrainingError, match="at least 176 px"):
        trained(spec, pictures, tmp_path)


def test_features_of_a_judge_can_be_told_to_matter(pictures, tmp_path):
    loss = LossSpec(perceptual=1.0, judge="squeezenet1_1", layer="features.2", judge_weights=BackboneSpec("none"))
    x = torch.rand(1, 3, 96, 96)
    both = losses.distortion_of(loss, torch.device("cpu"))(x + 0.05, x)
    assert both > losses.mse(x + 0.05, x)
    trained(replace(SPEC, steps=1, model=KINDS["conv"], loss=loss), pictures, tmp_path)


def test_augmentation_changes_pictures_as_told_and_repeats():
    photo = np.random.default_rng(0).integers(60, 190, (200, 200, 3), dtype=np.uint8)
    plain = Crops([photo], 3).augmented(4, 64)
    assert torch.equal(plain, Crops([photo], 3).batch(4, 64))
    for augment in (AugmentSpec(brightness=0.3), AugmentSpec(contrast=0.5), AugmentSpec(saturation=0.9)):
        found = Crops([photo], 3, augment=augment).augmented(4, 64)
        assert torch.equal(found, Crops([photo], 3, augment=augment).augmented(4, 64))
        assert not torch.equal(found, plain)
        assert ((found.float() - plain.float()).abs().mean(dim=(1, 2, 3)) < 60).all()
    shrunk = Crops([photo], 3, augment=AugmentSpec(downscale=0.5)).augmented(4, 64)
    assert shrunk.shape == plain.shape
    assert shrunk.float().std() < 0.9 * plain.float().std()  # noise loses contrast when it is averaged


@pytest.mark.parametrize("name,layer", [("resnet18", "layer2"), ("efficientnet_b0", "features.3")])  # noqa: PT006
def test_backbones_of_other_shapes_land_on_the_grid(name, layer):
    backbone = Backbone(name, layer)
    assert backbone(torch.zeros(1, 3, 48, 80)).shape == (1, backbone.channels, 3 * backbone.fold, 5 * backbone.fold)


@pytest.mark.parametrize("layer", ["features.1", "features.4"])
def test_features_stay_where_they_look_and_only_the_last_ones_are_made_up(layer):
    backbone, x = Backbone("squeezenet1_1", layer), torch.rand(1, 3, 160, 208)
    found, seen = backbone(x), backbone.network((x - backbone.mean) / backbone.std)["out"]
    assert found.shape[2:] == (10 * backbone.fold, 13 * backbone.fold)
    assert torch.equal(found[:, :, :-1, :-1], seen)


def test_backbone_weights_come_from_a_pinned_file(tmp_path):
    own = Backbone("squeezenet1_1", "features.2")
    state = {name.removeprefix("features."): value.half() for name, value in own.network.state_dict().items()}
    path = tmp_path / "features.safetensors"
    path.write_bytes(safetensors.torch.save({**state, "12.extra": torch.zeros(1)}))
    pin = hashlib.sha256(path.read_bytes()).hexdigest()
    other = Backbone("squeezenet1_1", "features.2")
    origin = backbones.load(other, "squeezenet1_1", BackboneSpec(str(path), pin))
    assert origin == {"network": "squeezenet1_1", "weights": "features.safetensors", "sha256": pin}
    for name, value in own.network.state_dict().items():
        assert torch.allclose(value, other.network.state_dict()[name], atol=1e-2), name


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (BackboneSpec("nowhere.safetensors"), r"nowhere\.safetensors.*expected a state dict of squeezenet1_1"),
        (BackboneSpec("SqueezeNet_Weights.NONE"), "torchvision has no 'SqueezeNet_Weights.NONE'"),
    ],
)
def test_backbone_weights_that_cannot_be_had_are_named(spec, said):
    with pytest.raises(ConfigError, match=said):
        backbones.load(Backbone("squeezenet1_1", "features.2"), "squeezenet1_1", spec)


def test_backbone_weights_of_another_hash_or_network_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.torch.save({"features.0.weight": torch.zeros(2, 3, 3, 3)}))
    backbone = Backbone("squeezenet1_1", "features.2")
    with pytest.raises(ConfigError, match=r"run\.backbone\.sha256 expects 00"):
        backbones.load(backbone, "squeezenet1_1", BackboneSpec(str(path), "00"))
    with pytest.raises(ConfigError, match=r"features\.0\.weight is of shape \(2, 3, 3, 3\)"):
        backbones.load(backbone, "squeezenet1_1", BackboneSpec(str(path)))
    (tmp_path / "x.pt").write_bytes(b"PK not a file")
    with pytest.raises(ConfigError, match="not a state dict"):
        backbones.load(backbone, "squeezenet1_1", BackboneSpec(str(tmp_path / "x.pt")))


def test_weights_that_cannot_be_fetched_say_what_to_fetch(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"download https://download\.pytorch\.org/\S+ and give its path"):
        backbones.load(Backbone("squeezenet1_1", "features.2"), "squeezenet1_1", BackboneSpec("default"))


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("squeezenet1.1", "features.2", "did you mean 'squeezenet1_1'"),
        ("squeezenet1_1", "features.99", "has no layer 'features.99'"),
    ],
)
def test_unknown_backbones_and_layers_are_named(name, layer, said):
    with pytest.raises(ConfigError, match=said):
        Backbone(name, layer)


@pytest.mark.skipif(not BACKBONES, reason="SHARDPRESS_BACKBONES is not set to a folder with ImageNet weights")
def test_real_backbone_weights_beat_random_ones_at_the_start(pictures, tmp_path):
    found = {}
    files = {"none": "none", "real": str(next(Path(BACKBONES or "").glob("squeezenet1_1*.safetensors")))}
    for name, file in files.items():
        model = replace(KINDS["transfer"], layer="features.4")
        spec = replace(SPEC, model=model, backbone=BackboneSpec(file), klt_patches=4000)
        found[name] = Trainer(spec, pictures, tmp_path / name).validate()["loss"]
    assert found["real"] < found["none"]


def test_an_export_that_strays_is_refused(pictures, tmp_path):
    trainer = trained(replace(SPEC, model=KINDS["conv"]), pictures, tmp_path, 0)
    state = trainer.ema.weights  # the same model in units of y that 16 bits do not hold
    for name, factor in (("g_a.out.weight", 2.0**24), ("g_a.out.bias", 2.0**24), ("g_s.klt.weight", 2.0**-24)):
        state[name] *= factor
    state["log2_gain.table"] -= 24
    with pytest.raises(TrainingError, match="float model's is"):
        export.export(KINDS["conv"], state, pictures[:1], {})


def test_a_run_starts_from_an_exported_model_and_its_card_says_so(pictures, tmp_path):
    path = tmp_path / "0123.safetensors"
    path.write_bytes(made_static.model_of("transfer"))
    model = made_static.SPECS["transfer"]
    trainer = Trainer(replace(SPEC, init_from=str(path), model=model), pictures, tmp_path / "second")
    assert trainer.origin == {"device": "cpu", "init_from": "0123"}
    state = models.thawed("transfer", weights.parse(path.read_bytes()).arrays)
    assert torch.equal(trainer.model.state_dict()["g_a.out.weight"], state["g_a.out.weight"])
    again = export.export(model, trainer.ema.weights, pictures[:1], {})
    codec = Transfer.from_weights(again, Rate(quality=50.0))
    assert codec.decode(codec.encode(Picture(pictures[0][:50, :60].copy())).payload).shape == (50, 60, 3)


def test_work_is_counted():
    encoder, decoder = kmac_per_px(models.build(ConvSpec(levels=1, width=4, depth=1, latent=3)))
    # 3x3 from 3 to 4 channels at full size, then a 1x1 from 4 to 3 at a quarter of the pixels.
    assert encoder == pytest.approx((4 * 3 * 9 + 3 * 4 / 4) / 1e3)
    assert decoder > 0

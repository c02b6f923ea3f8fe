"""Super-resolvers: they start as bicubic, learn, resume exactly, and become files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.codecs.learned import superres as frozen
from pipeline.errors import BitstreamError, ConfigError
from pipeline.imaging.resize import resized
from pipeline.metrics import distortion
from pipeline.nn.spec import HyperpriorSpec, SuperresSpec
from pipeline.nn.superres import SuperResolver, enlarged
from pipeline.training import export, losses
from pipeline.training.degrade import Degrade, blurred, eight_bits, reduced
from pipeline.training.spec import BackboneSpec, DegradeSpec, LossSpec, TrainSpec
from pipeline.training.superres import SuperresTrainer, coder_of
from pipeline.training.tasks import trainer_of
from tests.codecs import made_static

SMALL = SuperresSpec(width=8, blocks=1, anchors=3)
SPEC = TrainSpec(
    steps=4, batch=2, crop_px=64, large_crop_px=64, warmup_steps=2, save_every_steps=100, validate_every_steps=100,
    holdout=2, lr=2e-3, ema_decay=0.5, degrade=DegradeSpec(realistic=0.5), model=SMALL,
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return made_static.photos()


def trained(spec: TrainSpec, pictures, out, steps: int | None = None) -> SuperresTrainer:
    trainer = trainer_of(spec)(spec, pictures, out)
    assert isinstance(trainer, SuperresTrainer)
    for _ in range(spec.steps - trainer.step if steps is None else steps):
        trainer.train_step()
    return trainer


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        replace(SMALL, scale=3),
        replace(SMALL, scale=4, trunk="codec", latent=24, encoder_blocks=1),
        replace(SMALL, trunk="backbone", backbone="mobilenet_v2", layer="features.1"),
    ],
    ids=lambda spec: f"{spec.trunk}-{spec.scale}x",
)
def test_every_trunk_starts_as_bicubic(spec, pictures):
    picture = pictures[0][:37, :50]
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        x_hat = SuperResolver(spec)(x, torch.tensor([0.5]))
    ours = (x_hat[0].permute(1, 2, 0) * 255).round().clamp(0, 255).numpy()
    theirs = resized(picture, spec.scale * 37, spec.scale * 50).astype(int)
    assert np.abs(ours - theirs)[12:-12, 12:-12].max() <= 1


def test_a_backbone_off_the_grid_of_pixels_is_refused():
    with pytest.raises(ConfigError, match=r"'features\.2' of squeezenet1_1 are not a whole number of pixels apart"):
        SuperResolver(replace(SMALL, trunk="backbone", backbone="squeezenet1_1", layer="features.2"))


def test_it_learns_to_beat_bicubic(pictures, tmp_path):
    spec = replace(SPEC, steps=60, degrade=DegradeSpec())
    trainer = trained(spec, pictures, tmp_path)
    found = trainer.validate()
    assert found["clean"]["gain_db"] > 0.1
    assert found["loss"] == pytest.approx(-found["clean"]["gain_db"])


def test_a_killed_run_goes_on_as_if_it_had_never_stopped(pictures, tmp_path):
    whole = trained(SPEC, pictures, tmp_path / "whole")
    trained(SPEC, pictures, tmp_path / "broken", 2).save()
    resumed = trained(SPEC, pictures, tmp_path / "broken")
    assert resumed.step == whole.step == 4
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


JUDGE = {"judge": "squeezenet1_1", "layer": "features.2", "judge_weights": BackboneSpec("none")}


@pytest.mark.parametrize(
    "loss", [{"kind": "ssim"}, {"kind": "mixed-ssim"}, {"perceptual": 0.1, **JUDGE}, {"adversarial": 0.1}], ids=str
)
def test_losses_teach(loss, pictures, tmp_path):
    trainer = trained(replace(SPEC, steps=2, loss=LossSpec(**loss)), pictures, tmp_path)
    assert trainer.skipped == 0
    assert float(trainer.model.trunk.out.weight.detach().abs().max()) > 0


def test_the_loss_and_the_metric_are_one_ssim(pictures):
    rng = np.random.default_rng(0)
    photo = pictures[0][:64, :80]
    noisy = np.clip(photo + rng.normal(0, 12, photo.shape), 0, 255).astype(np.uint8)
    x, y = (torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 255 for p in (photo, noisy))
    y.requires_grad_()
    loss = losses.ssim(y, x)
    assert 1 - loss.item() / losses.SSIM_UNITS == pytest.approx(distortion.ssim(photo, noisy), abs=1e-5)
    loss.sum().backward()
    assert y.grad is not None
    assert float(y.grad.abs().sum()) > 0


def test_reduced_pictures_are_those_of_the_protocol(pictures):
    x = torch.from_numpy(pictures[0].copy()).permute(2, 0, 1)[None].float() / 255
    ours = (reduced(x, 2)[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(ours - resized(pictures[0], 160, 200).astype(int)).max() <= 1  # sums differ in their order


def test_degradations_do_not_depend_on_how_a_batch_is_shared(pictures):
    x = torch.rand(4, 3, 64, 64)
    degrade = Degrade(DegradeSpec(realistic=1.0), 2, 7, None)
    whole, levels = degrade(x, step=3)
    half, of_half = degrade(x[2:], step=3, first=2)
    assert torch.equal(whole[2:], half)
    assert torch.equal(levels[2:], of_half)
    assert not torch.equal(whole, degrade(x, step=4)[0])
    assert whole.shape == (4, 3, 32, 32)


@pytest.mark.parametrize("only", [{"blur_px": 1.0}, {"noise": 20.0}, {"jpeg": 5.0}], ids=str)
def test_blur_noise_and_jpeg_each_take_more_the_lower_the_level(only, pictures):
    x = torch.from_numpy(pictures[3][128:192, :96].copy()).permute(2, 0, 1)[None].float() / 255
    none = {"blur_px": 0.0, "noise": 0.0, "jpeg": 100.0}

    def errors(strengths: dict[str, float]) -> np.ndarray:
        degrade = Degrade(DegradeSpec(realistic=1.0, **strengths), 2, 0, None)
        found = [degrade(x, step) for step in range(60)]
        assert all(torch.equal(low, eight_bits(low)) for low, _ in found)
        squares = [float((low - reduced(x, 2)).square().mean()) for low, _ in found]
        return np.array(squares)[np.argsort([float(level) for _, level in found])]

    more = errors(none | only) - errors(none)
    assert more[:20].mean() > 1e-3
    assert more[:20].mean() > 5 * np.abs(more[40:]).mean()


def test_crops_smaller_than_the_blur_are_blurred_all_the_same():
    assert blurred(torch.rand(1, 3, 9, 40), 20.0).shape == (1, 3, 9, 40)
    assert torch.equal(blurred(torch.ones(1, 3, 1, 1), 2.0), torch.ones(1, 3, 1, 1))


def test_coded_pictures_are_worse_the_lower_the_level(pictures):
    x = torch.from_numpy(np.stack(pictures[:2])).permute(0, 3, 1, 2).float() / 255
    degrade = Degrade(DegradeSpec(codec=1.0), 2, 0, coder_of("default"))
    low = reduced(x, 2)
    bad, good = (float((degrade.coded(low, level) - low).square().mean()) for level in (0.1, 0.9))
    assert bad > 4 * good > 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"codec": 0.7, "realistic": 0.4}, "sum to at most 1"),
        ({"noise": -1.0}, r"blur_px 1.0, noise -1.0, jpeg 10.0; expected .* from 0 and a quality in \[1, 100\]"),
        ({"jpeg": 101.0}, "jpeg 101.0"),
    ],
    ids=str,
)
def test_degradations_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        DegradeSpec(**wrong)


def test_a_trunk_takes_over_the_codec_and_names_sizes_that_do_not_fit(pictures, tmp_path):
    sizes = HyperpriorSpec(encoder_blocks=8, decoder_blocks=8)
    spec = SuperresSpec(
        trunk="codec", width=sizes.width, blocks=sizes.decoder_blocks, encoder_blocks=sizes.encoder_blocks
    )
    trainer = SuperresTrainer(replace(SPEC, model=spec, degrade=DegradeSpec()), pictures, tmp_path / "fits")
    codec = coder_of("default")
    assert torch.equal(trainer.model.trunk.g_s.up.weight, codec.g_s.up.weight)
    assert trainer.origin["trunk"]["network"] == "codec"
    with pytest.raises(ConfigError, match=r"has other sizes than run\.model"):
        SuperresTrainer(replace(SPEC, model=replace(spec, width=24)), pictures, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"has other sizes than run\.model"):
        SuperresTrainer(replace(SPEC, model=replace(spec, encoder_blocks=4)), pictures, tmp_path / "short")


def test_a_trained_one_becomes_a_file_that_does_the_same(pictures, tmp_path):
    trainer = trained(replace(SPEC, steps=20), pictures, tmp_path)
    data = export.export(SMALL, trainer.ema.weights, [], {"name": "test"})
    model = frozen.parse(data)
    assert model.spec == SMALL
    assert model.card == {"name": "test"}
    network = SuperResolver(SMALL)
    network.load_state_dict(trainer.ema.weights)
    x = torch.from_numpy(pictures[1].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        x_hat = (network(x, torch.tensor([0.3])) * 255).round().clamp(0, 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(frozen.built(data, "cpu")(pictures[1], 30.0) - x_hat).max() <= 1  # fp16 weights
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    again = SuperresTrainer(replace(SPEC, init_from=str(path)), pictures, tmp_path / "again")
    assert again.origin == {"device": "cpu", "init_from": "model"}


def test_files_of_other_things_are_refused(pictures):
    from pipeline.codecs.learned import weights

    for data in (b"", b"nothing", weights.packaged_bytes(weights.default_model_id())):
        with pytest.raises(BitstreamError, match="weights: "):
            frozen.parse(data)
    arrays = {"trunk.enter.weight": np.zeros((8, 3, 3, 3), np.float16)}
    lacking = weights.serialise(arrays, {"kind": "superres", "spec": SMALL.to_json(), "card": {}})
    with pytest.raises(BitstreamError, match="arrays do not fit"):
        frozen.built(lacking, "cpu")
    giant = weights.serialise(arrays, {"kind": "superres", "spec": SMALL.to_json() | {"width": 10**6}, "card": {}})
    with pytest.raises(BitstreamError, match="width is 1000000"):
        frozen.parse(giant)


def test_enlarging_is_fp32_whatever_is_around_it():
    x = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(enlarged(x.bfloat16(), 2), enlarged(x.bfloat16().float(), 2))


def test_two_workers_make_of_their_halves_what_one_makes_of_the_batch(pictures, tmp_path):
    """What each sees of a batch and what it costs; `tests/execution/test_training.py` has real workers."""
    trainer = trained(SPEC, pictures, tmp_path)
    x = trainer.crops.batch(4, 64).float() / 255
    whole, _, x_hat = trainer._loss(x, torch.zeros(4))
    halves = []
    for rank in range(2):
        trainer.group.rank = rank
        halves.append(trainer._loss(x[2 * rank : 2 * rank + 2], torch.zeros(2)))
    assert whole.item() == pytest.approx(sum(half[0].item() for half in halves) / 2, rel=1e-5)
    assert torch.allclose(x_hat, torch.cat([half[2] for half in halves]), atol=1e-5)

"""The trainer: it learns, and a kill changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.errors import TrainingError
from pipeline.nn.exact import PREFIX
from pipeline.nn.spec import HyperpriorSpec
from pipeline.records import Picture, Rate
from pipeline.training import export
from pipeline.training.data import Crops, load_photos, read_files
from pipeline.training.graphed import GraphedStep
from pipeline.training.loop import Trainer
from pipeline.training.polish import polish
from pipeline.training.quantised import DECODER
from pipeline.training.spec import TrainSpec

SMALL = HyperpriorSpec(latent=96, width=16, encoder_blocks=1, decoder_blocks=1, hyper_width=32, hyper=16)
SPEC = TrainSpec(
    steps=8, batch=2, crop_px=64, large_crop_px=128, warmup_steps=2, save_every_steps=4, validate_every_steps=8,
    holdout=2, klt_patches=2000, model=SMALL,
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(photos) -> list[np.ndarray]:
    return [p[:320, :400] for p in load_photos(photos[0].parent)[:6]]


def run(spec: TrainSpec, pictures, out) -> tuple[Trainer, list[dict]]:
    log: list[dict] = []
    trainer = Trainer(spec, pictures, out)
    trainer.run(log.append)
    return trainer, log


def test_training_lowers_the_loss(pictures, tmp_path):
    spec = replace(SPEC, steps=60, lr=2e-3, validate_every_steps=30, ema_decay=0.5)
    _, log = run(spec, pictures, tmp_path)
    losses = [record["validation"]["loss"] for record in log if "validation" in record]
    assert len(losses) == 2
    assert losses[1] < losses[0]


@pytest.mark.parametrize("graphed", [False, True])
def test_a_network_that_no_gradient_reaches_ends_the_run(pictures, tmp_path, graphed):
    trainer = Trainer(replace(SPEC, steps=60, batch=1), pictures, tmp_path)
    trainer.graphed = GraphedStep(trainer) if graphed else None
    trainer.model.g_s.up.register_forward_hook(lambda layer, seen, out: out.detach())
    with pytest.raises(
        TrainingError, match=r"step 50: no gradient reaches 2 of \d+ parameters of .*, such as g_s\.up\."
    ):
        trainer.run(lambda record: None)


def test_a_decoder_with_rounded_factors_learns_with_the_rest(pictures, tmp_path):
    spec = replace(SPEC, steps=60, lr=2e-3, validate_every_steps=30, ema_decay=0.5, quantised=True)
    trainer, log = run(spec, pictures, tmp_path)
    losses = [record["validation"]["loss"] for record in log if "validation" in record]
    assert losses[1] < losses[0]
    units = {name: value for name, value in trainer.ema.weights.items() if name.startswith(DECODER)}
    started = Trainer(spec, pictures, tmp_path / "other").ema.weights
    assert all(not torch.equal(value, started[name]) for name, value in units.items())


def test_a_run_goes_on_with_rounded_factors_or_without_as_it_began(pictures, tmp_path):
    Trainer(SPEC, pictures, tmp_path).save()
    with pytest.raises(TrainingError, match=r"started with run\.quantised=false"):
        Trainer(replace(SPEC, quantised=True), pictures, tmp_path)


def test_slopes_are_taken_within_what_codes_reach(pictures, tmp_path):
    spec = replace(SPEC, model=replace(SMALL, limited=True), init_from=None, quantised=True)
    trainer = Trainer(spec, pictures, tmp_path)
    trainer.model.calibrate(trainer.crops.batch)
    assert trainer.model.g_s.blocks.limits.min() > 0
    trainer.ema.weights[f"{DECODER}log_units.1/x"].fill_(-3.0)
    frozen = weights.parse(export.export(spec.model, trainer.ema.weights, pictures[:1], {}))
    found = polish(spec.model, trainer.ema.weights, frozen, pictures, steps=0, crops=2)
    assert torch.allclose(found.state["g_s.blocks.limits"][1], torch.tensor(127 * np.exp(-3.0)).float())


def test_a_polish_goes_on_with_the_units_that_were_trained(pictures, tmp_path):
    trainer, _ = run(replace(SPEC, quantised=True), pictures, tmp_path)
    for name, value in trainer.ema.weights.items():
        if name == f"{DECODER}log_units.0/x":
            value.fill_(-2.0)
    frozen = weights.parse(export.export(SMALL, trainer.ema.weights, pictures[:1], {}))
    found = polish(SMALL, trainer.ema.weights, frozen, pictures, steps=0, crops=2)
    assert np.allclose(found.arrays[f"{PREFIX}0.rescale"], np.exp(2.0))


@pytest.mark.parametrize("quantised", [False, True])
def test_a_killed_run_goes_on_as_if_it_had_never_stopped(pictures, tmp_path, quantised):
    spec = replace(SPEC, quantised=quantised)
    whole, _ = run(spec, pictures, tmp_path / "whole")
    broken = Trainer(spec, pictures, tmp_path / "broken")
    for _ in range(4):
        broken.train_step()
    broken.save()
    broken.train_step()  # work after the checkpoint is lost
    resumed, _ = run(spec, pictures, tmp_path / "broken")
    assert resumed.step == whole.step
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, value in whole.ema.weights.items():
        assert torch.equal(value, resumed.ema.weights[name]), name


def test_weights_gone_bad_are_rolled_back_and_slowed(pictures, tmp_path):
    trainer = Trainer(SPEC, pictures, tmp_path)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    with torch.no_grad():
        for parameter in trainer.model.g_s.parameters():
            parameter.fill_(float("nan"))
    for _ in range(5):
        trainer.train_step()
    assert trainer.skipped == 5
    assert trainer.lr_scale < 1
    for name, value in before.items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name


def test_the_schedule_ends_with_the_minutes(pictures, tmp_path):
    trainer = Trainer(replace(SPEC, steps=10**6, minutes=1.0), pictures, tmp_path)
    trainer.elapsed_s = 45.0
    assert trainer.progress == pytest.approx(0.75)
    trainer.elapsed_s = 61.0
    assert trainer.progress == 1.0


def test_an_exported_model_codes_and_its_tables_fit(pictures, tmp_path):
    trainer, _ = run(SPEC, pictures, tmp_path)
    data = export.export(SMALL, trainer.ema.weights, pictures[:2], {"name": "test"})
    assert data == export.export(SMALL, trainer.ema.weights, pictures[:2], {"name": "test"})
    codec = Hyperprior.from_weights(data, Rate(quality=40.0))
    picture = Picture(pictures[0][:100, :90])
    (analysis,) = codec.analyse([picture])
    read = codec.entropy_decode(codec.entropy_encode(analysis.symbols))
    assert np.array_equal(read.y, analysis.symbols.y)
    assert analysis.distortion.psnr_db > 20
    model = weights.parse(data)
    assert model.card == {"name": "test"}
    assert model.trellis is not None
    assert analysis.symbols.trellis
    without = Hyperprior.from_weights(data, Rate(quality=40.0))
    without.frozen = replace(model, trellis=None)
    (rounded,) = without.analyse([picture])
    lmbda = SMALL.lmbda(0.4) * picture.rgb[..., 0].size / 8
    cost, cost_rounded = (
        len(each.entropy_encode(found.symbols)) + lmbda * found.distortion.mse
        for each, found in ((codec, analysis), (without, rounded))
    )
    assert cost < cost_rounded


def test_an_export_whose_integers_stray_is_refused(pictures, tmp_path):
    trainer = Trainer(SPEC, pictures, tmp_path)
    trainer.ema.weights["h_s.conv1.weight"].normal_(0, 100)
    trainer.ema.weights["h_s.up1.weight"].normal_(0, 100)  # activations leave the integer range and saturate
    trainer.ema.weights["h_s.out.weight"].normal_(0, 1e-3)
    with pytest.raises(TrainingError, match="integer hyper-decoder"):
        export.export(SMALL, trainer.ema.weights, pictures[:1], {})


def test_a_foreign_checkpoint_is_named(pictures, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="not a checkpoint"):
        Trainer(SPEC, pictures, tmp_path)


def test_a_checkpoint_of_another_model_is_named(pictures, tmp_path):
    run(SPEC, pictures, tmp_path)
    with pytest.raises(TrainingError, match="another model"):
        Trainer(replace(SPEC, model=replace(SMALL, width=24)), pictures, tmp_path)


def test_photos_come_from_folders_and_tars_alike(photos, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for photo in photos[:3]:
            tar.add(photo, photo.name)
    from_tar = [data for _, data in read_files(tmp_path)]
    assert from_tar == [photo.read_bytes() for photo in photos[:3]]
    with pytest.raises(TrainingError, match="no such"):
        list(read_files(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="found no image"):
        load_photos(tmp_path / "empty")


def test_crops_smaller_than_asked_are_mirrored_and_repeatable():
    photo = np.arange(70 * 90 * 3, dtype=np.uint8).reshape(70, 90, 3)
    batch = Crops([photo], 3).batch(2, 128)
    assert batch.shape == (2, 3, 128, 128)
    assert torch.equal(batch, Crops([photo], 3).batch(2, 128))


def test_the_log_is_json(pictures, tmp_path):
    _, log = run(SPEC, pictures, tmp_path)
    assert json.loads(json.dumps(log)) == json.loads(json.dumps(log))
    assert any("validation" in record for record in log)


def test_the_bare_trainer_needs_no_package_but_four(photos, tmp_path):
    """torch, NumPy, Pillow and safetensors: everything else of ours is made unimportable."""
    import subprocess
    import sys

    forbidden = ["constriction", "pydantic", "typer", "ray", "pyarrow", "fsspec", "yaml", "rich", "imagecodecs"]
    spec = {"steps": 2, "batch": 1, "crop_px": 64, "large_crop_px": 64, "klt_patches": 1000, "holdout": 1}
    spec |= {
        "model": {"latent": 48, "width": 16, "encoder_blocks": 1, "decoder_blocks": 1, "hyper_width": 32, "hyper": 8}
    }
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({forbidden}))\n"
        "from pipeline.training.__main__ import main\n"
        f"main(['--data', {str(photos[0].parent)!r}, '--out', {str(tmp_path)!r}, '--device', 'cpu', "
        f"'--spec', {json.dumps(spec)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ema.safetensors").stat().st_size > 1000
    assert "mpix_per_s" in done.stdout


def test_a_run_can_start_from_an_exported_model(pictures, tmp_path):
    trainer, _ = run(SPEC, pictures, tmp_path / "first")
    trainer.ema.weights["h_s.out.bias"].normal_()
    (tmp_path / "model.safetensors").write_bytes(export.export(SMALL, trainer.ema.weights, pictures[:1], {}))
    second = Trainer(replace(SPEC, init_from=str(tmp_path / "model.safetensors")), pictures, tmp_path / "second")
    for name, value in second.model.state_dict().items():
        assert torch.allclose(value, trainer.ema.weights[name], atol=2e-3, rtol=2e-3), name
    with pytest.raises(TrainingError, match="no model of these sizes"):
        Trainer(
            replace(SPEC, init_from=str(tmp_path / "model.safetensors"), model=replace(SMALL, width=24)),
            pictures,
            tmp_path / "third",
        )


def test_photos_smaller_than_the_validation_crop_do(pictures, tmp_path):
    small = [p[:100, :90] for p in pictures]
    _, log = run(replace(SPEC, steps=2, validate_every_steps=2), small, tmp_path)
    assert any("validation" in record for record in log)

"""The step without a host in it, growth of trained models, and Muon by shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import TrainingError
from pipeline.nn import models
from pipeline.nn.spec import SuperresSpec
from pipeline.training.data import load_photos
from pipeline.training.graphed import GraphedStep, fits
from pipeline.training.loop import Trainer
from pipeline.training.muon import Muon, orthogonalised
from pipeline.training.optimizer import Optimizer
from pipeline.training.spec import LossSpec
from pipeline.training.superres import SuperresTrainer
from tests.training.test_loop import SMALL, SPEC


@pytest.fixture(scope="module")
def pictures(photos) -> list[np.ndarray]:
    return [p[:320, :400] for p in load_photos(photos[0].parent)[:6]]


def test_it_takes_the_steps_of_the_other(pictures, tmp_path):
    found = []
    for name in ("plain", "graphed"):
        trainer = Trainer(SPEC, pictures, tmp_path / name)
        trainer.graphed = GraphedStep(trainer) if name == "graphed" else None
        for _ in range(4):
            trainer.train_step()
        found.append(trainer)
    plain, graphed = found
    assert plain.step == graphed.step == 4
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, graphed.model.state_dict()[name]), name


def test_it_averages_and_reports_now_and_then(pictures, tmp_path):
    trainer = Trainer(replace(SPEC, ema_decay=0.5), pictures, tmp_path)
    trainer.graphed = GraphedStep(trainer)
    trainer.graphed.steps.fill_(100)
    start = {name: value.clone() for name, value in trainer.ema.weights.items()}
    trainer.step = 48
    assert trainer.train_step() == {}
    own = trainer.model.state_dict()
    for name, value in trainer.ema.weights.items():
        assert torch.allclose(value, (start[name] + own[name]) / 2, atol=1e-6), name
    record = trainer.train_step()
    assert record["loss"] > 0
    assert record["norm"] > 0
    assert record["skipped"] == 0


def test_a_wild_batch_moves_nothing_but_momentum(pictures, tmp_path):
    trainer = Trainer(replace(SPEC, optimizer="adamw"), pictures, tmp_path)
    step = trainer.graphed = GraphedStep(trainer)
    step.steps.fill_(1000)
    step.norm_mean.fill_(1e-9)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.step = 49
    assert trainer.train_step()["skipped"] == 1
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_closed_gate_holds_matrices_that_have_momentum():
    torch.manual_seed(0)
    optimizer = Optimizer(nn.Conv2d(8, 8, 1), 3.0, resident=torch.device("cpu"))
    ((_, matrix),) = optimizer.matrices
    optimizer.set_lr(0.1)
    for is_open, moves in ((True, True), (False, False), (True, True)):
        before, matrix.grad = matrix.detach().clone(), torch.randn(8, 8) * is_open
        optimizer.gate(torch.tensor(is_open))
        optimizer.muon.step()
        assert bool((matrix != before).any()) == moves


def test_a_gradient_that_is_no_number_reaches_nothing(pictures, tmp_path, monkeypatch):
    trainer = Trainer(SPEC, pictures, tmp_path)
    trainer.graphed = GraphedStep(trainer)
    trainer.train_step()
    loss_of = Trainer._loss

    def without_bounds(self, x, quality):
        loss, parts, x_hat = loss_of(self, x, quality)
        return loss * float("inf"), parts, x_hat

    monkeypatch.setattr(Trainer, "_loss", without_bounds)
    trainer.train_step()
    assert trainer.graphed.skipped == 1
    for tensor in (*trainer.graphed.weights, *trainer.graphed.averages, *trainer.optimizer.tensors()):
        assert tensor.isfinite().all()


def test_what_goes_wrong_from_the_start_ends(pictures, tmp_path):
    trainer = Trainer(SPEC, pictures, tmp_path)
    trainer.graphed = GraphedStep(trainer)
    with torch.no_grad():
        next(trainer.model.g_s.parameters()).fill_(float("nan"))
    trainer.step = 49
    with pytest.raises(TrainingError, match=r"step 50: .* lower run\.lr"):
        trainer.train_step()


def test_only_what_asks_nothing_of_the_host_is_captured(pictures, tmp_path):
    assert fits(Trainer(SPEC, pictures, tmp_path / "mse"))
    assert not fits(Trainer(replace(SPEC, loss=LossSpec("ssim")), pictures, tmp_path / "ssim"))
    superres = replace(SPEC, model=SuperresSpec(width=8, blocks=1))
    assert not fits(SuperresTrainer(superres, pictures, tmp_path / "superres"))


def test_a_state_from_a_gpu_goes_on_on_a_cpu(pictures, tmp_path):
    trainer = Trainer(SPEC, pictures, tmp_path)
    trainer.train_step()
    state = trainer.optimizer.state_dict()
    for group in state["muon"]["param_groups"] + state["adamw"]["param_groups"]:
        group |= {"lr": torch.tensor(0.1), "rate": torch.tensor(0.1)}
    for group in state["adamw"]["param_groups"]:
        group |= {"capturable": True, "fused": True}
    other = Trainer(SPEC, pictures, tmp_path)
    other.optimizer.load_state_dict(state)
    assert np.isfinite(other.train_step()["loss"])
    assert all(isinstance(group["lr"], float) for group in other.optimizer.param_groups)


def test_weights_gone_bad_come_back_slower(pictures, tmp_path):
    trainer = Trainer(SPEC, pictures, tmp_path)
    trainer.graphed = GraphedStep(trainer)
    trainer.step = 49
    trainer.train_step()
    healthy = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with torch.no_grad():
        next(trainer.model.g_s.parameters()).fill_(float("nan"))
    trainer.step = 99
    trainer.train_step()
    assert trainer.lr_scale == pytest.approx(2 / 3)
    for name, value in healthy.items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name
    trainer.step = 149
    assert np.isfinite(trainer.train_step()["loss"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; the step itself is tested above")
def test_a_captured_step_learns_like_one_kernel_by_kernel(pictures, tmp_path):
    trainer = Trainer(replace(SPEC, steps=200, validate_every_steps=100, ema_decay=0.5), pictures, tmp_path, "cuda")
    log: list[dict] = []
    trainer.run(log.append)
    assert trainer.graphed is not None
    assert trainer.graphed.graph is not None
    losses = [record["validation"]["loss"] for record in log if "validation" in record]
    assert losses[-1] < losses[0]


def test_muon_is_that_of_torch():
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 8), (24, 8), (8, 16)]
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    fast = Muon([{"params": ours}])
    slow = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for group in fast.param_groups:
        group["lr"] = torch.tensor(0.1)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        fast.step()
        slow.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=0.01)
        assert not torch.allclose(one, torch.ones_like(one), atol=0.05)


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((2, 16, 16), (1, 32, 8), (3, 8, 32)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)).float())
        assert values.min() > 0.3
        assert values.max() < 1.3


def test_a_model_with_more_blocks_begins_as_the_one_it_grew_from():
    torch.manual_seed(0)
    small = models.build(replace(SMALL, limited=True)).eval()
    for parameter in small.parameters():
        nn.init.normal_(parameter, std=0.1)
    small.calibrate(lambda count, size_px: torch.randint(0, 256, (count, 3, size_px, size_px), dtype=torch.uint8))
    large = models.build(replace(SMALL, encoder_blocks=3, decoder_blocks=2, limited=True)).eval()
    large.load_state_dict(models.grown(small.state_dict(), large))
    x, quality = torch.rand(1, 3, 64, 64), torch.tensor([0.5])
    assert large.calibrated
    assert torch.equal(small(x, quality).x_hat, large(x, quality).x_hat)
    out = large(x, quality)
    (out.x_hat.square().mean() + out.y_bits.mean()).backward()
    assert large.g_s.blocks[1].merge.weight.grad.abs().max() > 0
    wide = models.build(replace(SMALL, width=24))
    with pytest.raises(RuntimeError, match="size mismatch"):
        wide.load_state_dict(models.grown(small.state_dict(), wide))
    pixels = models.build(SuperresSpec(width=8, blocks=1))
    deeper = models.build(SuperresSpec(width=8, blocks=2))
    with pytest.raises(RuntimeError, match="Missing key"):
        deeper.load_state_dict(models.grown(pixels.state_dict(), deeper))

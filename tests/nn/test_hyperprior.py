import numpy as np
import pytest
import torch

from pipeline.nn.hyperprior import MeanScaleHyperprior, gaussian_bits, pad_to
from pipeline.nn.klt import klt
from pipeline.nn.layers import QualityTable, lower_bound
from pipeline.nn.spec import HyperpriorSpec

SPEC = HyperpriorSpec(latent=768, width=16, encoder_blocks=1, decoder_blocks=1, hyper_width=32, hyper=8)


def test_bits_are_those_of_the_gaussian_mass():
    bits = gaussian_bits(torch.tensor([0.0, 1.0, -1.0]), torch.tensor(1.0))
    assert bits.tolist() == pytest.approx([1.3849, 2.0485, 2.0485], abs=1e-3)


def test_bits_of_far_values_are_finite_and_have_a_gradient():
    residual = torch.tensor([3.0], requires_grad=True)
    bits = gaussian_bits(residual, torch.tensor(0.6))
    bits.backward()
    assert 0 < bits.item() < 30
    assert residual.grad is not None
    assert residual.grad.item() > 0


def test_lower_bound_lets_gradients_push_back_up():
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    (-lower_bound(x, 0.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-1.0, -1.0]


def test_quality_tables_interpolate_between_anchors():
    table = QualityTable(torch.tensor([[0.0], [2.0], [10.0]]))
    assert table(torch.tensor([0.0, 0.25, 0.5, 1.0])).flatten().tolist() == [0.0, 1.0, 2.0, 10.0]


def test_started_from_a_full_klt_the_model_is_a_perfect_transform():
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = MeanScaleHyperprior(SPEC)
    model.start_from_klt(*(torch.from_numpy(a).float() for a in klt(rng.random((2000, 768)))))
    x = torch.from_numpy(rng.random((1, 3, 64, 64))).float()
    quality = torch.tensor([0.5])
    with torch.no_grad():
        x_hat = model.g_s(model.g_a(x, quality), quality)
    assert (x - x_hat).abs().max() < 1e-4


def test_a_training_pass_reaches_every_weight():
    torch.manual_seed(0)
    model = MeanScaleHyperprior(SPEC)
    for zeroed in (model.g_a.down, model.g_s.head, model.h_s.out):
        torch.nn.init.normal_(zeroed.weight, std=0.02)
    out = model(torch.rand(2, 3, 64, 64), torch.tensor([0.2, 0.9]))
    (out.x_hat.square().mean() + (out.y_bits + out.z_bits).mean() / 4096).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_padding_repeats_the_edge():
    padded = pad_to(torch.arange(6.0).view(1, 1, 2, 3), 4)
    assert padded.shape == (1, 1, 4, 4)
    assert padded[0, 0, :, 3].tolist() == [2.0, 5.0, 5.0, 5.0]


def test_klt_rows_are_orthonormal_and_sorted():
    mean, basis, std = klt(np.random.default_rng(1).normal(size=(500, 12)) * np.arange(1, 13))
    assert np.allclose(basis @ basis.T, np.eye(12), atol=1e-9)
    assert np.all(np.diff(std) <= 0)
    assert mean.shape == (12,)

import numpy as np
import pytest
import torch

from pipeline.nn.hyperprior import Likelihoods, MeanScaleHyperprior, logistic_bits, loss_curvature, pad_to
from pipeline.nn.klt import klt
from pipeline.nn.layers import QualityTable, centroid_shift, gated, lower_bound, reconstruct, upper_bound
from pipeline.nn.spec import HyperpriorSpec

SPEC = HyperpriorSpec(latent=768, width=16, encoder_blocks=1, decoder_blocks=1, hyper_width=32, hyper=8)


def test_bits_are_those_of_the_logistic_mass():
    def mass(residual: float) -> float:
        scale = np.sqrt(3) / np.pi
        return 1 / (1 + np.exp(-(residual + 0.5) / scale)) - 1 / (1 + np.exp(-(residual - 0.5) / scale))

    bits = logistic_bits(torch.tensor([0.0, 1.0, -1.0]), torch.tensor(1.0))
    assert bits.tolist() == pytest.approx([-np.log2(mass(r)) for r in (0.0, 1.0, -1.0)], abs=1e-4)


@pytest.mark.parametrize("far", [3.0, 300.0, 30_000.0])
def test_bits_of_far_values_grow_with_the_distance_and_pull_back(far):
    residual = torch.tensor([far], requires_grad=True)
    bits = logistic_bits(residual, torch.tensor(0.125))
    bits.backward()
    slope = np.pi / np.sqrt(3) / 0.125 / np.log(2)
    assert bits.item() == pytest.approx((far - 0.5) * slope, rel=1e-3)
    assert residual.grad is not None
    assert residual.grad.item() == pytest.approx(slope, rel=1e-3)


def pull(value: float, loss, shift: float = 0.0, curvature: float = 0.0) -> float:
    """The gradient of `loss` of what `value` is reconstructed to."""
    x = torch.tensor([value], requires_grad=True)
    loss(reconstruct(x, torch.tensor([shift]), torch.tensor([curvature]))).sum().backward()
    assert x.grad is not None
    return x.grad.item()


def test_symbols_are_reconstructed_nearer_to_zero():
    x = torch.tensor([0.0, 0.45, -1.0, 2.6])
    assert reconstruct(x, torch.full((4,), 0.25), torch.zeros(4)).tolist() == [0.0, 0.0, -0.75, 2.75]


def test_rounding_pulls_between_integers_and_hardly_at_them():
    assert pull(0.0, torch.sum) < 0.2 < 1.5 < pull(0.45, torch.sum)
    grid = torch.linspace(0, 1, 1001, requires_grad=True)
    reconstruct(grid, torch.zeros(1001), torch.zeros(1001)).sum().backward()
    assert grid.grad is not None
    assert grid.grad.mean().item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("shift", [0.0, 0.2])
@pytest.mark.parametrize(("value", "wanted"), [(0.4, 0.4), (0.6, 0.6), (-0.3, -0.3), (1.7, 1.7), (0.45, 2.0)])
def test_the_pull_is_what_crossing_over_would_change(value, wanted, shift):
    low = np.floor(abs(value))
    levels = [np.sign(value) * (level - shift if level else 0.0) for level in (low, low + 1)]
    crossing = np.sign(value) * ((levels[1] - wanted) ** 2 - (levels[0] - wanted) ** 2)
    found = pull(value, lambda y: (y - wanted).square(), shift, curvature=2.0)
    assert found == pytest.approx(crossing * pull(value, torch.sum), rel=1e-4)


@pytest.mark.parametrize("sigma", [0.125, 0.5, 2.0, 50.0])
def test_centroids_are_those_of_a_logistic_tail(sigma):
    from scipy import stats

    law = stats.logistic(scale=sigma * np.sqrt(3) / np.pi)
    far = 6 * sigma + 1
    values = np.linspace(far - 0.5, far + 0.5, 10_001)
    mean = np.average(values, weights=law.pdf(values))
    assert far - mean == pytest.approx(centroid_shift(torch.tensor(sigma)).item(), abs=2e-3)


def test_the_curvature_of_the_loss_is_that_of_an_orthonormal_transform():
    """A latent moved by one step changes lmbda * MSE as the second derivative says, times `CURVATURE`."""
    from pipeline.nn.spec import CURVATURE
    from pipeline.training.loop import rd_loss

    def forward(x, quality, synthetic):
        return Likelihoods(x + moved, torch.zeros(2), torch.zeros(2))

    gain, quality = torch.full((2, 1, 1, 1), 5.0), torch.tensor([0.3, 0.8])
    losses = []
    for step in (0.0, 1.0):
        moved = torch.zeros(2, 3, 64, 64)
        moved[1, 0, 0, 0] = step / 5.0
        losses.append(rd_loss(forward, SPEC, torch.zeros(2, 3, 64, 64), quality)[0].item())
    curvature = loss_curvature(SPEC, quality, torch.Size((2, 3, 64, 64)), gain)
    assert losses[1] - losses[0] == pytest.approx(curvature[1].item() / 2 / CURVATURE, rel=1e-4)


def test_the_gate_and_its_gradient_are_those_of_torch():
    x = torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last).requires_grad_()
    weights = torch.randn(2, 3, 5, 4)
    (own,) = torch.autograd.grad((gated(x) * weights).sum(), x)
    (wanted,) = torch.autograd.grad((torch.nn.functional.glu(x, 1) * weights).sum(), x)
    assert torch.allclose(own, wanted, atol=1e-6)
    assert own.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.allclose(gated(x), torch.nn.functional.glu(x, 1), atol=1e-6)


def test_lower_bound_lets_gradients_push_back_up():
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    (-lower_bound(x, 0.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-1.0, -1.0]


def test_upper_bound_lets_gradients_push_back_down():
    x = torch.tensor([3.0, 1.0], requires_grad=True)
    y = upper_bound(x, 2.0)
    y.sum().backward()
    assert y.tolist() == [2.0, 1.0]
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0]


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

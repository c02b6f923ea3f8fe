import pytest
import torch
import torch.nn.functional as F

from pipeline.nn.layers import FromPixels, Pointwise, QualityTable, ToPixels, asinh


def test_asinh_is_as_accurate_as_that_of_torch_over_its_range():
    x = torch.cat([torch.zeros(1), *(sign * torch.logspace(-30, 17.9, 2000) for sign in (1, -1))])
    exact = torch.asinh(x.double())
    found, torchs = asinh(x).double(), torch.asinh(x).double()
    error, allowed = ((one - exact).abs() / exact.abs().clamp_min(1e-37) for one in (found, torchs))
    assert error.max() <= 2 * max(allowed.max().item(), 2**-24)
    assert found[0] == 0


def test_asinh_has_the_slope_of_asinh():
    x = torch.linspace(-20, 20, 41, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(asinh, x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [2, 8, 16])
def test_patches_are_those_of_pixel_shuffle(side, layout):
    x = torch.randn(2, 3, 32, 48).contiguous(memory_format=layout)
    enter, leave = FromPixels(side, 5), ToPixels(5, side)
    y = F.conv2d(F.pixel_unshuffle(x, side), enter.weight, enter.bias)
    torch.testing.assert_close(enter(x), y)
    picture = F.pixel_shuffle(F.conv2d(y, leave.weight, leave.bias), side)
    torch.testing.assert_close(leave(y), picture)
    y.requires_grad_()
    (slope,) = torch.autograd.grad(leave(y), y, x)
    torch.testing.assert_close(leave.adjoint(x), slope)
    before = enter(x), leave(y), leave.adjoint(x)
    names = leave.state_dict().keys()
    enter.settle(), leave.settle()
    assert all(map(torch.equal, before, (enter(x), leave(y), leave.adjoint(x))))
    assert leave.state_dict().keys() == names


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 20, 33, 17), (3, 20, 1, 1), (2, 20, 5, 64)])
def test_products_by_onednn_are_those_of_torch(layout, shape):
    x, layer = torch.randn(shape).contiguous(memory_format=layout), Pointwise(20, 7)
    with torch.inference_mode():
        found, wanted = layer(x), F.conv2d(x, layer.weight, layer.bias)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert found.shape == wanted.shape
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias))


@pytest.mark.parametrize("shape", [(3,), (1, 4, 5)])
def test_what_follows_from_quality_is_the_same_in_bf16(shape):
    """Encoders run their networks in bf16 and decoders do not, and both must mean the same gain."""
    table, quality = QualityTable(torch.randn(9, 7)), torch.rand(shape)
    exact = table(quality)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(table(quality), exact)

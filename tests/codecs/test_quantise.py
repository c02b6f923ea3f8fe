"""Which integers are sent: the sparse search finds what a search over everything finds."""

from __future__ import annotations

import pytest
import torch

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.quantise import PASSES, REACH, TRUST, Pass, Quantiser, move, passes_of, trusted


@pytest.fixture(scope="module")
def quantiser() -> Quantiser:
    return Quantiser(weights.packaged_model(weights.default_model_id("cnn")), torch.device("cpu"))


@pytest.fixture(scope="module")
def residual() -> torch.Tensor:
    """(8, 20, 30), many small and some beyond every table; not contiguous, as latents are cut from larger ones."""
    torch.manual_seed(0)
    return (torch.randn(8, 20, 31) * torch.logspace(-2, 2, 8)[:, None, None])[:, :, :30]


@pytest.fixture(scope="module")
def index(residual: torch.Tensor) -> torch.Tensor:
    return torch.randint(0, 89, residual.shape, dtype=torch.uint8)


@pytest.mark.parametrize("price", [0.03, 0.5, 20.0])
def test_the_cheapest_of_three_is_found_without_looking_everywhere(quantiser, residual, index, price):
    found = quantiser.cheapest(residual, index, torch.full((8, 1, 1), price))
    magnitude, tables = residual.abs(), index.long()
    nearest = (magnitude + quantiser.shifts[tables]).round()
    choices = torch.stack([nearest, (nearest - 1).clamp_min(0), torch.zeros_like(nearest)])
    errors = magnitude - (choices - choices.sign() * quantiser.shifts[tables])
    costs = quantiser.bits[tables.expand_as(choices), choices.clamp_max(REACH).long()] + price * errors.square()
    dense = choices.gather(0, costs.argmin(0)[None])[0].where(magnitude < REACH, nearest) * residual.sign()
    assert torch.equal(found, dense * (index >= quantiser.skip_below))


def test_centroids_lie_below_their_integers_and_zero_stays(quantiser, residual, index):
    symbols = quantiser.nearest(residual, index)
    centred = quantiser.centred(symbols, index)
    assert (centred[symbols == 0] == 0).all()
    moved = symbols != 0
    shifts = symbols.sign() * quantiser.shifts[index.long()]
    torch.testing.assert_close((symbols - centred)[moved], shifts[moved], rtol=0, atol=1e-4)


def test_one_table_a_channel_is_enough(quantiser, residual):
    index = torch.arange(40, 48, dtype=torch.uint8)[:, None, None]
    price = torch.full((8, 1, 1), 0.5)
    whole = index.expand_as(residual).contiguous()
    assert torch.equal(quantiser.cheapest(residual, index, price), quantiser.cheapest(residual, whole, price))


def test_passes_get_shorter_and_the_first_is_linear():
    for count in PASSES:
        steps = list(passes_of(count, 0.5))
        assert [step.linear for step in steps] == [k == 0 for k in range(count)]
        assert [step.last for step in steps] == [k == count - 1 for k in range(count)]
        pulls = [step.pull for step in steps]
        assert pulls == sorted(pulls, reverse=True)
        assert all(0 < pull < 0.5 for pull in pulls)


@pytest.mark.parametrize(("linear", "share"), [(False, 0.96), (True, 1.2)])
def test_a_slope_is_believed_as_far_as_trust_goes(linear, share):
    """A squared error worth b bits has a slope of 2 b for each step that it is off."""
    bits = torch.tensor([0.25, 4.0]).view(2, 1, 1)
    off = torch.tensor([[0.1, 3.0], [-0.2, 4.0]]).view(2, 1, 2)
    wish = trusted(2 * bits * off, bits, 0.5, linear)
    torch.testing.assert_close(wish[:, :, 0], share * off[:, :, 0])
    assert float(wish[:, 0, 1].square().mean().sqrt()) == pytest.approx(TRUST)
    torch.testing.assert_close(wish[1, 0, 1] / wish[0, 0, 1], torch.tensor(4 / 3))


def test_a_target_moves_part_of_the_way_to_where_the_slope_wants_it():
    generator = torch.Generator().manual_seed(0)
    target, y_hat, slope = (0.1 * torch.randn(8, 3, 4, generator=generator) for _ in range(3))
    bits, before = torch.full((8, 1, 1), 0.5), target.clone()
    wanted = y_hat - trusted(slope.clone(), bits, 0.5, linear=True)
    move(target, y_hat, slope, bits, 0.5, Pass(0.25, linear=True, last=False))
    torch.testing.assert_close(target, 0.75 * before + 0.25 * wanted)

"""Finding a filter: least squares over what was seen of a picture and its error."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.codecs.learned.filtering import Evidence, limits_at
from pipeline.codecs.learned.filters import Filter
from tests.codecs import made_static
from tests.codecs.test_wiener import CPU, random_filter


def test_errors_count_by_what_they_are_worth_where_they_are():
    x_hat, x = torch.rand(2, 1, 3, 60, 50, generator=torch.Generator().manual_seed(0))

    def evidence(x_hat: torch.Tensor, x: torch.Tensor, bits: torch.Tensor) -> Evidence:
        found = Evidence(60, 50, gray=False, quality=1.0, largest=1024)
        found.add(x_hat, x, bits)
        return found

    even, spread = (evidence(x_hat, x, bits) for bits in (torch.tensor([7.0]), torch.full((1, 1, 60, 50), 7.0)))
    assert np.allclose(even.gram, spread.gram, atol=1e-4 * even.gram.max())
    assert np.allclose(even.cross, spread.cross, atol=1e-4 * np.abs(even.cross).max())
    half = torch.ones(1, 1, 60, 50)
    half[:, :, :30] = 0
    below, alone = evidence(x_hat, x, half), evidence(x_hat[:, :, 28:], x[:, :, 28:], torch.ones(1))
    assert np.allclose(below.gram, alone.gram, atol=1e-4 * alone.gram.max())
    assert below.gram.max() < 0.7 * even.gram.max() / 7


def test_least_squares_find_what_was_done_to_a_picture():
    """A picture whose error is a known filter of it, seen by a fifth of its rows, all but loses it."""
    levels = made_static.photos()[1][:240, :320].astype(np.float32)
    done = random_filter(1, largest=20, shift=9, limits=limits_at(1.0))
    wanted = Filter(done, CPU)(torch.from_numpy(levels))
    x_hat, x = (torch.as_tensor(part).permute(2, 0, 1)[None] / 255 for part in (levels, wanted))
    evidence = Evidence(240, 320, gray=False, quality=1.0, largest=1024)
    evidence.share = 0.2
    evidence.add(x_hat, x, torch.tensor([1e7]))
    found = evidence.filter()
    assert found is not None
    after = Filter(found, CPU)(torch.from_numpy(levels))
    before = (torch.from_numpy(levels) - wanted)[2:-2, 2:-2].square().mean()
    assert (after - wanted)[2:-2, 2:-2].square().mean() < 0.02 * before


def test_what_tables_do_not_hold_or_is_no_number_is_not_sent():
    x_hat = torch.rand(1, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    x = x_hat.roll(1, 1)  # each colour is another one: taps of 256
    evidence = Evidence(60, 60, gray=False, quality=1.0, largest=1024)
    evidence.add(x_hat, x, torch.tensor([1e7]))
    found = evidence.filter()
    assert found is not None
    assert np.abs(found.taps).max() > 200
    evidence.largest = 100
    assert evidence.filter() is None
    evidence.largest = 1024
    evidence.add(x_hat * np.nan, x, torch.tensor([1e7]))
    assert evidence.filter() is None


def test_a_thorough_look_is_at_four_times_as_many_rows_and_never_at_more_than_there_are():
    def share(height_px: int, width_px: int, thorough: bool) -> float:
        return Evidence(height_px, width_px, gray=False, quality=0.5, largest=1024, thorough=thorough).share

    assert share(1000, 1000, thorough=True) == 4 * share(1000, 1000, thorough=False) < 1
    assert share(8000, 8000, thorough=True) == 1 / 4
    assert share(300, 300, thorough=True) == share(300, 300, thorough=False) == 1

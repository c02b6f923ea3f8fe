from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.metrics import window

RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize(("side", "taps"), [(1, 1), (2, 1), (3, 3), (10, 9), (11, 11), (500, 11)])
def test_the_window_fits_the_side(side, taps):
    found = window.gaussian(side)
    assert len(found) == taps
    assert found.sum() == pytest.approx(1, abs=1e-6)
    assert (found == found[::-1]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_filtering_is_convolution_where_the_window_fits(channels):
    maps = RANDOM.random((2, 15, 18 * channels)).astype(np.float32)
    taps = window.gaussian(11)
    found = window.filtered(maps, taps, taps, channels).reshape(2, 5, 8, channels)
    kernel = np.outer(taps, taps)
    for row, column in [(0, 0), (4, 7), (2, 3)]:
        part = maps.reshape(2, 15, 18, channels)[:, row : row + 11, column : column + 11]
        expected = (part * kernel[None, :, :, None]).sum(axis=(1, 2))
        assert found[:, row, column] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [(8, 6), (7, 6), (8, 5), (7, 5), (1, 1)])
def test_halving_is_that_of_pytorch_msssim(size):
    picture = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].double()
    padding = [side % 2 for side in size]
    expected = torch.nn.functional.avg_pool2d(tensor, kernel_size=2, padding=padding)[0].permute(1, 2, 0).numpy()
    assert window.halved(picture) == pytest.approx(expected, abs=1e-4)

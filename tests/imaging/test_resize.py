"""Resampling as MATLAB does it, held against Pillow's and torch's own bicubic, which others wrote."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.imaging.resize import matrix, resized, taps

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(40, 216, (96, 120, 3), dtype=np.uint8)  # no overshoot leaves the range


def by_pillow(picture: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    """One channel of floats, so that nothing is rounded on the way."""
    return np.asarray(Image.fromarray(picture[:, :, 0].astype(np.float32)).resize(size, method))


@pytest.mark.parametrize(("height", "width"), [(48, 60), (32, 40), (24, 30), (192, 240), (70, 95)])
@pytest.mark.parametrize(
    ("kernel", "method"), [("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS)]
)
def test_inside_it_is_what_pillow_computes(height, width, kernel, method):
    ours = resized(PICTURE, height, width, kernel)[:, :, 0].astype(float)
    theirs = by_pillow(PICTURE, (width, height), method)
    inside = np.s_[height // 6 : -height // 6, width // 6 : -width // 6]  # borders are mirrored here, cut there
    assert np.abs(ours - theirs)[inside].max() <= 0.51


def test_inside_it_is_what_torch_computes():
    x = torch.from_numpy(PICTURE).permute(2, 0, 1)[None].float()
    for height, width in ((48, 60), (192, 240)):
        theirs = F.interpolate(x, size=(height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
        ours = resized(PICTURE, height, width)
        assert np.abs(ours - theirs)[12:-12, 12:-12].max() <= 0.51


def test_borders_are_mirrored():
    """MATLAB's imresize([1 2 3 4 5 6 7 8] * 16, 0.5), by hand from its kernel: eight taps, first and last mirrored."""
    row = (np.arange(1, 9, dtype=np.uint8) * 16)[None, :, None]
    kernel = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    mirrored = np.concatenate([row[0, 2::-1, 0], row[0, :, 0], row[0, :4:-1, 0]]).astype(float)
    expected = [kernel @ mirrored[start : start + 8] for start in range(0, 8, 2)]
    assert np.array_equal(resized(row, 1, 4)[0, :, 0], np.round(expected).astype(np.uint8))


def test_flat_pictures_stay_flat_at_any_size():
    flat = np.full((5, 1, 3), 77, np.uint8)
    for height, width in ((1, 1), (3, 2), (10, 2), (9, 7)):
        assert (resized(flat, height, width) == 77).all()
        assert resized(flat, height, width, "lanczos").shape == (height, width, 3)


def test_the_matrix_says_the_same_as_the_taps():
    weights, sources = taps(9, 5)
    vector = RNG.random(9)
    assert np.allclose(matrix(9, 5) @ vector, (weights * vector[sources]).sum(axis=1), atol=1e-6)


def test_unknown_kernels_are_named():
    with pytest.raises(ConfigError, match="expected one of bicubic, lanczos"):
        resized(PICTURE, 4, 4, "cubic")

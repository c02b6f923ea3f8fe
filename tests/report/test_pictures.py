"""Pictures for the page: windows, heat maps and their sizes."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.report import pictures


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_the_window_is_where_the_error_is():
    error = np.zeros((1000, 1500), np.float32)
    error[700:720, 1200:1230] = 50
    top, left, height, width = pictures.worst_window(error)
    assert (height, width) == (360, 480)
    assert top <= 700
    assert top + height >= 720
    assert left <= 1200
    assert left + width >= 1230


@pytest.mark.parametrize("shape", [(1, 1), (20, 2000), (361, 481)])
def test_the_window_of_a_small_picture_stays_inside(shape):
    error = np.random.default_rng(0).random(shape, np.float32)
    top, left, height, width = pictures.worst_window(error)
    assert (height, width) == (min(360, shape[0]), min(480, shape[1]))
    assert 0 <= top <= shape[0] - height
    assert 0 <= left <= shape[1] - width


def test_a_photo_fits_its_limit():
    noise = np.random.default_rng(0).integers(0, 256, (360, 480, 3), np.uint8)
    flat = np.full((360, 480, 3), 90, np.uint8)
    assert opened(pictures.photo(flat, 10_000)).size == (480, 360)
    assert len(pictures.photo(noise, 60_000)) < len(pictures.photo(noise, 10_000_000))


def test_heat_maps_rise_in_lightness():
    colours = pictures.viridis(np.linspace(0, 1, 50)).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(colours) > 0).all()


def test_heat_maps_keep_blocks_and_shrink_large_ones():
    assert opened(pictures.heat_map(np.eye(32), 1.0)).size == (32, 32)
    assert max(opened(pictures.heat_map(np.ones((1000, 500)), 1.0)).size) == pictures.MAP_PX
    assert pictures.shrunk(np.ones((1000, 701))).shape == (250, 176)


def test_errors_are_mean_levels():
    before, after = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    after[0, 0] = (30, 0, 255)
    assert pictures.error_of(before, after)[0, 0] == 95.0

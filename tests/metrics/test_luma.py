"""The protocol of the super-resolution literature."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from pipeline.errors import MetricError
from pipeline.imaging.resize import resized
from pipeline.metrics.luma import luma, psnr_and_ssim

SET5 = os.environ.get("SHARDPRESS_SET5")


def test_y_is_that_of_matlab():
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert luma(colours)[0, :, 0].tolist() == [16, 235, 81, 145, 41]


def test_psnr_and_ssim_are_of_y_without_its_border():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    y = np.clip(x + rng.normal(0, 9, x.shape), 0, 255).astype(np.uint8)
    spoilt = y.copy()
    spoilt[:2], spoilt[:, -2:] = 0, 255
    psnr_db, ssim = psnr_and_ssim(x, spoilt, 2)
    assert (psnr_db, ssim) == psnr_and_ssim(x, y, 2)
    a, b = (luma(p)[2:-2, 2:-2, 0].astype(float) for p in (x, y))
    assert psnr_db == pytest.approx(10 * np.log10(255**2 / np.mean((a - b) ** 2)))
    theirs = structural_similarity(a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert ssim == pytest.approx(theirs, abs=1e-4)


def test_a_picture_that_is_all_border_is_refused():
    with pytest.raises(MetricError, match="nothing left"):
        psnr_and_ssim(np.zeros((4, 9, 3), np.uint8), np.zeros((4, 9, 3), np.uint8), 2)


@pytest.mark.skipif(not SET5, reason="SHARDPRESS_SET5 is not set to the folder of Set5's five pictures")
def test_bicubic_on_set5_is_what_papers_say():
    """33.66 dB and 0.9299, x2; the check of the whole protocol."""
    scores = []
    for path in sorted(Path(SET5 or "").iterdir()):
        true = np.asarray(Image.open(path).convert("RGB"))
        true = true[: true.shape[0] // 2 * 2, : true.shape[1] // 2 * 2]
        low = resized(true, true.shape[0] // 2, true.shape[1] // 2)
        scores.append(psnr_and_ssim(true, resized(low, *true.shape[:2]), 2))
    psnr_db, ssim = np.mean(scores, axis=0)
    assert psnr_db == pytest.approx(33.66, abs=0.1)
    assert ssim == pytest.approx(0.9299, abs=0.003)

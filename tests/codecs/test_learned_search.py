"""The search of learned codecs over quality, on curves unlike the typical one."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest

from pipeline.codecs.learned import search
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.metrics.distortion import mse, psnr_db
from pipeline.records import Rate
from tests.contracts.codec import photo

REFERENCE = np.zeros((100, 100, 3), np.uint8)


@pytest.mark.parametrize("span", [0.8, 1.6, 3.2, 6.4])
@pytest.mark.parametrize("share", [0.03, 0.1, 0.5, 0.9, 0.97])
def test_sizes_are_met_in_six_passes_however_steep_the_curve(span, share):
    """Bytes grow by e^span from quality 0 to 100, most of it at the upper end; the target is `share` of the way."""
    passes = []

    def size(centi: int) -> int:
        return round(2000 * math.exp(span * (0.7 * centi + 0.3 * centi**2 / 1e4) / 1e4))

    def analyse(centi: int, worth: float) -> Any:
        passes.append(centi)
        return centi, REFERENCE

    wanted = 2000 * math.exp(span * share)
    found, _ = cast(tuple[int, np.ndarray], search.reach(Rate(bpp=8 * wanted / 1e4), REFERENCE, analyse, size, "curve"))  # type: ignore[arg-type]
    assert len(passes) <= search.PASSES
    assert 0.98 * wanted <= size(found) <= wanted


# PSNR (dB) of kodim03 at hundredths of quality, effort 1, model 6dc4b6abdb5267a0: from 641 to 682 it falls.
KODIM03 = {0: 29.434, 200: 29.658, 400: 29.812, 582: 29.975, 641: 30.07, 682: 30.064, 800: 30.206, 1000: 30.388}
KODIM03 |= {1191: 30.603, 1500: 30.94, 5000: 34.972, 10_000: 41.0}


@pytest.mark.parametrize("target", [29.7, 29.9, 30.0, 30.1, 30.3, 31.0, 33.0])
def test_a_psnr_is_met_although_near_qualities_differ_by_chance(target):
    passes = []

    def analyse(centi: int, worth: float) -> Any:
        passes.append(centi)
        value = np.interp(centi, list(KODIM03), list(KODIM03.values()))
        x_hat = np.zeros_like(REFERENCE)
        x_hat.reshape(-1)[: round(255**2 / 10 ** (value / 10) * x_hat.size / 25**2)] = 25
        return centi, x_hat

    found = search.reach(Rate(psnr_db=target), REFERENCE, analyse, lambda symbols: 0, "curve", fine=False)
    assert len(passes) <= search.PASSES
    assert target <= psnr_db(mse(REFERENCE, found[1])) <= target + 0.05


@pytest.mark.parametrize("rise", [0.5, 0.9, 1.8])
@pytest.mark.parametrize("seed", range(20))
def test_where_qualities_differ_by_chance_worth_meets_the_target(seed, rise):
    """Each quality is off by up to 0.1 dB, at random; at one quality PSNR follows the worth, more or less steeply."""
    passes, target = [], 30 + 8 * np.random.default_rng(seed).random()

    def analyse(centi: int, worth: float) -> Any:
        passes.append((centi, worth))
        chance = np.random.default_rng([seed, centi]).uniform(-0.1, 0.1)
        value = 27 + 14 * centi / 1e4 + chance + rise * math.log(worth)
        x_hat = np.zeros_like(REFERENCE)
        x_hat.reshape(-1)[: round(255**2 / 10 ** (value / 10) * x_hat.size / 25**2)] = 25
        return centi, x_hat

    found = search.reach(Rate(psnr_db=target), REFERENCE, analyse, lambda symbols: 0, "curve")
    assert len(passes) <= search.PASSES
    assert all(abs(math.log(worth)) <= search.FINEST for _, worth in passes)
    assert target <= psnr_db(mse(REFERENCE, found[1])) <= target + 0.05


@pytest.mark.parametrize("effort", [0, 1])
def test_more_worth_is_a_better_picture_of_more_bytes_at_the_same_quality(effort):
    codec, rgb = Hyperprior(device="cpu", effort=effort), photo(200, 310)
    assert codec.networks.minds_worth(effort)
    found = [codec.networks.analyse(rgb, 5400, False, effort, 0, worth) for worth in (0.8, 1.0, 1.25)]
    psnrs = [psnr_db(mse(rgb, x_hat)) for _, x_hat in found]
    sizes = [len(codec.entropy_encode(symbols)) for symbols, _ in found]
    assert psnrs == sorted(psnrs)
    assert sizes == sorted(sizes)
    assert psnrs[2] - psnrs[0] > 0.2

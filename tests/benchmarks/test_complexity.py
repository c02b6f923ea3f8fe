"""The default model costs at most 20 kMAC per pixel each way, and the counter counts what it should."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.codecs.learned import weights
from pipeline.nn.complexity import macs
from tests.benchmarks import complexity

LIMIT_KMAC_PER_PX = 20.0


@pytest.fixture(scope="module")
def found() -> complexity.Complexity:
    return complexity.complexity_of(weights.packaged_model(weights.default_model_id()))


def test_the_default_encoder_costs_at_most_20_kmac_per_pixel(found: complexity.Complexity) -> None:
    assert 1.0 < found.encoder <= LIMIT_KMAC_PER_PX


def test_the_default_decoder_costs_at_most_20_kmac_per_pixel(found: complexity.Complexity) -> None:
    assert 1.0 < found.decoder <= LIMIT_KMAC_PER_PX


def test_a_convolution_costs_outputs_times_fan_in() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2, groups=8))
    expected = 6 * 6 * (8 * 4 * 9 + 8 * 25)
    with torch.inference_mode():
        assert macs(network, torch.zeros(1, 4, 6, 6)) == expected

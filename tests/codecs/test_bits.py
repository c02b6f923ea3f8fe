"""The bit-allocation map adds up to the payload that it explains."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.bitstream import container
from pipeline.codecs.learned import bits
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.imaging.decode import decode
from pipeline.records import Picture, Rate


@pytest.mark.parametrize("quality", [10.0, 60.0, 95.0])
def test_the_map_adds_up_to_the_words_of_y(photos, quality):
    rgb = decode(photos[0].read_bytes()).rgb[:208, :320]
    codec = Hyperprior(Rate(quality=quality), device="cpu")
    payload = codec.encode(Picture(rgb)).payload
    found = bits.allocation(codec.frozen, codec.entropy_decode(payload))
    sections = container.unpack(payload).sections
    coded = 8 * (len(sections[container.Y]) + len(sections.get(container.ESCAPES, b"")))
    assert found.shape == (13, 20)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(coded, rel=0.02, abs=80)


def test_a_flat_half_costs_less_than_a_noisy_one():
    rgb = np.full((128, 256, 3), 128, np.uint8)
    rgb[:, 128:] = np.random.default_rng(0).integers(0, 256, (128, 128, 3))
    codec = Hyperprior(Rate(quality=50.0), device="cpu")
    found = bits.allocation(codec.frozen, codec.entropy_decode(codec.encode(Picture(rgb)).payload))
    assert found[:, :7].sum() < 0.5 * found[:, 9:].sum()

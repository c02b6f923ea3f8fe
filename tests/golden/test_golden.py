"""Released bitstreams decode for ever: same symbols to the bit, same picture to one 8-bit level."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.hyperprior import Hyperprior
from tests.golden.add import FOLDER, symbols_sha256

PAYLOADS = sorted(FOLDER.glob("*.spx"))


def test_the_default_model_has_golden_payloads():
    assert any(path.name.startswith(weights.default_model_id()) for path in PAYLOADS)


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda p: p.stem)
def test_every_released_bitstream_gives_its_symbols_and_its_picture(path: Path):
    expected = json.loads(path.with_suffix(".json").read_text())
    codec = Hyperprior(model=expected["model_id"], device="cpu")
    payload = path.read_bytes()
    assert symbols_sha256(codec.entropy_decode(payload)) == expected["symbols_sha256"]
    with Image.open(path.with_suffix(".png")) as image:
        before = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(codec.decode(payload) - before).max() <= 1

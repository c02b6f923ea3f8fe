"""Released bitstreams decode for ever: same symbols to the bit, same picture; of floats, to one 8-bit level."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.codecs import registry
from pipeline.codecs.learned import superres, weights
from pipeline.entropy import coder
from pipeline.nn import exact
from tests.golden.add import FOLDER, codecs, symbols_sha256

PAYLOADS = sorted(FOLDER.glob("*.spx"))
WEIGHTS = Path(__file__).parent / "weights"  # of models that came with the package once; archives carry theirs


@pytest.mark.parametrize("codec", list(codecs()))
def test_every_default_model_has_golden_payloads(codec):
    assert any(path.name.startswith(weights.default_model_id(codec)) for path in PAYLOADS)


def test_every_default_super_resolver_has_a_golden_payload():
    assert any(path.stem.endswith(f"reduced-{superres.require_scale(2)}") for path in PAYLOADS)


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda p: p.stem)
def test_every_released_bitstream_gives_its_symbols_and_its_picture(path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = json.loads(path.with_suffix(".json").read_text())
    former = WEIGHTS / f"{expected['model_id']}.safetensors"
    model = str(former) if former.exists() else expected["model_id"]
    codec: Any = registry.build(expected.get("codec", "cnn"), model=model, device="cpu")
    payload = path.read_bytes()
    with monkeypatch.context() as without_numba:
        without_numba.setattr(coder, "_compiled_if_any", lambda: None)
        assert symbols_sha256(codec.entropy_decode(payload)) == expected["symbols_sha256"]
    assert symbols_sha256(codec.entropy_decode(payload)) == expected["symbols_sha256"]
    with Image.open(path.with_suffix(".png")) as image:
        before = np.asarray(image.convert("RGB")).astype(int)
    in_floats = not exact.in_integers(codec.frozen.arrays) or "reduced" in path.stem
    assert np.abs(codec.decode(payload) - before).max() <= int(in_floats)

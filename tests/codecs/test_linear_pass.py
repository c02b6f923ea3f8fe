"""The first pass: errors, of the decoder or of g_s in floats, go back through the KLT alone."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.codecs.learned import networks, weights
from pipeline.codecs.learned.byte_rows import compiled_rows
from pipeline.codecs.learned.byte_slopes import InBytes
from pipeline.codecs.learned.networks import Networks
from pipeline.codecs.learned.quantise import PASSES
from pipeline.codecs.learned.synthesis import tinted
from pipeline.nn.exact import PREFIX
from tests.codecs import made_static


@pytest.fixture(scope="module", params=["bytes", "floats", "autograd", "a decoder in floats"])
def own(request: pytest.FixtureRequest) -> Networks:
    """By all the ways there are in fp32 or bytes, whichever is the fastest here; `test_slopes` looks at bf16."""
    model = weights.packaged_model(weights.default_model_id("cnn"))
    if request.param == "bytes" and compiled_rows() is None:
        pytest.skip("this CPU does not multiply bytes; floats are looked at, which encoders go by here")
    if request.param == "a decoder in floats":
        kept = {name: value for name, value in model.arrays.items() if not name.startswith(PREFIX)}
        model = replace(model, arrays=kept)
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "bytes":
            patch.setattr(networks, "compiled_rows", lambda: None)
            patch.setattr(networks, "has_fast_bf16", lambda: False)
        if request.param == "autograd":
            patch.setattr(networks, "multiplies_rows", lambda: False)
        return Networks(model, "cpu")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return made_static.photos()[0]


@pytest.mark.parametrize("strength", [0, 2])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize(("height", "width"), [(128, 192), (75, 130), (1, 1)])
def test_slopes_are_errors_taken_through_the_klt(own, photo, height, width, gray, strength):
    rgb, centi = photo[:height, :width], 5500
    rgb = np.repeat(rgb[:, :, 1:2], 3, 2) if gray else rgb
    with torch.no_grad():
        symbols, y_hat = own._quantised(rgb, centi, gray, 0, strength)
        steps = own._steps(centi, own._levels_of(symbols) if strength else None)
        found = own._slope(rgb, y_hat[0], slice(0, y_hat.shape[2]), steps, gray, None, linear=True)
        if isinstance(own.by_hand, InBytes):
            x_hat = own.synthesis.exact(y_hat[0], steps.centi).permute(2, 0, 1)[None] / 255
        else:
            x_hat = own.transforms.g_s(steps.in_pixel_units(y_hat), steps.quality)
        x = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None] / 255
        error = tinted(x_hat, gray)[:, :, :height, :width] - x
        over = error * 2 * steps.pixel_bits(height, width)
        over = F.pad(over, (0, x_hat.shape[3] - width, 0, x_hat.shape[2] - height))
        basis = own.transforms.g_s.klt.weight[:, :, 0, 0]  # (3 * 16 * 16, M)
        wanted = torch.einsum("pm,bphw->bmhw", basis, F.pixel_unshuffle(tinted(over, gray), 16))
    wanted = wanted / steps.gain
    assert found.shape == y_hat.shape[1:]
    assert float((found - wanted[0]).norm() / wanted.norm()) < 0.02


@pytest.mark.parametrize(("effort", "through_all"), [(0, 0), (1, 0), (2, 1), (4, 3)])
def test_only_later_passes_go_back_through_all_of_g_s(own, photo, effort, through_all, monkeypatch):
    rgb = photo[:128, :128]
    tracked = Mock(side_effect=own._decoded)
    monkeypatch.setattr(own, "_decoded", tracked)
    own.symbols_of(rgb, 5000, False, effort)
    linear = [call.args[2] for call in tracked.call_args_list]
    assert linear == [True] * min(1, PASSES[effort]) + [False] * through_all

"""Polish: only the decoder's network learns, and it learns what the encoder sends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.networks import Networks
from pipeline.errors import ConfigError
from pipeline.metrics.distortion import mse
from pipeline.nn.spec import TileSpec
from pipeline.training import export
from pipeline.training.data import load_photos
from pipeline.training.loop import Trainer
from pipeline.training.polish import polish
from tests.training.test_loop import SMALL, SPEC


def test_the_decoder_alone_gets_better_at_what_is_sent(photos, tmp_path):
    pictures = [p[:320, :400] for p in load_photos(photos[0].parent)[:6]]
    trainer = Trainer(replace(SPEC, steps=2), pictures, tmp_path)
    torch.nn.init.normal_(trainer.ema.weights["g_s.head.weight"], std=3e-3)  # something to learn, or unlearn
    frozen = weights.parse(export.export(SMALL, trainer.ema.weights, pictures[:1], {}))
    found = polish(SMALL, trainer.ema.weights, frozen, pictures, steps=24, crops=12, lr=2e-3)
    before, rounded, after = found.psnr_db
    gained = [rounded - before]
    for seed in (1, 2):  # one head at random may gain a little by what its units cut off
        state = dict(trainer.ema.weights)
        head = state["g_s.head.weight"]
        state["g_s.head.weight"] = torch.normal(0, 3e-3, head.shape, generator=torch.Generator().manual_seed(seed))
        other = weights.parse(export.export(SMALL, state, pictures[:1], {}))
        of_floats, of_integers, _ = polish(SMALL, state, other, pictures, 1, 12, lr=2e-3, seed=seed).psnr_db
        gained.append(of_integers - of_floats)
    assert np.mean(gained) < 0.01
    assert after > before + 0.05
    moved = {name for name, value in found.state.items() if not torch.equal(value, trainer.ema.weights[name])}
    assert moved
    assert all(name.startswith("g_s.") and "klt" not in name for name in moved)
    again = weights.parse(export.export(SMALL, found.state, pictures[:1], {}, found.arrays))
    assert np.array_equal(again.arrays["log2_base"], frozen.arrays["log2_base"])
    in_integers, in_floats = Networks(again, "cpu"), Networks(frozen, "cpu")
    rgb = np.ascontiguousarray(pictures[0][:160, :200])
    assert in_integers.synthesis.exact
    assert not in_floats.synthesis.exact
    before, after = (mse(rgb, network.analyse(rgb, 6000, False)[1]) for network in (in_floats, in_integers))
    assert after < before


def test_other_kinds_are_not_polished():
    with pytest.raises(ConfigError, match="kind tile-autoencoder has no decoder in integers"):
        replace(SPEC, model=TileSpec(), polish_steps=10)

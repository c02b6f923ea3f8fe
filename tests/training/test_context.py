"""A context for z: fitted to what is sent, nothing else of the model changes, and it saves what the card says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

from jobs import cli
from jobs import train as train_job
from pipeline.codecs.learned import weights
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.errors import BitstreamError, ConfigError
from pipeline.nn.spec import TileSpec
from pipeline.records import Picture, Rate
from pipeline.training.context import context_tables, fit_context
from pipeline.training.data import load_photos
from pipeline.training.spec import TrainSpec


@pytest.fixture(scope="module")
def pictures(photos) -> list[np.ndarray]:
    return load_photos(photos[0].parent)[:6]


@pytest.fixture(scope="module")
def bare() -> bytes:
    """The packaged model without a context."""
    data = weights.packaged_bytes(weights.default_model_id())
    arrays = {k: v for k, v in safetensors.numpy.load(data).items() if not k.startswith("z_context.")}
    return weights.serialise(arrays, weights.meta_of(data))


@pytest.fixture(scope="module")
def made(bare, pictures) -> bytes:
    return fit_context(bare, pictures, pictures[:2], steps=40, crops=24)


def test_only_a_context_is_added_and_fits_what_is_held_out(bare, made):
    before, after = weights.parse(bare), weights.parse(made)
    assert before.z_context is None
    assert after.z_context is not None
    moved = {name for name, part in before.arrays.items() if not np.array_equal(part, after.arrays[name])}
    assert all(name.startswith("trellis.") for name in moved)
    assert all(name.startswith("z_context.") for name in after.arrays.keys() - before.arrays.keys())
    assert after.card["context"]["of"] == before.model_id
    assert after.card["context"]["saved"] > 0.01
    again = weights.parse(fit_context(made, *[[np.zeros((64, 64, 3), np.uint8)]] * 2, steps=1, crops=2))
    assert again.arrays.keys() == after.arrays.keys()


def test_payloads_are_smaller_and_pictures_the_same(bare, made, pictures, tmp_path):
    names, arrays = [], safetensors.numpy.load(made)
    arrays |= {k: v for k, v in safetensors.numpy.load(bare).items() if k.startswith("trellis.")}
    for data in (bare, weights.serialise(arrays, weights.meta_of(made))):
        names.append(str(tmp_path / f"{weights.parse(data).model_id}.safetensors"))
        (tmp_path / names[-1]).write_bytes(data)
    coders = [Hyperprior(Rate(quality=15.0), name, "cpu") for name in names]
    sizes = np.zeros(2, int)
    for rgb in pictures:
        left, right = (codec.encode(Picture(rgb)).payload for codec in coders)
        assert np.array_equal(coders[0].decode(left), coders[1].decode(right))
        assert len(right) <= len(left) + 16
        sizes += len(left), len(right)
    assert sizes[1] < 0.998 * sizes[0]


def test_tables_are_those_of_logistics_around_a_fraction():
    tables = context_tables()
    for index in (61, 104, 150, 184):
        reach, chances = int(tables.reaches[index]), 0.5 ** tables.bits(index)
        values = np.arange(-reach, reach + 1)
        assert (chances[:-1] * values).sum() == pytest.approx(index % 5 / 8, abs=0.02)


def test_a_job_gives_a_packaged_model_a_context(photos, tmp_path, capsys):
    asked = "run.steps=0", "run.init_from=default", "run.context_steps=2", "run.context_crops=2", "threads=1"
    places = "--data", str(photos[0].parent), "--out", str(tmp_path)
    assert train_job.main([*places, *asked]) == cli.OK
    (path,) = tmp_path.glob("*.safetensors")
    assert f"{path}: default, with a context for z of 2 steps, which saves" in capsys.readouterr().out
    assert json.loads(json.dumps(weights.parse(path.read_bytes()).card))["context"]["crops"] == 2


def test_what_can_have_none_says_so(pictures):
    with pytest.raises(ConfigError, match="kind tile-autoencoder has not hyper-latents"):
        TrainSpec(model=TileSpec(), context_steps=1)
    with pytest.raises(ConfigError, match=r"run\.context_crops 0; expected"):
        TrainSpec(context_steps=1, context_crops=0)
    with pytest.raises(ConfigError, match=r"run\.steps is 0"):
        TrainSpec(steps=0, context_steps=1)
    other = weights.packaged()[weights.default_model_id("transfer")].read_bytes()
    with pytest.raises(BitstreamError, match="a model of kind transfer"):
        fit_context(other, pictures, pictures[:1], steps=1, crops=1)

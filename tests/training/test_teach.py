"""Teaching: only g_a learns, and it learns what passes find."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs import cli
from jobs import train as train_job
from pipeline.codecs.learned import weights
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.codecs.learned.networks import Networks
from pipeline.errors import BitstreamError, ConfigError, TrainingError
from pipeline.metrics.distortion import mse
from pipeline.nn.spec import TileSpec
from pipeline.records import Picture, Rate
from pipeline.training import __main__ as bare
from pipeline.training import export
from pipeline.training.data import load_photos
from pipeline.training.loop import Trainer
from pipeline.training.spec import TrainSpec
from pipeline.training.teach import teach, unpacked
from tests.jobs.test_train import SMALL as SMALL_RUN
from tests.training.test_loop import SMALL, SPEC


@pytest.fixture(scope="module")
def pictures(photos) -> list[np.ndarray]:
    return [np.ascontiguousarray(p[:400, :400]) for p in load_photos(photos[0].parent)[:6]]


@pytest.fixture(scope="module")
def untaught(pictures, tmp_path_factory) -> bytes:
    """A model whose latents are not those that its decoder wants."""
    state = Trainer(replace(SPEC, steps=2), pictures, tmp_path_factory.mktemp("untaught")).ema.weights
    state["g_a.klt.weight"] = state["g_a.klt.weight"] * 0.8
    return export.export(SMALL, state, pictures[:2], {"name": "small"})


@pytest.fixture(scope="module")
def taught_file(untaught, pictures) -> bytes:
    return teach(untaught, pictures, pictures[:2], steps=60, crops=12, lr=4e-3)


@pytest.fixture(scope="module")
def taught(taught_file) -> weights.FrozenModel:
    return weights.parse(taught_file)


def test_the_encoder_alone_learns_and_so_do_tables(untaught, taught):
    before = weights.parse(untaught)
    assert taught.model_id != before.model_id
    moved = {name for name, part in taught.arrays.items() if not np.array_equal(part, before.arrays[name])}
    assert any(name.startswith("g_a.blocks") for name in moved)
    assert all(name.startswith(("g_a.", "trellis.")) for name in moved)
    assert taught.arrays.keys() == before.arrays.keys()
    assert taught.card["name"] == "small"
    assert taught.card["teach"]["steps"] == 60


def test_it_knows_some_of_what_passes_find(untaught, taught_file, taught, pictures, tmp_path):
    assert taught.card["teach"]["known"] > 0.05
    costs = []
    for file in (untaught, taught_file):
        (model := tmp_path / "model.safetensors").write_bytes(file)
        codec, lmbda = Hyperprior(Rate(60), model=str(model), device="cpu", effort=0), float(SMALL.lmbda(0.6))
        payloads = [codec.encode(Picture(p)).payload for p in pictures]
        errors = [mse(p, codec.decode(payload)) for p, payload in zip(pictures, payloads, strict=True)]
        costs.append(np.mean([8 * len(payload) / 400**2 for payload in payloads]) + lmbda * np.mean(errors))
    assert costs[1] < 0.99 * costs[0]


def test_what_is_wanted_minds_no_filter_that_g_a_cannot_know(taught, pictures, monkeypatch):
    networks = Networks(taught, "cpu")
    wanted, _ = networks.latents_wanted(pictures[0], 6000, 3)

    def none(*_: object) -> None:
        raise AssertionError("a filter was asked for")

    monkeypatch.setattr("pipeline.codecs.learned.networks.expected", none)
    assert torch.equal(networks.latents_wanted(pictures[0], 6000, 3)[0], wanted)


def test_what_is_wanted_is_where_passes_end(taught, pictures):
    networks, rgb = Networks(taught, "cpu"), pictures[0]
    given, _ = networks.latents_wanted(rgb, 6000, 0)
    assert np.array_equal(given, networks._latents(rgb, networks._steps(6000))[0, :, :25, :25])
    wanted, coded = networks.latents_wanted(rgb, 6000, 4)
    assert wanted.shape == coded.shape == (96, 25, 25)
    assert coded.any()
    assert not coded.all()
    assert np.array_equal(given[~coded], wanted[~coded])
    assert (given[coded] != wanted[coded]).float().mean() > 0.9


def test_the_same_seed_teaches_the_same(untaught, pictures):
    once, again = (teach(untaught, pictures, pictures[:1], steps=3, crops=4, seed=5) for _ in range(2))
    assert once == again
    other = weights.parse(teach(untaught, pictures, pictures[:1], steps=3, crops=4, seed=6)).arrays
    name = "g_a.down.weight"
    assert not np.array_equal(weights.parse(once).arrays[name], other[name])


def test_more_processes_teach_the_same(untaught, pictures):
    """Also when more is asked for than is coded ahead, and of crops that are no photos."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of them has
    try:
        once, again = (teach(untaught, pictures, pictures[:1], steps=2, crops=18, processes=n) for n in (1, 2))
    finally:
        torch.set_num_threads(threads)
    assert once == again


def dies(asked: object) -> None:
    os.abort()


def test_a_process_that_dies_says_so(untaught, pictures, monkeypatch):
    monkeypatch.setattr("pipeline.training.teach._Coders._answer", staticmethod(dies))
    with pytest.raises(TrainingError, match="one of 2 processes that code crops died"):
        teach(untaught, pictures, pictures[:1], steps=1, crops=4, processes=2)


def test_where_symbols_are_coded_survives_its_packing():
    """A bit for each channel, as many as there may be."""
    coded = np.random.default_rng(0).random((2, 13, 3, 4)) < 0.4
    packed = torch.from_numpy(np.packbits(coded, axis=1))
    assert np.array_equal(unpacked(packed, 13), coded)


def test_blocks_are_added_to_the_encoder(untaught, pictures, tmp_path):
    found, again = (teach(untaught, pictures, pictures[:1], steps=1, crops=4, blocks=3, batch=2) for _ in range(2))
    assert found == again
    model, work = weights.parse(found), weights.parse(found).card["kmac_per_px"]
    assert work["encoder"] > work["decoder"]
    assert (model.spec["encoder_blocks"], model.spec["decoder_blocks"]) == (3, SMALL.decoder_blocks)
    assert model.card["teach"]["batch"] == 2
    assert "g_a.blocks.2.merge.weight" in model.arrays
    (file := tmp_path / "model.safetensors").write_bytes(found)
    codec, picture = Hyperprior(Rate(60), model=str(file), device="cpu", effort=1), pictures[0]
    assert codec.decode(codec.encode(Picture(picture)).payload).shape == picture.shape
    same = weights.parse(teach(untaught, pictures, pictures[:1], steps=0, crops=4, blocks=3))
    both = [Networks(each, "cpu") for each in (same, weights.parse(untaught))]
    given, before = (each._latents(picture, each._steps(6000)) for each in both)
    assert (given - before).abs().max() < 0.01  # added blocks change nothing at first


def test_the_bare_trainer_teaches(untaught, photos, tmp_path, capsys):
    model = tmp_path / "small.safetensors"
    model.write_bytes(untaught)
    spec = {"steps": 0, "init_from": str(model), "teach_steps": 1, "teach_crops": 2}
    asked = ["--data", str(photos[0].parent), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert bare.main([*asked, "--spec", json.dumps(spec)]) == 0
    (made,) = (tmp_path / "out").glob("*.safetensors")
    assert weights.parse(made.read_bytes()).card["teach"]["crops"] == 2
    assert capsys.readouterr().out.endswith(f"{made}\n")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_teaches_what_a_cpu_does(untaught, pictures):
    known = [
        weights.parse(teach(untaught, pictures, pictures[:2], steps=60, crops=12, lr=4e-3, device=device)).card[
            "teach"
        ]["known"]
        for device in ("cpu", "cuda")
    ]
    assert min(known) > 0.05
    assert known[1] == pytest.approx(known[0], abs=0.05)


def test_one_photo_and_a_model_without_a_trellis_will_do(untaught, pictures):
    plain = {name: part for name, part in weights.parse(untaught).arrays.items() if not name.startswith("trellis.")}
    found = weights.parse(teach(weights.serialise(plain, weights.meta_of(untaught)), pictures[:1], pictures[:1], 1, 1))
    assert found.trellis is not None
    flat = [np.full((64, 64, 3), 128, np.uint8)]
    assert weights.parse(teach(untaught, flat, flat, 1, 1)).card["teach"]["steps"] == 1


def test_jobs_train_teaches_a_model_as_it_is(untaught, photos, tmp_path, capsys):
    model, out = tmp_path / "small.safetensors", tmp_path / "out"
    model.write_bytes(untaught)
    asked = ["run.steps=0", "run.teach_steps=2", "run.teach_crops=4", f"run.init_from={model}", "calibration_photos=1"]
    assert train_job.main([*asked, "--data", str(photos[0].parent), "--out", str(out)]) == cli.OK
    (made,) = out.glob("*.safetensors")
    assert f"{made}: {model}, taught for 2 steps; it knows" in capsys.readouterr().out
    card = weights.parse(made.read_bytes()).card["teach"]
    assert (card["of"], card["steps"], card["crops"]) == (weights.parse(untaught).model_id, 2, 4)
    assert weights.parse(made.read_bytes()).spec == weights.parse(untaught).spec
    for more in ("workers=2", "sweep={run.teach_steps: [1, 2]}"):
        assert train_job.main([*asked, more, "--data", str(photos[0].parent), "--out", str(out)]) == cli.BAD_ARGUMENTS
        assert "run.steps is 0" in capsys.readouterr().err
    assert train_job.main([*asked, "device=cuda:9", "--data", "d", "--out", str(out)]) == cli.BAD_ARGUMENTS
    assert "device 'cuda:9': " in capsys.readouterr().err
    assert train_job.main([*asked, "--data", "d", "--out", str(out), "--export-only"]) == cli.BAD_ARGUMENTS
    assert "--export-only" in capsys.readouterr().err
    other = weights.packaged()[weights.default_model_id("transfer")].read_bytes()
    for bad, why in ((b"no model", "not a shardpress model file"), (other, "a model of kind transfer")):
        model.write_bytes(bad)
        assert train_job.main([*asked, "--data", "d", "--out", str(out)]) == cli.FAILED
        said = capsys.readouterr().err
        assert f"init_from {model}: no model that can be taught" in said
        assert why in said


def test_training_ends_with_teaching(photos, tmp_path):
    places = "--data", str(photos[0].parent), "--out", str(tmp_path)
    assert train_job.main([*places, *SMALL_RUN, "run.teach_steps=1", "run.teach_crops=4"]) == cli.OK
    (made,) = tmp_path.glob("*.safetensors")
    card = weights.parse(made.read_bytes()).card
    assert card["steps"] == 3
    assert card["teach"]["steps"] == 1


def test_what_cannot_be_taught_says_so(untaught, pictures):
    with pytest.raises(ConfigError, match="kind tile-autoencoder has not an encoder that makes passes"):
        replace(SPEC, model=TileSpec(), teach_steps=10)
    with pytest.raises(ConfigError, match=r"run\.teach_crops 0 and run\.teach_batch 4; expected"):
        TrainSpec(teach_steps=10, teach_crops=0)
    with pytest.raises(ConfigError, match=r"run\.teach_batch 0; expected"):
        TrainSpec(teach_steps=10, teach_batch=0)
    with pytest.raises(ConfigError, match=r"run\.steps is 0"):
        TrainSpec(steps=0, teach_steps=10)
    with pytest.raises(ConfigError, match=r"run\.steps is 0"):
        TrainSpec(steps=0, init_from="default")
    other = weights.packaged()[weights.default_model_id("transfer")].read_bytes()
    with pytest.raises(BitstreamError, match="a model of kind transfer"):
        teach(other, pictures, pictures[:1], steps=1, crops=1)

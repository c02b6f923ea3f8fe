"""`jobs.train` from the command line, on the photos that come with the repository."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from jobs import train
from pipeline.codecs.learned import weights

SMALL = [
    "run.steps=3", "run.batch=1", "run.crop_px=64", "run.large_crop_px=64", "run.holdout=1", "run.klt_patches=1500",
    "run.validate_every_steps=3", "calibration_photos=1",
    "run.model.latent=48", "run.model.width=16", "run.model.encoder_blocks=1", "run.model.decoder_blocks=1",
    "run.model.hyper_width=32", "run.model.hyper=16",
]  # fmt: skip


def test_a_run_ends_in_a_model_file_and_can_be_taken_further(photos, tmp_path, capsys):
    arguments = ["--data", str(photos[0].parent), "--out", str(tmp_path), *SMALL]
    assert train.main(arguments) == 0
    (model,) = tmp_path.glob("*.safetensors")
    frozen = weights.parse(model.read_bytes())
    assert frozen.model_id == model.stem
    assert frozen.card["steps"] == 3
    assert frozen.card["photos"] == 14
    assert train.main([*arguments, "run.steps=5"]) == 0
    assert "step 5" in capsys.readouterr().out.splitlines()[-1]
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum("validation" in record for record in records) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--out", "o"], 2, "data"),
        (["--data", "nowhere", "--out", "o"], 1, "nothing at all"),
        (["--data", "d", "--out", "o", "run.stepz=3"], 2, "did you mean 'run.steps'"),
        (["--data", "d", "--out", "o", "run.model.latent=many"], 2, "run.model.latent"),
        (["--config", "missing.yaml"], 2, "missing.yaml"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(arguments, code, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main(arguments) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


SMALL_TILE = [
    "run.steps=2", "run.batch=1", "run.crop_px=64", "run.large_crop_px=64", "run.holdout=1", "run.klt_patches=300",
    "run.validate_every_steps=2", "calibration_photos=1", "run.model.kind=tile-autoencoder", "run.model.tile_px=16",
    "run.model.levels=2", "run.model.latent=16", "run.model.width=4",
]  # fmt: skip


@pytest.fixture
def few(photos, tmp_path):
    """Three small photos, in a folder."""
    folder = tmp_path / "few"
    folder.mkdir()
    for photo in photos[:3]:
        with Image.open(photo) as image:
            image.crop((100, 100, 400, 350)).save(folder / f"{photo.stem}.png")
    return folder


def test_a_sweep_trains_the_grid_and_tells_rate_against_work(few, tmp_path, capsys):
    grid = 'sweep={"run.model.width": [4, 8], "run.model.pooling": [max, stride]}'
    arguments = ["--data", str(few), "--out", str(tmp_path / "out"), *SMALL_TILE, grid]
    assert train.main(arguments) == 0
    table = capsys.readouterr().out.splitlines()[-6:]
    assert [line.split("|")[1].strip() for line in table[2:]] == [
        "width 4, pooling max", "width 4, pooling stride", "width 8, pooling max", "width 8, pooling stride",
    ]  # fmt: skip
    rows = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert rows[0]["kmac_per_px"]["encoder"] < rows[2]["kmac_per_px"]["encoder"]
    assert len({row["model"] for row in rows}) == 4
    assert (tmp_path / "out" / "sweep.md").read_text().strip() == "\n".join(table)


def test_a_trained_model_is_listed_with_its_card_and_codes_pictures(few, tmp_path, capsys):
    from jobs import decode, encode, models

    assert train.main(["--data", str(few), "--out", str(tmp_path / "out"), "name=mine", *SMALL_TILE]) == 0
    (model,) = (tmp_path / "out").glob("*.safetensors")
    capsys.readouterr()
    assert models.main([str(model), "--json"]) == 0
    found = {entry["model"]: entry for entry in json.loads(capsys.readouterr().out)}
    entry = found[model.stem]
    assert entry["codec"] == entry["kind"] == "tile-autoencoder"
    assert entry["bytes"] == model.stat().st_size
    assert entry["card"]["name"] == "mine"
    assert entry["card"]["kmac_per_px"]["encoder"] > 0
    assert len(entry["card"]["validation"]["bpp_psnr"]) == 5
    assert models.main([str(model)]) == 0
    text = capsys.readouterr().out
    assert model.stem in text
    assert "kMAC/px" in text
    assert any(entry["default"] for entry in found.values())

    source, payload, back = next(few.glob("*.png")), tmp_path / "p.spx", tmp_path / "p.png"
    assert encode.main([str(source), str(payload), "--codec", "tile-autoencoder", "--model", str(model)]) == 0
    assert decode.main([str(payload), str(back), "--model", str(model)]) == 0
    assert back.stat().st_size > 100


def test_an_unknown_kind_and_a_key_of_another_kind_are_named(capsys):
    assert train.main(["--data", "d", "--out", "o", "run.model.kind=gan"]) == 2
    assert "expected mean-scale-hyperprior, transfer, conv, tile-autoencoder" in capsys.readouterr().err
    assert train.main(["--data", "d", "--out", "o", "run.model.kind=conv", "run.model.backbone=vgg16"]) == 2
    assert "run.model.backbone" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "transfer",
        "tile-autoencoder",
        "conv",
        "sweep",
        "finetune",
        "perceptual",
        "flagship",
        "superres",
        "taught",
        "context",
    ],
)
def test_every_config_that_ships_is_one_that_can_be_read(name):
    from pathlib import Path

    from jobs import sweeping
    from pipeline.config import TrainConfig, load

    settings = load(TrainConfig, str(Path(__file__).parents[2] / "configs" / "train" / f"{name}.yaml"))
    chosen = [sweeping.settled(settings, each) for each in sweeping.combinations(settings)]
    assert len({each.out for each in chosen}) == max(1, len(chosen))


SMALL_SUPERRES = [
    "task=superres", "run.steps=2", "run.batch=1", "run.crop_px=64", "run.large_crop_px=64", "run.holdout=1",
    "run.validate_every_steps=2", "run.model.width=4", "run.model.blocks=1",
]  # fmt: skip


def test_a_super_resolver_is_trained_listed_and_restores(few, tmp_path, capsys):
    from jobs import models
    from jobs.restore import main as restore
    from tests.data_tools.made import press

    grid = "sweep={run.model.scale: [2, 3]}"
    assert train.main(["--data", str(few), "--out", str(tmp_path / "grid"), *SMALL_SUPERRES, grid]) == 0
    table = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["scale 2", "scale 3"]
    (model,) = (tmp_path / "grid" / "scale=3").glob("*.safetensors")
    assert models.main([str(model), "--json"]) == 0
    entry = {one["model"]: one for one in json.loads(capsys.readouterr().out)}[model.stem]
    assert (entry["codec"], entry["kind"], entry["default"]) == ("restore 3x", "superres", False)
    assert models.main([str(model)]) == 0
    assert "over bicubic" in capsys.readouterr().out

    archive = press(few, tmp_path / "archive", "webp")
    arguments = ["--archive", archive.uri, "--out", str(tmp_path / "out"), "--scale", "3"]
    assert restore(arguments) == 2
    said = capsys.readouterr().err
    assert "scale 3: this installation has super-resolvers for 2x" in said
    assert len(said.splitlines()) == 1
    assert restore([*arguments[:-1], "2", "--superres", str(model)]) == 2
    said = capsys.readouterr().err
    assert "enlarges 3x" in said
    assert len(said.splitlines()) == 1
    assert restore([*arguments, "--superres", str(model)]) == 0
    with Image.open(next((tmp_path / "out").glob("*.png"))) as image:
        assert image.size == (900, 750)


def test_task_and_kind_go_together(capsys):
    assert train.main(["--data", "d", "--out", "o", "task=superres", "run.model.kind=conv"]) == 2
    assert "do not go together" in capsys.readouterr().err
    assert train.main(["--data", "d", "--out", "o", "run.model.kind=superres"]) == 2
    assert "do not go together" in capsys.readouterr().err

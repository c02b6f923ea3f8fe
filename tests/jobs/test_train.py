"""`jobs.train` from the command line, on the photos that come with the repository."""

from __future__ import annotations

import json

import pytest

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
        (["--data", "nowhere", "--out", "o"], 1, "no such file or folder"),
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

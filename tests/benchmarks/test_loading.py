"""One small run of the loading benchmark: every way gives every picture, and the report names them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.benchmarks import loading

WAYS = (
    "JPEG in tars",
    "archive, jxl-lossless",
    "archive, webp",
    "archive, cnn",
    "archive, cnn, decoded in batches on cpu",
)


def test_every_way_of_loading_is_measured_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    loading.main(["--pictures", "40", "--side", "64", "--workers", "1"])
    told = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in told.splitlines() if line.startswith("| ")}
    assert set(WAYS) < rows.keys()
    sizes = {way: int(rows[way][0].replace(",", "")) for way in WAYS}
    assert all(int(rows[way][1]) > 0 for way in WAYS)
    assert sizes["archive, webp"] < sizes["JPEG in tars"]
    assert rows["JPEG in tars"][2].strip() == rows["JPEG in tars"][4].strip() == "1.00"
    assert all(float(rows[way][3]) > 0 for way in WAYS)
    assert re.search(r"command: python -m tests\.benchmarks\.loading --pictures 40 --side 64 --workers 1$", told, re.M)
    assert "threads: 1 workers, " in told


def test_tars_hold_the_pictures_and_workers_share_their_shards(tmp_path: Path) -> None:
    tars = loading.write_shards(tmp_path / "tars", 40, 48)
    assert len(list(tars.glob("*.tar"))) == 2
    pictures = list(torch.utils.data.DataLoader(loading.TarStream(tars), batch_size=None, num_workers=2))
    assert [picture.shape for picture in pictures] == [(3, 48, 48)] * 40


def test_an_epoch_that_loses_a_picture_is_no_measurement() -> None:
    with pytest.raises(SystemExit, match="gave 3 pictures, expected 4"):
        loading.timed(lambda: [[1, 2], [3]], 4)

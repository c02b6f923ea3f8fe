"""Restoring into folders that hold other things, from sources with hostile names."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from jobs.restore import main as restore
from tests.data_tools.made import press
from tests.end_to_end.conftest import small_photo

MEMBERS = [
    "../../escaped.jpg", "/absolute.jpg", "../out-twin/x.jpg", "d" * 4000 + ".jpg", "e/" * 1500 + "deep.jpg",
    "twin.jpg", "TWIN.jpg", "caf\u00e9.jpg", "cafe\u0301.jpg", "same.jpg", "same.jpg", "c:\\x.jpg", "line\nfeed.jpg",
]  # fmt: skip


def shard(folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "hostile.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number, name in enumerate(MEMBERS):
            data, info = small_photo(number, 24), tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return folder


def test_hostile_names_restore_below_out_each_to_a_file_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    archive = press(shard(tmp_path / "in"), tmp_path / "archive", "original", None)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    out = tmp_path / "deep" / "out"
    assert restore(["--archive", archive.uri, "--out", str(out)]) == 0, capsys.readouterr().err
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(out) for path in made)
    assert len(made) == len(MEMBERS)
    assert sorted(path.read_bytes() for path in made) == sorted(small_photo(n, 24) for n in range(len(MEMBERS)))


def test_another_file_in_the_way_is_not_overwritten(tmp_path: Path, fill, capsys: pytest.CaptureFixture[str]):
    archive = press(fill("in", range(2)), tmp_path / "archive", "original", None)
    out = tmp_path / "out"
    out.mkdir()
    (out / "0000.jpg").write_bytes(b"mine")
    assert restore(["--archive", archive.uri, "--out", str(out)]) == 1
    assert "exists and is another file" in capsys.readouterr().err
    assert (out / "0000.jpg").read_bytes() == b"mine"
    assert (out / "0001.jpg").read_bytes() == small_photo(1)
    assert restore(["--archive", archive.uri, "--out", str(out), "--overwrite"]) == 0
    assert (out / "0000.jpg").read_bytes() == small_photo(0)
    assert restore(["--archive", archive.uri, "--out", str(out)]) == 0
    assert "2 of them were there already" in capsys.readouterr().out


def test_a_damaged_picture_costs_no_other(tmp_path: Path, fill, capsys: pytest.CaptureFixture[str]):
    archive = press(fill("in", range(3)), tmp_path / "archive", "original", None)
    [data] = (tmp_path / "archive" / "data").iterdir()
    spoilt = bytearray(data.read_bytes())
    spoilt[spoilt.index(small_photo(1)) + 100] ^= 1
    data.write_bytes(spoilt)
    assert restore(["--archive", archive.uri, "--out", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr()
    assert "does not have its SHA-256" in shown.err
    assert "2 pictures restored" in shown.out


def test_pictures_come_back_twice_as_large(tmp_path: Path, fill, capsys: pytest.CaptureFixture[str]):
    archive = press(fill("in", range(2)), tmp_path / "archive", "original", None)
    out = tmp_path / "out"
    assert restore(["--archive", archive.uri, "--out", str(out), "--scale", "2"]) == 0, capsys.readouterr().err
    assert "byte for byte" not in capsys.readouterr().out
    for number in range(2):
        with Image.open(io.BytesIO(small_photo(number))) as source, Image.open(out / f"{number:04d}.png") as large:
            assert large.size == (2 * source.width, 2 * source.height)
    assert restore(["--archive", archive.uri, "--out", str(out), "--superres", "x.safetensors"]) == 2
    assert "give its --scale" in capsys.readouterr().err

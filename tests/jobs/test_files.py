"""Names, globs and streams of `encode` and `decode`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import pipeline
from jobs import decode, encode, files
from pipeline.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three small photos in the current folder."""
    for name, photo in zip("abc", photos, strict=False):
        Image.open(photo).convert("RGB").resize((64, 48)).save(tmp_path / f"{name}.jpg", quality=92)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg"], [("a.jpg", "a.spx")]),
        (["a.jpg", "x.webp"], [("a.jpg", "x.webp")]),
        (["a.jpg", "b.jpg", "c.jpg"], [("a.jpg", "a.spx"), ("b.jpg", "b.spx"), ("c.jpg", "c.spx")]),
        (["a.jpg", "b.jpg", "out/"], [("a.jpg", "out/a.spx"), ("b.jpg", "out/b.spx")]),
        (["-"], [("-", "-")]),
        (["-", "out/"], [("-", "out/stdin.spx")]),
        (["s3://photos/x.jpg", "-"], [("s3://photos/x.jpg", "-")]),
    ],
)
def test_names_lead_to_names(folder: Path, names: list[str], expected: list[tuple[str, str]]) -> None:
    assert files.pairs(names, ".spx") == expected


def test_a_quoted_glob_stands_for_its_files(folder: Path) -> None:
    found = files.pairs(["*.jpg", "out/"], ".spx")
    assert [target for _, target in found] == ["out/a.spx", "out/b.spx", "out/c.spx"]
    with pytest.raises(ConfigError, match="matches no file"):
        files.pairs(["*.bmp"], ".spx")
    with pytest.raises(ConfigError, match="expected a folder"):
        files.pairs(["*.jpg", "x.spx"], ".spx")
    with pytest.raises(ConfigError, match="would also become"):
        files.pairs(["a.jpg", "a.png", "out/"], ".spx")


def test_encode_picks_the_name_and_decode_brings_it_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encode.main(["a.jpg", "b.jpg", "c.jpg", "--quality", "30"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert decode.main(["*.spx", "out/", "--format", "webp"]) == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.webp", "b.webp", "c.webp"]


def test_effort_and_tune_are_the_same_from_a_shell_and_from_python(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {}
    for words in ([], ["--effort", "0"], ["--effort", "4"], ["--tune", "ms-ssim"]):
        assert encode.main(["a.jpg", "x.spx", "--overwrite", *words]) == 0
        payload = (folder / "x.spx").read_bytes()
        named = {
            name.removeprefix("--"): int(value) if value.isdigit() else value
            for name, value in ([words] if words else [])
        }
        with Image.open("a.jpg") as image:
            assert pipeline.encode(image, **named) == payload
        sizes[" ".join(words)] = len(payload)
    assert len(set(sizes.values())) > 2, sizes
    capsys.readouterr()
    assert encode.main(["a.jpg", "y.spx", "--effort", "12"]) == 2
    assert "effort is 12; expected an integer from 0 to 9" in capsys.readouterr().err
    assert encode.main(["a.jpg", "y.webp", "--tune", "ms-ssim"]) == 2
    assert "codec webp: unknown option 'tune'" in capsys.readouterr().err


def test_a_shell_glob_of_two_photos_never_replaces_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "b.jpg").read_bytes()
    assert encode.main(["a.jpg", "b.jpg"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (folder / "b.jpg").read_bytes() == before
    assert encode.main(["a.jpg", "a.jpg", "--overwrite"]) == 2
    assert encode.main(["a.jpg", "b.jpg", "--overwrite"]) == 0


def test_one_bad_file_of_several_is_told_and_the_others_are_made(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.jpg").write_text("<html>404</html>")
    assert encode.main(["a.jpg", "b.jpg", "c.jpg", "--codec", "webp"]) == 1
    assert "b.jpg" in capsys.readouterr().err
    assert sorted(path.name for path in folder.glob("*.webp")) == ["a.webp", "c.webp"]


def test_json_is_an_object_for_one_and_a_list_for_several(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encode.main(["a.jpg", "--codec", "webp", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == "a.webp"
    assert encode.main(["a.jpg", "b.jpg", "c.jpg", "--codec", "avif", "--json"]) == 0
    assert [each["codec"] for each in json.loads(capsys.readouterr().out)] == ["avif"] * 3
    assert decode.main(["a.webp", "a.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "a.png", "width": 64, "height": 48}
    assert decode.main(["a.webp", "-", "--json"]) == 2
    assert "name an OUT" in capsys.readouterr().err


def test_quiet_prints_nothing_but_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encode.main(["a.jpg", "x.webp", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert encode.main(["a.jpg", "x.bmp", "-q"]) == 2
    assert capsys.readouterr().err.startswith("error: x.bmp")


def test_payloads_flow_through_pipes(folder: Path) -> None:
    source = (folder / "a.jpg").read_bytes()
    run = [sys.executable, "-m"]
    payload = subprocess.run(
        [*run, "jobs.encode", "-", "-", "--codec", "jpeg", "-q"], input=source, check=True, capture_output=True
    )
    picture = subprocess.run([*run, "jobs.decode", "-", "-"], input=payload.stdout, check=True, capture_output=True)
    assert Image.open(io.BytesIO(picture.stdout)).format == "PNG"
    assert b"64x48" in picture.stderr

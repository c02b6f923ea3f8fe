"""What goes wrong on somebody's first evening: each is told in one sentence with a way out, and no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.data_tools import made

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, photos: list[Path]) -> Path:
    """Two small photos in photos/, and an empty small/ to mount things on."""
    for name in ("photos", "small", "home"):
        (tmp_path / name).mkdir()
    for photo in photos[:2]:
        with Image.open(photo) as image:
            image.resize((320, 240)).save(tmp_path / "photos" / photo.name, quality=92)
    return tmp_path


def fails(code: int, *command: str, cwd: Path, mounted: str | None = None, **environment: str) -> str:
    """The sentence that a command of ours, `python -m jobs.NAME ...`, fails with, after everything it must not do.

    mounted: options of a file system that `small/` is while the command runs, such as "size=100k" or "ro".
    """
    words = [sys.executable, "-m", f"jobs.{command[0]}", *command[1:]]
    if mounted is not None:
        mount = f"mount -t tmpfs -o {mounted} tmpfs small"
        if subprocess.run(["unshare", "-rm", "sh", "-c", mount], cwd=cwd, capture_output=True, check=False).returncode:
            pytest.skip("this system lets nobody mount a small file system (unshare -rm)")
        words = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_", "SHARDPRESS_"))}
    kept |= {"HOME": str(cwd / "home"), "PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run(words, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False)
    said = done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said + done.stdout
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    return errors[0].removeprefix("error: ")


RECOMPRESS = ("recompress", "--source", "photos", "--archive", "archive")


@pytest.mark.parametrize(
    ("code", "command", "said"),
    [
        (2, (*RECOMPRESS, "codec.qualty=70"), "did you mean 'codec.quality'?"),
        (2, (*RECOMPRESS, "codec.name=wepb"), "did you mean 'webp'?"),
        (2, (*RECOMPRESS, "codec.quality=600"), "expected a number in [0, 100]"),
        (2, ("recompress", "--source", "photos"), "set archive.uri (or --archive)"),
        (2, ("recompress", "--sourc", "photos"), "--source"),
        (2, ("recompress", "--source", "photos/a.jpg", "photos/b.jpg"), "globs want quotes"),
        (2, ("recompress", "photos", "archive"), "places have flags of their own"),
        (2, ("recompress", "--config", "nightly.yaml"), "nightly.yaml: No such file"),
        (1, ("recompress", "--source", "photoz", "--archive", "archive"), "photoz: found nothing at all"),
        (1, ("recompress", "--source", "home", "--archive", "archive"), "home: found nothing at all"),
        (2, ("recompress", "--source", "photos", "--archive", "photos/archive"), "keep them apart"),
        (1, ("restore", "--archive", "archive", "--out", "out"), "archive: found no archive.json"),
        (1, ("verify", "--archive", "photos"), "photos: found no archive.json"),
        (1, ("serve", "--archive", "photos"), "photos: found no archive.json"),
        (1, ("report", "--archive", "photos"), "photos: found no archive.json"),
        (2, ("encode", "photos"), "photos: found a folder, expected files: 'photos/*.jpg'"),
        (1, ("encode", "photo.jpg"), "photo.jpg: no such file"),
        (1, ("decode", "home/.profile"), "home/.profile: no such file"),
        (2, ("train", "--data", "photos"), "set out (or --out)"),
        (2, ("models", "0123456789abcdef"), "not in this installation, which has"),
        (2, ("evaluate", "--source", "photos", "--results", "r"), "set codecs"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_what_was_mistyped_or_is_not_there(code: int, command: tuple[str, ...], said: str, folder: Path) -> None:
    assert said in fails(code, *command, cwd=folder)


def test_a_file_that_is_no_picture_is_named(folder: Path) -> None:
    (folder / "page.jpg").write_text("<html>")
    assert fails(1, "encode", "page.jpg", cwd=folder).startswith("page.jpg: not an image")
    assert fails(1, "decode", "page.jpg", cwd=folder).startswith("page.jpg: not an image")


def test_a_picture_that_a_single_file_cannot_stand_for_is_told_where_it_could_go(folder: Path) -> None:
    Image.new("I;16", (40, 30)).save(folder / "deep.png")
    Image.new("CMYK", (40, 30)).save(folder / "print.jpg")
    for name, found in (("deep.png", "found 16 bits per channel"), ("print.jpg", "found CMYK colours")):
        said = fails(1, "encode", name, cwd=folder)
        assert said.startswith(f"{name}: {found}, expected one picture of 8-bit gray or RGB")
        assert "shardpress recompress" in said


def test_no_credentials_for_a_bucket(folder: Path) -> None:
    source = ("recompress", "--source", "s3://photos/2026/", "--archive", "archive")
    assert "no credentials found; set AWS_ACCESS_KEY_ID" in fails(1, *source, cwd=folder)
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    said = fails(1, *source, cwd=folder, **keys)
    assert "check AWS_ENDPOINT_URL" in said
    assert "hidden" not in said


@pytest.mark.ray
def test_a_gpu_that_is_not_there_ends_the_run_and_stores_nothing(folder: Path) -> None:
    no_gpu = {"CUDA_VISIBLE_DEVICES": ""}
    said = fails(2, *RECOMPRESS, "resources.num_gpus=1", cwd=folder, **no_gpu)
    assert "GPUs need 1, Ray has 0" in said
    assert "set resources.num_gpus=0" in said
    assert "device 'cuda'" in fails(2, *RECOMPRESS, "resources.device=cuda", cwd=folder, **no_gpu)
    assert not list(folder.glob("archive/metrics/*"))


def test_a_folder_that_takes_no_files(folder: Path, photos: list[Path]) -> None:
    archive = made.press(folder / "photos", folder / "archive", "webp", 60).uri
    for command in (
        ("recompress", "--source", "photos", "--archive", "small/archive", "codec.name=webp"),
        ("restore", "--archive", archive, "--out", "small"),
        ("encode", f"photos/{photos[0].name}", "small/x.webp"),
    ):
        said = fails(1, *command, cwd=folder, mounted="ro")
        assert "small/" in said
        assert "the file system is read-only; choose a writable folder" in said


@pytest.mark.ray
def test_a_full_disk(folder: Path, photos: list[Path]) -> None:
    archive = made.press(folder / "photos", folder / "archive", "original", None).uri
    recompress = ("recompress", "--source", "photos", "--archive", "small/archive", "codec.name=original")
    for size, command in (("40k", recompress), ("8k", ("restore", "--archive", archive, "--out", "small"))):
        said = fails(1, *command, cwd=folder, mounted=f"size={size}")
        assert "small/" in said
        assert "no space left on the device; free some" in said


def test_an_extra_that_is_not_installed(folder: Path) -> None:
    archive = made.press(folder / "photos", folder / "archive", "webp", 60).uri
    (folder / "without").mkdir()
    for name in ("uvicorn", "jinja2"):
        (folder / "without" / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module', name='{name}')")
    less = {"PYTHONPATH": f"{folder / 'without'}{os.pathsep}{ROOT}"}
    assert "pip install 'shardpress[serve]'" in fails(2, "serve", "--archive", archive, cwd=folder, **less)
    assert "pip install 'shardpress[report]'" in fails(2, "report", "--archive", archive, cwd=folder, **less)


def test_an_old_python_is_told_by_make_and_by_every_job(folder: Path) -> None:
    pretend = "import sys; sys.version_info, sys.version = (3, 10, 2), '3.10.2'"
    job = subprocess.run(
        [sys.executable, "-c", f"{pretend}; import jobs.encode"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (job.returncode, job.stderr) == (1, "shardpress needs Python 3.11 or newer; this is 3.10.2\n")
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    old = folder / "old-python"
    old.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} -c "{pretend}; exec(sys.argv[1])" "$2"\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run(
        [make, "-s", "install", f"PYTHON={old}"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "shardpress needs Python 3.11 or newer; this is 3.10.2; set PYTHON=python3.11" in done.stderr
    assert not (folder / ".venv").exists()


def test_an_audit_without_network_says_that_nothing_was_audited() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    settings = [f"BIN={Path(sys.executable).parent}", "ADVISORIES=http://127.0.0.1:9/"]
    own = {name: value for name, value in os.environ.items() if "MAKE" not in name}  # `make test` is no part of it
    done = subprocess.run(
        [make, "-s", "-o", "install", "audit", *settings],
        cwd=ROOT, env=own, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    said, made = done.stderr.splitlines()
    assert said.startswith("audit: nothing was audited: http://127.0.0.1:9/ does not answer; run it where")
    assert made.startswith("make: ***")

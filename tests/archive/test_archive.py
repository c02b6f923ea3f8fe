"""Making and opening an archive; specs and weights."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.archive import create_or_open, open_archive, plan, spec_id
from pipeline.errors import ArchiveError
from tests.archive.made import SPEC, commit_files, items

WEIGHTS = b"weights of a decoder"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


def test_an_archive_is_made_once_and_found_again(root: str) -> None:
    uri = storage.join(root, "archive")
    with pytest.raises(ArchiveError, match=r"found no archive\.json"):
        open_archive(uri)
    made = create_or_open(uri + "/")
    assert made.add_spec(SPEC) == spec_id(SPEC)
    assert create_or_open(uri).codec_specs() == {spec_id(SPEC): SPEC}
    assert open_archive(uri) == made


def test_a_folder_with_other_things_in_it_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ArchiveError, match=r"found files but no archive\.json"):
        create_or_open(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format_version": 2}', "format version is 2, this program knows version 1; use the shardpress release"),
        ('{"a": 1}', "expected JSON with a format_version"),
        ("[1]", "expected JSON with a format_version"),
        ("no json", "expected JSON with a format_version"),
    ],
)
def test_an_unknown_version_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "archive.json").write_text(text)
    for door in (create_or_open, open_archive):
        with pytest.raises(ArchiveError, match=message):
            door(str(tmp_path))


def test_a_part_of_an_unknown_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = create_or_open(str(tmp_path))
    [unit] = plan(archive, items(1), SPEC)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.archive.parts.FORMAT_VERSION", 7)
        commit_files(archive, unit)
    with pytest.raises(ArchiveError, match=r"part-.*parquet: archive format version is 7"):
        archive.metrics()


def test_weights_are_found_by_the_start_of_their_hash_and_checked(root: str) -> None:
    archive = create_or_open(storage.join(root, "archive"))
    archive.add_weights(SHA256, WEIGHTS)
    archive.add_weights(SHA256, WEIGHTS)
    assert archive.weights(SHA256[:16]) == archive.weights(SHA256) == WEIGHTS
    with pytest.raises(ArchiveError, match="found 0 weights files for model 'ffff'"):
        archive.weights("ffff")
    with pytest.raises(ArchiveError, match="expected 0000"):
        archive.add_weights("0000", WEIGHTS)
    storage.write_atomic(f"{archive.uri}/weights/{SHA256}.safetensors", b"rotten")
    with pytest.raises(ArchiveError, match="does not have the SHA-256 of its name"):
        archive.weights(SHA256)


def test_opening_an_archive_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, json, pipeline.archive; print(json.dumps(sorted({'torch', 'ray', 's3fs'} & sys.modules.keys())))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []

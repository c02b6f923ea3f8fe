"""The same job over a bucket, from the command line: a Ray of its own, credentials from the environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.archive import open_archive, results
from tests.conftest import SECRET_KEY, S3Server
from tests.end_to_end.conftest import small_photo

pytestmark = [pytest.mark.ray, pytest.mark.s3]


def shardpress(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jobs", *arguments], capture_output=True, text=True, timeout=540)


def test_a_bucket_is_recompressed_restored_and_verified(s3_server: S3Server, tmp_path: Path):
    bucket = s3_server.bucket("nightly")
    for n in range(3):
        storage.write_atomic(f"{bucket}/in/2026/{n}.jpg", small_photo(n))
    archive, out = f"{bucket}/archive", f"{bucket}/out"

    done = shardpress("recompress", "--source", f"{bucket}/in/", "--archive", archive, "codec.name=webp", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["images"], summary["encoded"]) == (3, 3)
    assert len(open_archive(archive).metrics()) == 3

    done = shardpress("restore", "--archive", archive, "--out", out)
    assert done.returncode == 0, done.stderr
    names = [item.uri.removeprefix(f"{out}/") for item in storage.list_files(out)]
    assert names == ["0.png", "1.png", "2.png"]
    done = shardpress("verify", "--archive", archive, "--all")
    assert "3 pictures decoded, 3 compared" in done.stdout, done.stderr

    records = [item.uri for item in storage.list_files(f"{archive}/runs", {".json"})]
    said = done.stdout + done.stderr + "".join(storage.read_bytes(uri).decode() for uri in records)
    assert SECRET_KEY not in said


def test_results_and_pages_lie_in_a_bucket(s3_server: S3Server, tmp_path: Path):
    bucket = s3_server.bucket("evaluated")
    for n in range(3):
        storage.write_atomic(f"{bucket}/in/{n}.jpg", small_photo(n))
    codecs = "codecs=[{name: jpeg, qualities: [10, 30, 60, 90]}, {name: webp, qualities: [10, 30, 60, 90]}]"
    order = [
        "evaluate",
        "--source",
        f"{bucket}/in/",
        "--results",
        f"{bucket}/results",
        codecs,
        "report.worst=3",
        "report.superres=0",
        "--json",
    ]
    done = shardpress(*order)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 24
    assert len(results.read(f"{bucket}/results")) == 24
    page = storage.read_bytes(f"{bucket}/results/report.html").decode()
    assert "BD-rate against jpeg" in page
    assert page.count('class="compare"') == 3  # the sources are read from the bucket again

    done = shardpress(*order)
    assert json.loads(done.stdout)["rows"] == 0, done.stderr
    here = tmp_path / "page.html"
    done = shardpress("report", "--results", f"{bucket}/results", "--anchor", "webp", "--out", str(here))
    assert done.returncode == 0, done.stderr
    assert "BD-rate against webp" in here.read_text()
    said = page + "".join(
        storage.read_bytes(item.uri).decode() for item in storage.list_files(f"{bucket}/results/runs")
    )
    assert SECRET_KEY not in said


def test_a_missing_bucket_is_one_clear_sentence(s3_server: S3Server, tmp_path: Path):
    done = shardpress("recompress", "--source", "s3://no-such-bucket/x", "--archive", str(tmp_path / "a"))
    assert done.returncode == 1
    assert "no-such-bucket" in done.stderr
    assert done.stderr.count("\n") == 1

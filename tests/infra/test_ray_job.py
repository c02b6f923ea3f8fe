"""`ray job submit` against a real head: what is uploaded, what comes back, stopping, going on, and the metrics."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
import yaml

from pipeline.archive import open_archive
from tests.end_to_end.conftest import small_photo
from tests.infra.head import LIMIT_S, ROOT, Head, json_of, running

pytestmark = pytest.mark.ray
UPLOAD_LIMIT = 16 << 20  # weights are the bulk of it


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running() as started:
        yield started


def photos(folder: Path, count: int, side: int = 160) -> Path:
    folder.mkdir()
    for n in range(count):
        (folder / f"{n:04d}.jpg").write_bytes(small_photo(n, side))
    return folder


def nightly(source: Path, archive: Path, *more: str) -> list[str]:
    config = ["--config", "configs/recompress/nightly.yaml", f"source.uri={source}", f"archive.uri={archive}"]
    return ["jobs.recompress", *config, "codec.name=jpeg2000", *more]


def test_a_job_runs_from_a_small_upload_and_its_summary_and_exit_code_come_through(head, tmp_path):
    source = photos(tmp_path / "in", 3)
    done = head.submit(*nightly(source, tmp_path / "archive", "--json"))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json_of(done.stdout)
    assert (summary["images"], summary["listed"]) == (3, 3)
    record = json.loads((tmp_path / "archive" / "runs" / f"{summary['run_id']}.json").read_text())
    assert (record["status"], record["counters"]["images"]) == ("finished", 3)
    assert {"decode", "encode", "commit"} <= record["counters"]["stage_s"].keys()

    [uploaded] = list(head.folder.glob("session_latest/runtime_resources/working_dir_files/_ray_pkg_*/"))
    files = [path for path in uploaded.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < UPLOAD_LIMIT
    assert {path.relative_to(uploaded).parts[0] for path in files} >= {"pipeline", "jobs", "configs"}
    assert not any((uploaded / name).exists() for name in (".git", ".venv", "tests", "infra"))

    (source / "broken.jpg").write_bytes(b"<html>")
    failed = head.submit(*nightly(source, tmp_path / "archive", "error_budget=0.1"))
    assert failed.returncode == 1
    assert "1 of 1 images were rejected" in failed.stdout

    nowhere = head.submit(*nightly(source, Path("archive")))
    assert nowhere.returncode == 1
    assert "archive.uri is 'archive'" in nowhere.stdout


def test_a_stopped_job_leaves_an_archive_that_the_next_one_finishes(head, tmp_path):
    images = 64 * 5
    source, archive = photos(tmp_path / "in", images, 320), tmp_path / "archive"
    # A target is searched for picture by picture, which leaves time to stop it.
    job = nightly(source, archive, "codec.target.psnr_db=36", "floor.psnr_db=20")
    [name] = set(re.findall(r"raysubmit_\w+", head.submit(*job, wait=False).stdout))
    deadline = time.monotonic() + LIMIT_S
    while not list(archive.glob("metrics/*.parquet")):
        assert time.monotonic() < deadline, head.ray("job", "logs", "--address", head.address, name).stdout
        time.sleep(0.1)
    stopped = head.ray("job", "stop", "--address", head.address, name)
    assert stopped.returncode == 0, stopped.stderr
    assert head.status(name) == "STOPPED"
    kept = len(open_archive(str(archive)).metrics())
    assert 0 < kept < images

    done = head.submit(*nightly(source, archive, "--json"))
    assert done.returncode == 0, done.stdout
    assert json_of(done.stdout)["images"] == images - kept
    counted = f"select count(*), count(distinct image_id), count(distinct run_id) from '{archive}/metrics/*.parquet'"
    assert duckdb.sql(counted).fetchall() == [(images, images, 2)]


def named_metrics() -> set[str]:
    """Every metric that a dashboard or an alert asks for."""
    board = json.loads((ROOT / "infra" / "grafana" / "shardpress.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((ROOT / "infra" / "prometheus" / "rules.yml").read_text())
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return set(re.findall(r"\b(?:ray|shardpress)_[a-z0-9_]+", " ".join(asked)))


def test_every_metric_of_dashboard_and_alerts_is_exported(head, tmp_path):
    from pipeline.serve.counters import Counters

    gateway = Counters()
    gateway.answered(200, 0.1)
    named, deadline = named_metrics(), time.monotonic() + LIMIT_S
    assert len(named) > 10
    source = photos(tmp_path / "in", 64 * 3, 240)
    [job] = set(re.findall(r"raysubmit_\w+", head.submit(*nightly(source, tmp_path / "archive"), wait=False).stdout))
    exported: set[str] = {"shardpress_gateway_requests_total"} & set(re.findall(r"^(\w+)\{", _text(gateway), re.M))
    while not named <= exported:
        assert time.monotonic() < deadline, f"never exported: {sorted(named - exported)}; the job: {head.status(job)}"
        exported |= set(re.findall(r"^(\w+)[{ ]", head.metrics(), re.M))
        time.sleep(0.3)
    head.ray("job", "stop", "--address", head.address, job)


def _text(gateway) -> str:
    from types import SimpleNamespace

    return str(gateway.text(SimpleNamespace(pictures=[], cached_bytes=0, hits=0, misses=0, render_s=0.0)))

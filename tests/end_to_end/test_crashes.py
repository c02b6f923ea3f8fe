"""Kill it anywhere: poison images, a driver that dies, two runs at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from jobs.recompress import main as recompress
from pipeline.codecs.registry import build
from pipeline.execution.recompression import Order
from pipeline.execution.recompression import recompress as run
from pipeline.imaging.decode import decode
from pipeline.records import Picture, Rate
from pipeline.sources import open_source
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Floor
from tests.end_to_end.conftest import small_photo

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def deadly(data: bytes) -> Picture:
    """A decoder that a certain file kills, and the process with it."""
    if data.startswith(b"POISON"):
        os._exit(3)
    return decode(data)


@pytest.mark.parametrize("codec", ["webp", "cnn"])
def test_an_image_that_kills_its_worker_costs_one_row(codec, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for n in range(3):
        (source / f"{n}.jpg").write_bytes(small_photo(n, 100))
    for n in range(2):
        (source / f"1-poison{n}.jpg").write_bytes(b"POISON")
    order = Order(
        archive_uri=str(tmp_path / "archive"),
        source=open_source(str(source)),
        chain=[build(codec, Rate(quality=70)), build("original")],
        floor=Floor(psnr_db=20),
        decode=Decode(hook=deadly),
    )
    report = run(order, lambda total, images: None)
    assert (report.total.encoded, report.total.rejected) == (3, 2)
    reasons = [row["reason"] for row in report.rows() if row["status"] == "rejected"]
    assert reasons == ["decoding this image crashed the process (exit code 3)"] * 2


def _start(source: Path, archive: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.recompress", "--source", str(source), "--archive", str(archive)]
    options = ["codec.name=jpeg2000", "codec.target.psnr_db=36", "floor.psnr_db=20", "resources.cpus=2"]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _first_part(archive: Path, more_than: int, limit_s: float = 360) -> None:
    deadline = time.monotonic() + limit_s
    while len(list((archive / "metrics").glob("*.parquet"))) <= more_than:
        assert time.monotonic() < deadline, "no part was committed in time"
        time.sleep(0.05)


def test_interrupted_killed_and_rivalled_every_image_is_there_once(tmp_path, fill, capsys):
    images = 64 * 7 + 5
    source, archive = fill("in", range(images)), tmp_path / "archive"

    interrupted = _start(source, archive)
    _first_part(archive, 0)
    interrupted.send_signal(signal.SIGINT)
    _, said = interrupted.communicate(timeout=240)
    assert interrupted.returncode == 1
    assert "interrupted" in said
    assert "Traceback" not in said

    killed = _start(source, archive)
    _first_part(archive, len(list((archive / "metrics").glob("*.parquet"))))
    rival = recompress(["--source", str(source), "--archive", str(archive), "codec.name=jpeg2000"])
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert rival == 1
    assert "holds this archive" in capsys.readouterr().err

    before = duckdb.sql(f"select count(*) from '{archive}/metrics/*.parquet'").fetchall()[0][0]
    assert 0 < before < images
    assert recompress(["--source", str(source), "--archive", str(archive), "codec.name=jpeg2000"]) == 0
    query = f"select count(*), count(distinct image_id), count(distinct run_id) from '{archive}/metrics/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(images, images, 3)]
    joined = f"'{archive}/metrics/*.parquet' m join '{archive}/data/*.parquet' d using (image_id, part)"
    assert duckdb.sql(f"select count(*) from {joined}").fetchall() == [(images,)]

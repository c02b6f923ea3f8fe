"""`jobs.evaluate` over files and shards: a row for each image, codec and setting, resumed and extended."""

from __future__ import annotations

import json
import os
import tarfile

import pyarrow.compute as pc
import pytest

from jobs.evaluate import main
from pipeline.archive import results
from pipeline.imaging.decode import decode
from pipeline.records import Picture
from pipeline.stages.decode import Decode
from tests.end_to_end.conftest import small_photo

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
CLASSICAL = "codecs=[{name: jpeg, qualities: [20, 60]}, {name: webp, qualities: [30, 70]}, {name: jxl-lossless}]"


def job(source: object, folder: object, *overrides: str, report: bool = False) -> int:
    flags = [] if report else ["--no-report"]
    return main(["--source", str(source), "--results", str(folder), *flags, *overrides])


def test_a_row_for_every_image_and_setting_then_only_what_is_new(fill, tmp_path, capsys):
    source, folder = fill("in", range(5)), str(tmp_path / "r")
    (source / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    assert job(source, folder, CLASSICAL, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["rows"], summary["rejected"]) == (6, 30, 1)
    table = results.read(folder)
    assert len(table) == 30
    assert pc.count_distinct(table["image_id"]).as_py() == 6
    assert table.filter(pc.field("status") == "rejected").num_rows == 5

    assert job(source, folder, CLASSICAL) == 0
    assert "nothing new to measure" in capsys.readouterr().out
    (source / "9.jpg").write_bytes(small_photo(9))
    more = CLASSICAL.replace("[20, 60]", "[20, 60, 80]")
    assert job(source, folder, more, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 6 + 6
    assert len(results.read(folder)) == 7 * 6


def test_learned_and_classical_rows_end_in_one_part_and_a_page(fill, tmp_path, capsys):
    source, folder = fill("in", range(2)), tmp_path / "r"
    codecs = "codecs=[{name: cnn, qualities: [20, 60], efforts: [0]}, {name: jpeg, qualities: [20, 60]}]"
    assert job(source, folder, codecs, "resources.device=cpu", "report.worst=1", report=True) == 0
    assert f"report: {folder}/report.html" in capsys.readouterr().out
    table = results.read(str(folder))
    assert sorted(set(table["series"].to_pylist())) == ["cnn", "jpeg"]
    assert len(table) == 8
    assert min(table["psnr_db"].to_pylist()) > 15
    page = (folder / "report.html").read_text()
    assert "bits, 0 to" in page
    assert "jobs.evaluate" in page


def test_a_sample_of_shards(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for shard in range(3):
        with tarfile.open(tmp_path / "in" / f"{shard}.tar", "w") as tar:
            for number in range(6):
                path = tmp_path / f"{shard}-{number}.jpg"
                path.write_bytes(small_photo(10 * shard + number))
                tar.add(path, path.name)
    assert job(tmp_path / "in", tmp_path / "r", CLASSICAL, "sample=4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 4 * 5
    assert job(tmp_path / "in", tmp_path / "r", CLASSICAL, "sample=4") == 0
    assert "nothing new" in capsys.readouterr().out


def test_an_image_that_kills_its_worker_costs_its_own_rows(fill, tmp_path):
    from dataclasses import replace

    from jobs.evaluation_orders import order_of
    from pipeline.config import EvaluateConfig, load
    from pipeline.execution.evaluation import evaluate

    source = fill("in", range(3))
    (source / "poison.jpg").write_bytes(b"POISON")
    flags = {"source.uri": str(source), "results.uri": str(tmp_path / "r")}
    order = order_of(load(EvaluateConfig, None, ["codecs=[{name: jpeg, qualities: [50]}]"], flags))
    report = evaluate(replace(order, decode=Decode(hook=deadly)), lambda total: None)
    assert (report.total.images, report.total.rejected) == (4, 1)
    reasons = [reason for reason in results.read(str(tmp_path / "r"))["reason"].to_pylist() if reason]
    assert reasons == ["measuring this image crashed the process"]


def deadly(data: bytes) -> Picture:
    if data.startswith(b"POISON"):
        os._exit(3)
    return decode(data)


def test_what_a_worker_cannot_build_is_told(fill, tmp_path, capsys):
    codecs = "codecs=[{name: cnn, qualities: [20]}]"
    assert job(fill("in", range(1)), tmp_path / "r", codecs, "resources.device=cuda:99") == 2
    assert "cuda:99" in capsys.readouterr().err

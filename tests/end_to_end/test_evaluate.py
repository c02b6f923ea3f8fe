"""`jobs.evaluate` over files and shards: a row for each image, codec and setting, resumed and extended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time

import duckdb
import numpy as np
import pyarrow.compute as pc
import pytest
import safetensors.torch
from PIL import Image

from jobs.evaluate import main
from pipeline.archive import results
from pipeline.imaging.decode import decode
from pipeline.records import Picture
from pipeline.stages.decode import Decode
from tests.end_to_end.conftest import small_photo
from tests.nn.made import strongest_channel

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
    assert "Bits per block of" in page
    assert "jobs.evaluate" in page


def test_a_classifier_looks_at_sources_and_decoded_pictures(tmp_path):
    source, folder, weights = tmp_path / "in", tmp_path / "r", tmp_path / "w.safetensors"
    source.mkdir()
    for channel, name in enumerate(("red", "green", "blue")):
        rgb = np.full((260, 260, 3), 100, np.uint8)
        rgb[..., channel] = 220
        Image.fromarray(rgb).save(source / f"{name}-1.png")
    weights.write_bytes(safetensors.torch.save(strongest_channel().state_dict()))
    (tmp_path / "classes.txt").write_text("red\ngreen\nviolet\nblue\n")
    where = f"weights: {weights}, classes: {tmp_path}/classes.txt, label_pattern: '^[a-z]+'"
    codecs = "codecs=[{name: jpeg, qualities: [50, 90]}, {name: webp, qualities: [50, 90]}]"
    order = [codecs, f"fidelity={{network: squeezenet1_1, {where}}}", "report.worst=0"]
    assert job(source, folder, *order, report=True) == 0
    rows = results.read(str(folder), ["source_uri", "label", "top1_source", "top1_decoded"]).to_pylist()
    assert len(rows) == 3 * 4
    for row in rows:
        seen = 2 if "blue" in row["source_uri"] else row["label"]
        assert (row["top1_source"], row["top1_decoded"]) == (seen, seen)
    page = (folder / "report.html").read_text()
    assert "On the sources it is right on 66.7 % (0.0 to 100.0) of 3 images" in page
    for said in ("What a classifier still sees", "squeezenet1_1", "same class, %", "right class, %", "same class at"):
        assert said in page


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


def test_a_larger_sample_holds_the_smaller_one_and_measures_only_the_rest(fill, tmp_path, capsys):
    source, folder = fill("in", range(24)), str(tmp_path / "r")
    seen = []
    for sample, new in ((4, 4), (8, 4)):
        assert job(source, folder, CLASSICAL, f"sample={sample}", "seed=7", "--json") == 0
        assert json.loads(capsys.readouterr().out)["images"] == new
        seen.append(set(results.read(folder, ["image_id"])["image_id"].to_pylist()))
    assert seen[0] < seen[1]
    assert len(seen[1]) == 8
    # Ids follow from the folder, which is new in every run: two samples are the same once in 735,471 runs.
    assert job(source, str(tmp_path / "other"), CLASSICAL, "sample=8", "seed=8", "--json") == 0
    assert set(results.read(str(tmp_path / "other"), ["image_id"])["image_id"].to_pylist()) != seen[1]


def test_killed_and_started_again_every_measurement_is_there_once(fill, tmp_path, capsys):
    images, codecs = 40, "codecs=[{name: jpeg2000, qualities: [20, 30, 40, 50, 60]}, {name: webp, qualities: [30, 70]}]"
    source, folder = fill("in", range(images)), tmp_path / "r"
    command = [sys.executable, "-m", "jobs.evaluate", "--source", str(source), "--results", str(folder), "--no-report"]
    killed = subprocess.Popen([*command, codecs, "resources.cpus=2"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list(folder.glob("part-*.parquet"))) < 2:
        assert time.monotonic() < deadline, "no part was committed in time"
        time.sleep(0.05)
    killed.kill()
    killed.wait()

    assert job(source, folder, codecs, "--json") == 0
    assert 0 < json.loads(capsys.readouterr().out)["images"] < images
    files = f"'{folder}/part-*.parquet'"
    (counted,) = duckdb.sql(f"select count(*), count(distinct image_id || setting_id) from {files}").fetchall()
    assert counted == (7 * images, 7 * images)


def test_a_shard_that_cannot_be_read_is_a_row_and_not_the_end(fill, tmp_path, capsys):
    source = fill("in", range(1))
    with tarfile.open(source / "good.tar", "w") as tar:
        tar.add(source / "0000.jpg", "a.jpg")
    (source / "0000.jpg").unlink()
    (source / "bad.tar").write_bytes(b"no tar at all" * 100)
    assert job(source, tmp_path / "r", CLASSICAL, "source.kind=webdataset", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rejected"] == 1
    reasons = {
        row["source_uri"].rpartition("/")[2]: row["reason"] for row in results.read(str(tmp_path / "r")).to_pylist()
    }
    assert reasons["good.tar#a.jpg"] is None
    assert "bad.tar" in reasons


def test_an_image_that_kills_its_worker_costs_its_own_rows(fill, tmp_path):
    from dataclasses import replace

    from jobs.evaluation_orders import order_of
    from pipeline.config import EvaluateConfig, load
    from pipeline.execution.evaluation import evaluate

    source = fill("in", range(3))
    (source / "poison.jpg").write_bytes(b"POISON")
    flags = {"source.uri": str(source), "results.uri": str(tmp_path / "r")}
    order = order_of(load(EvaluateConfig, None, ["codecs=[{name: jpeg, qualities: [50]}]"], flags))
    report = evaluate(replace(order, decode=Decode(hook=deadly)), lambda total, images: None)
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

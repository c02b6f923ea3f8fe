"""Result parts: committed once, known to planning by their metadata, newest row wins."""

from __future__ import annotations

import pytest

from pipeline.archive import results
from pipeline.archive.results import ResultMeta, Setting
from pipeline.errors import ArchiveError

A, B = ("/in/a.png", "1"), ("/in/b.png", "1")


def row(image: str = "a", quality: float = 50.0, **columns: object) -> dict[str, object]:
    return {"image_id": image, "series": "jpeg", "quality": quality, "status": "encoded", **columns}


def test_a_part_is_committed_once(tmp_path):
    meta = ResultMeta((A,), ("s1",))
    results.commit(str(tmp_path), meta, [row(bpp=1.0)], "r1")
    results.commit(str(tmp_path), meta, [row(bpp=2.0)], "r2")
    assert results.is_committed(str(tmp_path), meta.part_id)
    assert results.read(str(tmp_path), ["bpp", "run_id"]).to_pylist() == [{"bpp": 1.0, "run_id": "r1"}]


def test_settings_are_done_when_every_chunk_is_there(tmp_path):
    folder = str(tmp_path)
    results.commit(folder, ResultMeta((A, B), ("s1", "s2")), [row()], "r")
    shard = ("/in/x.tar", "1")
    results.commit(folder, ResultMeta((shard,), ("s1",), 0, False), [row("x")], "r")
    assert results.done(folder) == {(*A, None): {"s1", "s2"}, (*B, None): {"s1", "s2"}}
    results.commit(folder, ResultMeta((shard,), ("s1",), 1, True), [row("y")], "r")
    assert results.done(folder)[*shard, None] == {"s1"}
    results.commit(folder, ResultMeta((shard,), ("s1",), 0, True, (10, 7)), [row("x")], "r")
    assert results.done(folder)[*shard, (10, 7)] == {"s1"}


def test_of_rows_for_one_image_and_setting_the_newest_counts(tmp_path):
    for number, bpp in enumerate((1.0, 2.0)):
        meta = ResultMeta((A,), (f"s{number}",))
        results.commit(str(tmp_path), meta, [row(bpp=bpp), row(quality=70.0, bpp=bpp)], "r")
    assert results.read(str(tmp_path), ["quality", "bpp"]).sort_by("quality").to_pylist() == [
        {"quality": 50.0, "bpp": 2.0},
        {"quality": 70.0, "bpp": 2.0},
    ]


def test_infinite_numbers_are_stored_as_null(tmp_path):
    results.commit(str(tmp_path), ResultMeta((A,), ("s",)), [row(mse=0.0, psnr_db=float("inf"))], "r")
    assert results.read(str(tmp_path), ["mse", "psnr_db"]).to_pylist() == [{"mse": 0.0, "psnr_db": None}]


def test_a_setting_id_depends_on_codec_curve_and_classifier():
    spec = {"name": "jpeg", "rate": {"quality": 50.0}}
    ids = {
        Setting("jpeg", spec).setting_id,
        Setting("jpeg", spec | {"rate": {"quality": 60.0}}).setting_id,
        Setting("other", spec).setting_id,
        Setting("jpeg", spec, {"network": "resnet18"}).setting_id,
    }
    assert len(ids) == 4
    assert Setting(**Setting("jpeg", spec).to_dict()).setting_id in ids


def test_what_is_no_result_is_told(tmp_path):
    with pytest.raises(ArchiveError, match="found no part"):
        results.read(str(tmp_path))
    (tmp_path / "part-x.parquet").write_bytes(b"not parquet")
    for read in (results.read, results.done):
        with pytest.raises(ArchiveError, match=r"part-x\.parquet"):
            read(str(tmp_path))

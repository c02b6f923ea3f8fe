"""Reading with our code, and with DuckDB and none of it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.compute as pc
import pytest

from pipeline import storage
from pipeline.archive import Archive, create_or_open, open_archive, plan
from pipeline.errors import ArchiveError
from pipeline.records import ENCODED, KEPT_ORIGINAL, REJECTED, image_id_of
from tests.archive.made import SPEC, commit, commit_files, items, outcome, source

NEWEST = """
    SELECT * FROM read_parquet('{uri}/metrics/*.parquet')
    QUALIFY row_number() OVER (
      PARTITION BY image_id
      ORDER BY committed_at DESC, list_position(['encoded', 'kept_original', 'rejected'], status), part) = 1
"""


@pytest.fixture
def archive(root: str) -> Archive:
    """Three parts: five encoded, five kept, five rejected images."""
    archive = create_or_open(storage.join(root, "archive"))
    for number, status in enumerate((ENCODED, KEPT_ORIGINAL, REJECTED)):
        [unit] = plan(archive, items(5, prefix=f"/{number}"), SPEC)
        images = [source(item.uri, label=number, caption=f"no. {i}") for i, item in enumerate(unit.items)]
        commit(archive, unit, images, status)
    return archive


def test_metrics_have_one_row_per_image_and_the_columns_of_the_contract(archive: Archive) -> None:
    table = archive.metrics()
    assert len(table) == 15
    assert ", ".join(table.column_names) == (
        "image_id, source_uri, source_version, source_format, source_bytes, width, height, status, reason, codec, "
        "model_id, quality, payload_bytes, bpp, mse, psnr_db, ssim, ms_ssim, encode_ms, part, run_id, committed_at"
    )
    assert archive.metrics(["status"]).column_names == ["status"]
    with pytest.raises(ArchiveError, match="expected some of image_id"):
        archive.metrics(["psnr"])


def test_a_picture_comes_back_with_everything_that_belongs_to_it(archive: Archive) -> None:
    image = source("/0/0003.jpg")
    stored = archive.payload(image.image_id)
    assert stored.payload == outcome(image).payload
    assert (stored.exif, stored.icc, stored.xmp, stored.alpha) == (b"Exif", b"profile", None, None)
    assert (stored.width, stored.height, stored.gray, stored.codec) == (8, 6, False, "jpeg")
    assert stored.passthrough == {"label": 0, "caption": "no. 3"}
    assert stored.metrics == archive.row(image.image_id)
    kept = archive.payload(image_id_of("/1/0000.jpg"))
    assert (kept.payload, kept.exif, kept.status) == (source("/1/0000.jpg").data, None, KEPT_ORIGINAL)


def test_pictures_are_chosen_by_id_or_by_expression(archive: Archive) -> None:
    ids = [image_id_of(f"/{n}/0001.jpg") for n in range(3)]
    assert {stored.image_id for stored in archive.iter_payloads(ids)} == set(ids[:2])
    found = archive.iter_payloads(where=(pc.field("status") == KEPT_ORIGINAL) & (pc.field("source_bytes") > 10))
    assert sorted(stored.source_uri for stored in found) == [f"/1/000{i}.jpg" for i in range(5)]


def test_what_cannot_be_given_is_told_in_one_sentence(archive: Archive) -> None:
    with pytest.raises(ArchiveError, match="no image 'nobody' among 15"):
        archive.payload("nobody")
    with pytest.raises(ArchiveError, match=r"was rejected \(unreadable: gone\)"):
        archive.payload(image_id_of("/2/0000.jpg"))


def test_a_damaged_part_is_told_and_the_others_are_still_read(archive: Archive) -> None:
    part = archive.row(image_id_of("/0/0000.jpg"))["part"]
    storage.write_atomic(f"{archive.uri}/data/part-{part}.parquet", b"PAR1 not really PAR1")
    with pytest.raises(ArchiveError, match=rf"part-{part}.parquet: cannot be read"):
        list(archive.iter_payloads())
    told: list[ArchiveError] = []
    assert len(list(archive.iter_payloads(on_error=told.append))) == 5
    assert len(told) == 1


def test_the_newest_row_counts(tmp_path: Path) -> None:
    archive = create_or_open(str(tmp_path))
    for version, status in (("v1", ENCODED), ("v2", REJECTED), ("v3", KEPT_ORIGINAL)):
        [unit] = plan(archive, items(3, version), SPEC)
        commit_files(archive, unit, status)
    assert archive.metrics(["source_version", "status"]).to_pylist() == 3 * [
        {"source_version": "v3", "status": KEPT_ORIGINAL}
    ]
    assert {stored.source_version for stored in archive.iter_payloads()} == {"v3"}
    newest = duckdb.execute(f"SELECT image_id, source_version FROM ({NEWEST.format(uri=archive.uri)})").fetchall()
    assert sorted(newest) == [(image_id, "v3") for image_id in archive.metrics()["image_id"].to_pylist()]


def test_duckdb_needs_none_of_our_code(tmp_path: Path) -> None:
    archive = create_or_open(str(tmp_path / "archive"))
    for number, status in enumerate((ENCODED, KEPT_ORIGINAL, REJECTED)):
        for unit in plan(archive, items(70, prefix=f"/{number}"), SPEC):
            commit(archive, unit, [source(item.uri, label=number) for item in unit.items], status)
    query = f"""SELECT status, count(*), count(DISTINCT image_id), sum(source_bytes), sum(payload_bytes), avg(psnr_db)
                FROM '{archive.uri}/metrics/*.parquet' GROUP BY status ORDER BY status"""
    assert duckdb.execute(query).fetchall() == [
        (ENCODED, 70, 70, 70 * 1280, 70 * 640, pytest.approx(42.1)),
        (KEPT_ORIGINAL, 70, 70, 70 * 1280, 70 * 1280, pytest.approx(42.1)),
        (REJECTED, 70, 70, 70 * 1280, None, None),
    ]
    join = f"""SELECT count(*), sum(octet_length(payload)), sum(label) FROM '{archive.uri}/metrics/*.parquet' m
               JOIN read_parquet('{archive.uri}/data/*.parquet', union_by_name = true) d USING (image_id, part)"""
    assert duckdb.execute(join).fetchall() == [(140, 70 * 1920, 70)]


def test_an_empty_archive_reads_as_no_rows(tmp_path: Path) -> None:
    create_or_open(str(tmp_path))
    archive = open_archive(str(tmp_path))
    assert len(archive.metrics()) == 0
    assert list(archive.iter_payloads()) == []


def test_no_ids_are_no_pictures(archive: Archive) -> None:
    assert list(archive.iter_payloads([])) == []

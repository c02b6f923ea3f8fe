"""What an audit finds when one thing at a time is broken."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.archive import Archive, audit, create_or_open, plan
from tests.archive.made import SPEC, commit_files, items, outcome, source


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = create_or_open(str(tmp_path))
    for prefix in ("/a", "/b"):
        [unit] = plan(archive, items(3, prefix=prefix), SPEC)
        commit_files(archive, unit)
    return archive


def the_file(archive: Archive, room: str) -> Path:
    return min((Path(archive.uri) / room).iterdir())


def found(archive: Archive, **how: int) -> list[tuple[str, bool]]:
    return [(finding.kind, finding.harmful) for finding in audit(archive, **how)]


def test_a_sound_archive_has_no_findings(archive: Archive) -> None:
    with archive.run_lock("run", {}):
        pass
    assert found(archive) == []


def test_a_lost_data_part_is_found(archive: Archive) -> None:
    the_file(archive, "data").unlink()
    [finding] = audit(archive, sample=0)
    assert (finding.kind, finding.harmful) == ("missing data", True)
    assert "3 committed images" in finding.detail


def test_a_cut_off_data_part_is_found(archive: Archive) -> None:
    path = the_file(archive, "data")
    path.write_bytes(path.read_bytes()[:-100])
    assert found(archive) == [("damaged data", True)]
    assert found(archive, sample=0) == []


def test_one_flipped_bit_in_a_payload_is_found(archive: Archive) -> None:
    path = the_file(archive, "data")
    payload = pq.read_table(path)["payload"][1].as_py()
    data = bytearray(path.read_bytes())
    data[data.index(payload) + 17] ^= 1
    path.write_bytes(data)
    assert found(archive) == [("damaged data", True)]


def test_rows_that_do_not_match_are_found(archive: Archive) -> None:
    path = the_file(archive, "data")
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array([2, 1, 0])), path)
    assert found(archive) == [("damaged data", True)]


def test_a_damaged_or_renamed_metrics_part_is_found_and_its_data_is_no_litter(archive: Archive) -> None:
    path = the_file(archive, "metrics")
    path.write_bytes(b"PAR1")
    assert found(archive) == [("damaged metrics", True)]
    last = max((Path(archive.uri) / "metrics").iterdir())
    last.replace(path)
    assert ("damaged metrics", True) in found(archive)


def test_missing_and_damaged_weights_are_found(archive: Archive) -> None:
    [unit] = plan(archive, items(1, prefix="/c"), SPEC)
    meta = unit.meta(0, True, SPEC)
    archive.commit(meta.part_id, [outcome(source("/c/0000.jpg"), model_id="0123456789abcdef")], meta, "run")
    assert found(archive) == [("missing weights", True)]
    weights = Path(archive.uri) / "weights"
    weights.mkdir()
    (weights / f"{'0123456789abcdef' * 4}.safetensors").write_bytes(b"other")
    assert found(archive) == [("damaged weights", True)]


def test_litter_and_foreign_files_are_told_apart(archive: Archive) -> None:
    the_file(archive, "metrics").unlink()
    (Path(archive.uri) / "data" / ".tmp-1234").write_bytes(b"x")
    (Path(archive.uri) / "metrics" / "notes.txt").write_text("mine")
    assert sorted(found(archive)) == [("foreign", False), ("litter", False), ("litter", False)]


def test_the_same_work_committed_twice_is_harmful_and_a_retry_is_not(archive: Archive) -> None:
    [again] = plan(archive, items(3, prefix="/a"), SPEC, retry={"encoded"})
    commit_files(archive, again)
    assert set(found(archive)) == {("duplicate rows", False)}
    [other] = plan(create_or_open(archive.uri + "-2"), items(2, prefix="/b"), SPEC)
    commit_files(archive, other)
    assert ("duplicate rows", True) in found(archive)

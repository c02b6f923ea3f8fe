"""Damage of every kind, and what verify says about it: what is lost, what is not, and what to run."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.recompress import main as recompress
from jobs.verify import main as verify
from jobs.verifying import Verification, verify_all
from pipeline.archive import Archive
from tests.data_tools.made import press
from tests.end_to_end.conftest import small_photo


@pytest.fixture
def archive(tmp_path: Path, fill: Callable[..., Path]) -> Archive:
    """Two parts: three photos as WebP, two as they are."""
    press(fill("in", range(3)), tmp_path / "archive", "webp", 80)
    return press(fill("more", range(5, 7)), tmp_path / "archive", "original", None)


def data_part(archive: Archive, codec: str) -> Path:
    [path] = [p for p in Path(archive.uri, "data").iterdir() if pq.read_table(p)["codec"][0].as_py() == codec]
    return path


def flip(path: Path, row: int) -> None:
    payload, data = pq.read_table(path)["payload"][row].as_py(), bytearray(path.read_bytes())
    data[data.index(payload) + len(payload) // 2] ^= 1
    path.write_bytes(data)


def kinds(done: Verification) -> list[str]:
    return sorted(finding.kind for finding in done.harmful)


def lost(done: Verification) -> list[str]:
    return sorted(Path(uri).name for uri in done.lost)


def test_a_sound_archive_has_no_problems(archive: Archive, capsys: pytest.CaptureFixture[str]):
    assert verify(["--archive", archive.uri, "--all"]) == 0
    assert "5 pictures decoded, 5 compared with their sources\nno problems" in capsys.readouterr().out


def test_a_flipped_bit_costs_one_picture_and_its_source_gives_it_back(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = data_part(archive, "webp")
    flip(path, 1)
    assert verify(["--archive", archive.uri, "--all"]) == 1
    shown = capsys.readouterr()
    assert "1 of 5 pictures cannot be restored; the other 4 show no damage" in shown.out
    retry = f"--retry {path.stem}"
    assert f"have their source still, recompress it with {retry}: {tmp_path}/in/0001.jpg" in shown.out
    assert "does not have its SHA-256; restore it from a backup" in shown.err

    press(tmp_path / "in", archive.uri, "webp", 80, retry=(path.stem,))
    done = verify_all(archive.uri, None, False)
    assert (kinds(done), lost(done), done.decoded) == ([], [], 5)


@pytest.mark.parametrize("sample", [None, 100])
def test_a_missing_part_costs_its_pictures(archive: Archive, tmp_path: Path, sample: int | None):
    data_part(archive, "webp").unlink()
    (tmp_path / "in" / "0002.jpg").unlink()
    done = verify_all(archive.uri, sample, False)
    assert (kinds(done), lost(done), done.decoded) == (["missing data"], ["0000.jpg", "0001.jpg", "0002.jpg"], 2)
    assert [Path(uri).name for uri in done.source_there] == ["0000.jpg", "0001.jpg"]


def test_what_has_no_source_any_more_is_said_to_be_lost(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flip(data_part(archive, "original"), 0)
    (tmp_path / "more" / "0005.jpg").unlink()
    assert verify(["--archive", archive.uri]) == 1
    assert (
        f"no source any more and are lost unless a backup has them: {tmp_path}/more/0005.jpg" in capsys.readouterr().out
    )


def test_a_part_cut_short_costs_its_pictures_and_no_others(archive: Archive):
    path = data_part(archive, "original")
    path.write_bytes(path.read_bytes()[:-50])
    done = verify_all(archive.uri, None, False)
    assert (set(kinds(done)), lost(done), done.decoded) == ({"damaged data"}, ["0005.jpg", "0006.jpg"], 3)


def test_a_damaged_metrics_part_hides_its_pictures_and_moving_it_away_brings_them_back(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    part = data_part(archive, "webp").name
    metrics = Path(archive.uri, "metrics", part)
    metrics.write_bytes(metrics.read_bytes()[:100])
    assert verify(["--archive", archive.uri, "--all"]) == 1
    assert "move it out of metrics/ and recompress the source" in capsys.readouterr().err
    metrics.unlink()
    press(tmp_path / "in", archive.uri, "webp", 80)
    assert kinds(verify_all(archive.uri, None, False)) == []
    assert len(archive.metrics()) == 5


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_lost_weights_cost_the_pictures_of_their_model_until_any_run_writes_them_again(tmp_path: Path, fill):
    press(fill("in", range(2)), tmp_path / "archive", "webp")
    archive = press(fill("learned", range(5, 7)), tmp_path / "archive", "cnn")
    [weights] = Path(archive.uri, "weights").iterdir()
    model = weights.stem[:16]
    weights.unlink()
    done = verify_all(archive.uri, None, False)
    assert (kinds(done), lost(done), done.decoded) == (["missing weights"], ["0005.jpg", "0006.jpg"], 2)
    assert "codec.model=<id>" in done.harmful[0].remedy
    fill("learned", range(7, 8))
    arguments = [
        "--source",
        str(tmp_path / "learned"),
        "--archive",
        archive.uri,
        f"codec.model={model}",
        "floor.psnr_db=0",
    ]
    assert recompress(arguments) == 0
    assert kinds(verify_all(archive.uri, None, False)) == []
    weights.write_bytes(b"other")
    assert "damaged weights" in kinds(verify_all(archive.uri, None, False))


def test_a_foreign_file_is_named_and_harms_nobody(archive: Archive, capsys: pytest.CaptureFixture[str]):
    Path(archive.uri, "data", "notes.txt").write_text("mine")
    assert verify(["--archive", archive.uri]) == 0
    assert "foreign: " in capsys.readouterr().out


def rewrite(path: Path, change: Callable[[int, dict], dict]) -> None:
    table = pq.read_table(path)
    rows = [change(number, row) for number, row in enumerate(table.to_pylist())]
    rows = [row | {"payload_sha256": hashlib.sha256(row["payload"]).hexdigest()} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)


def test_a_payload_that_decodes_to_another_picture_is_found(archive: Archive):
    sink = io.BytesIO()
    with Image.open(io.BytesIO(small_photo(9))) as other, Image.open(io.BytesIO(small_photo(0))) as first:
        other.resize(first.size).save(sink, "WEBP")
    rewrite(data_part(archive, "webp"), lambda n, row: row | ({"payload": sink.getvalue()} if n == 0 else {}))
    done = verify_all(archive.uri, None, False)
    assert (kinds(done), lost(done)) == (["damaged payload"], ["0000.jpg"])
    assert "its row says" in done.harmful[0].detail


def test_members_of_shards_are_compared_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "s.tar", "w") as tar:
        for n in range(3):
            for name, data in ((f"{n}.jpg", small_photo(n)), (f"{n}.cls", str(n).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    archive = press(tmp_path / "in", tmp_path / "archive", "webp", 80)
    assert verify(["--archive", archive.uri, "--all"]) == 0
    assert "3 lie in shards (--sources compares them)" in capsys.readouterr().out
    assert verify(["--archive", archive.uri, "--all", "--sources"]) == 0
    assert "3 compared with their sources" in capsys.readouterr().out
    rewrite(data_part(archive, "webp"), lambda n, row: row | ({"cls": "9"} if n == 1 else {}))
    assert verify(["--archive", archive.uri, "--all", "--sources"]) == 1
    assert "s.tar#1.jpg: its column 'cls' is not in the archive" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_spread_over_processes_or_not_the_findings_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from pipeline.execution import spread

    source = tmp_path / "in"
    source.mkdir()
    for n in range(20):  # two at a time, so that there are ten parts
        noise = np.random.default_rng(n).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(source / f"{n:02}.png")
        if n % 2:
            archive = press(source, tmp_path / "archive", "original", None)
    assert len(list(Path(archive.uri, "data").iterdir())) == 10
    flip(sorted(Path(archive.uri, "data").iterdir())[3], 0)
    found = []
    for few in (0, 10**6):
        monkeypatch.setattr(spread, "FEW", few)
        found.append(verify_all(archive.uri, None, False).summary())
    assert found[0] == found[1]
    assert found[0]["decoded"] == 19

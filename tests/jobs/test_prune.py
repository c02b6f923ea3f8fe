"""What may go, what must stay, and what is left of both when the job dies in between."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms

from jobs.prune import main as prune
from jobs.pruning import prune_all
from pipeline import storage
from pipeline.archive import Archive
from pipeline.stages.encode import Floor
from tests.conftest import S3Server
from tests.data_tools.made import press
from tests.end_to_end.conftest import small_photo

HOLDS = Floor(psnr_db=20)


@pytest.fixture(
    params=["local", pytest.param("moto", marks=pytest.mark.s3), pytest.param("versioned", marks=pytest.mark.s3)]
)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, a bucket, and a bucket that keeps old versions."""
    if request.param == "local":
        return str(tmp_path)
    server: S3Server = request.getfixturevalue("moto_server")
    uri = server.bucket(request.param)
    if request.param == "versioned":
        client(server).put_bucket_versioning(Bucket=request.param, VersioningConfiguration={"Status": "Enabled"})
    return f"{uri}/{tmp_path.name}"


def client(server: S3Server) -> object:
    import boto3

    return boto3.client("s3", endpoint_url=server.endpoint)


def fill(folder: str, names: list[str], size: int = 120) -> None:
    for number, name in enumerate(names):
        storage.write_atomic(storage.join(folder, name), small_photo(number, size))


def names(folder: str) -> list[str]:
    return [item.uri.rpartition("/")[2] for item in storage.list_files(folder, missing_ok=True)]


def tar_of(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def kept(archive: Archive, **how: object) -> dict[str, str]:
    done = prune_all(archive.uri, None, False)
    return {uri.rpartition("/")[2]: reason for uri, reason in done.kept.items()}


def test_dry_run_is_the_default_and_yes_deletes_what_was_read_back(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(f"{root}/in", ["a.jpg", "b.jpg", "c.jpg"])
    archive = press(f"{root}/in", f"{root}/archive", floor=HOLDS)
    before = names(root)
    assert prune(["--archive", archive.uri]) == 0
    assert "dry run: 3 of 3 originals" in capsys.readouterr().out
    assert names(root) == before

    assert prune(["--archive", archive.uri, "--yes"]) == 0
    assert "3 of 3 originals" in capsys.readouterr().out
    assert names(f"{root}/in") == []
    assert len(list(archive.iter_payloads())) == 3
    [log] = storage.list_files(f"{archive.uri}/pruned")
    lines = [json.loads(line) for line in storage.read_bytes(log.uri).splitlines()]
    assert sorted(line["uri"].rpartition("/")[2] for line in lines) == ["a.jpg", "b.jpg", "c.jpg"]
    assert all(line["deleted_at"] and line["payload_sha256"] and line["evidence"] for line in lines)

    assert prune(["--archive", archive.uri, "--yes", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["gone"], again["safe"], again["deleted"]) == (3, [], 0)


@pytest.mark.s3
def test_a_versioned_bucket_can_bring_them_back(moto_server: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    bucket, s3 = moto_server.bucket("brought-back"), client(moto_server)
    s3.put_bucket_versioning(Bucket="brought-back", VersioningConfiguration={"Status": "Enabled"})
    fill(f"{bucket}/in", ["a.jpg"])
    data = storage.read_bytes(f"{bucket}/in/a.jpg")
    archive = press(f"{bucket}/in", f"{bucket}/archive", floor=HOLDS)
    assert prune(["--archive", archive.uri, "--yes"]) == 0
    assert "keeps old versions" in capsys.readouterr().out
    assert names(f"{bucket}/in") == []
    [old] = s3.list_object_versions(Bucket="brought-back", Prefix="in/")["Versions"]
    assert s3.get_object(Bucket="brought-back", Key="in/a.jpg", VersionId=old["VersionId"])["Body"].read() == data


def test_what_changed_since_stays(root: str) -> None:
    fill(f"{root}/in", ["a.jpg", "b.jpg"])
    archive = press(f"{root}/in", f"{root}/archive", floor=HOLDS)
    storage.write_atomic(f"{root}/in/a.jpg", small_photo(9))
    done = prune_all(archive.uri, None, True)
    assert (names(f"{root}/in"), done.deleted) == (["a.jpg"], 1)
    [reason] = done.kept.values()
    assert reason.startswith("changed since: the archive has version")


def test_rejected_images_stay(root: str) -> None:
    fill(f"{root}/in", ["a.jpg"])
    storage.write_atomic(f"{root}/in/page.jpg", b"<!doctype html>")
    archive = press(f"{root}/in", f"{root}/archive", floor=HOLDS)
    done = prune_all(archive.uri, None, True)
    assert names(f"{root}/in") == ["page.jpg"]
    assert "was rejected" in next(iter(done.kept.values()))


def spoil_payload(archive: Archive) -> None:
    path = next(Path(archive.uri, "data").iterdir())
    data = bytearray(path.read_bytes())
    payload = pq.read_table(path)["payload"][0].as_py()
    data[data.index(payload) + len(payload) // 2] ^= 4
    path.write_bytes(data)


def lose_part(archive: Archive) -> None:
    next(Path(archive.uri, "data").iterdir()).unlink()


def lose_weights(archive: Archive) -> None:
    next(Path(archive.uri, "weights").iterdir()).unlink()


def damage_metrics(archive: Archive) -> None:
    next(Path(archive.uri, "metrics").iterdir()).write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [(lose_part, "missing data"), (lose_weights, "missing weights"), (damage_metrics, "damaged metrics")],
)
def test_nothing_goes_while_the_archive_is_in_doubt(
    tmp_path: Path, spoil: Callable[[Archive], None], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(f"{tmp_path}/in", ["a.jpg"], 64)
    fill(f"{tmp_path}/other", ["b.jpg"], 64)
    archive = press(tmp_path / "in", tmp_path / "archive", "cnn", floor=HOLDS)
    press(tmp_path / "other", tmp_path / "archive", "webp", floor=HOLDS)
    spoil(archive)
    assert prune(["--archive", archive.uri, "--yes"]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert (names(f"{tmp_path}/in"), names(f"{tmp_path}/other")) == (["a.jpg"], ["b.jpg"])


def test_a_payload_that_cannot_be_read_back_keeps_its_original_and_no_other(tmp_path: Path) -> None:
    fill(f"{tmp_path}/in", ["a.jpg", "b.jpg"])
    archive = press(tmp_path / "in", tmp_path / "archive", floor=HOLDS)
    spoil_payload(archive)
    done = prune_all(archive.uri, None, True)
    assert names(f"{tmp_path}/in") == ["a.jpg"]
    assert "does not have its SHA-256" in next(iter(done.kept.values()))


def rewritten(archive: Archive, change: Callable[[dict], dict]) -> None:
    """The data part with changed rows and hashes that fit: damage that only a comparison can find."""
    path = next(Path(archive.uri, "data").iterdir())
    table = pq.read_table(path)
    rows = [change(row) for row in table.to_pylist()]
    rows = [row | {"payload_sha256": hashlib.sha256(row["payload"]).hexdigest()} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)


def test_a_kept_original_with_other_bytes_keeps_its_source(tmp_path: Path) -> None:
    fill(f"{tmp_path}/in", ["a.jpg"])
    archive = press(tmp_path / "in", tmp_path / "archive", "original", None)
    rewritten(archive, lambda row: row | {"payload": row["payload"] + b"\0"})
    assert kept(archive) == {"a.jpg": "the payload gives back another file than the source is"}


def test_a_payload_of_another_picture_keeps_its_source(tmp_path: Path) -> None:
    fill(f"{tmp_path}/in", ["a.jpg"])
    archive = press(tmp_path / "in", tmp_path / "archive", floor=HOLDS)
    sink = io.BytesIO()
    with Image.open(io.BytesIO(small_photo(5, 120))) as other:
        other.resize(Image.open(tmp_path / "in" / "a.jpg").size).save(sink, "WEBP")
    rewritten(archive, lambda row: row | {"payload": sink.getvalue()})
    assert "its row says" in kept(archive)["a.jpg"]


@pytest.mark.parametrize("column", ["exif", "icc", "xmp", "alpha"])
def test_lost_metadata_or_transparency_keeps_its_source(tmp_path: Path, column: str) -> None:
    (tmp_path / "in").mkdir()
    picture = Image.open(io.BytesIO(small_photo(0, 200))).convert("RGB")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(
        tmp_path / "in" / "a.webp",
        exif=exif,
        icc_profile=icc,
        xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
        lossless=True,
    )
    archive = press(tmp_path / "in", tmp_path / "archive", "webp", 40, floor=HOLDS)
    assert kept(archive) == {}
    rewritten(archive, lambda row: row | {column: None})
    assert ("transparency" if column == "alpha" else column) in kept(archive)["a.webp"]


def test_a_floor_that_is_not_held_keeps_its_source(tmp_path: Path) -> None:
    fill(f"{tmp_path}/in", ["a.jpg"])
    archive = press(tmp_path / "in", tmp_path / "archive", quality=30, floor=HOLDS)
    assert kept(archive) == {}
    manifest = json.loads((tmp_path / "archive" / "archive.json").read_text())
    for spec in manifest["codec_specs"].values():
        spec["floor"] = {"psnr_db": 60, "ms_ssim": None}
    (tmp_path / "archive" / "archive.json").write_text(json.dumps(manifest))
    assert "is below the floor of 60 dB" in kept(archive)["a.jpg"]
    manifest["codec_specs"] = {}
    (tmp_path / "archive" / "archive.json").write_text(json.dumps(manifest))
    assert "does not say under which floor" in kept(archive)["a.jpg"]


def test_a_shard_goes_whole_or_not_at_all(root: str) -> None:
    members = {}
    for n in range(3):
        members |= {f"{n}.jpg": small_photo(n, 100), f"{n}.cls": b"7", f"{n}.txt": f"caption {n}".encode()}
    storage.write_atomic(f"{root}/in/whole.tar", tar_of(members))
    storage.write_atomic(f"{root}/in/damaged.tar", tar_of({**members, "2.jpg": b"no picture"}))
    storage.write_atomic(f"{root}/in/extra.tar", tar_of({**members, "README.md": b"not an image"}))
    archive = press(f"{root}/in", f"{root}/archive", floor=HOLDS)
    done = prune_all(archive.uri, None, True)
    assert names(f"{root}/in") == ["damaged.tar", "extra.tar"]
    assert done.deleted == 1
    reasons = {uri.rpartition("/")[2]: reason for uri, reason in done.kept.items()}
    assert "damaged.tar#2.jpg: was rejected" in reasons["damaged.tar"]
    assert "holds 'readme.md' (1 such), which is in no row" in reasons["extra.tar"]


def test_a_parquet_shard_goes_with_its_labels_and_stays_without(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    images = [{"bytes": small_photo(n, 100), "path": f"{n}.jpg"} for n in range(3)]
    odd = {"label": [1, 2, None], "score": [0.5, float("nan"), 2.0], "tags": [["x"], [], None]}
    pq.write_table(pa.table({"image": images, **odd}), tmp_path / "in" / "rows.parquet")
    archive = press(tmp_path / "in", tmp_path / "archive", floor=HOLDS)
    assert kept(archive) == {}
    rewritten(archive, lambda row: row | {"label": 3})
    assert "its column 'label' is not in the archive" in kept(archive)["rows.parquet"]


def test_a_member_archived_from_an_older_shard_keeps_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shard = tmp_path / "in" / "s.tar"
    shard.write_bytes(tar_of({"a.jpg": small_photo(0, 100)}))
    archive = press(tmp_path / "in", tmp_path / "archive", floor=HOLDS)
    shard.write_bytes(tar_of({"a.jpg": small_photo(0, 100), "b.jpg": small_photo(1, 100)}))
    assert "changed since" in kept(archive)["s.tar"]
    press(tmp_path / "in", tmp_path / "archive", floor=HOLDS)
    assert kept(archive) == {}


def test_where_narrows_it_by_rows(tmp_path: Path) -> None:
    fill(f"{tmp_path}/in", ["a.jpg", "b.jpg"])
    archive = press(tmp_path / "in", tmp_path / "archive", floor=HOLDS)
    assert [Path(uri).name for uri in prune_all(archive.uri, "source_uri like '%a.jpg'", False).safe] == ["a.jpg"]


def test_a_name_that_is_not_utf8_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    odd = bytes(tmp_path / "in") + b"/\xe9.jpg"
    with open(odd, "wb") as file:
        file.write(small_photo(0, 100))
    archive = press(tmp_path / "in", tmp_path / "archive", floor=HOLDS)
    [reason] = prune_all(archive.uri, None, True).kept.values()
    assert "not UTF-8" in reason


class Dies(BaseException):
    """The process is gone: nothing it does after this reaches the store."""


@pytest.mark.parametrize("steps", range(1, 6))
def test_it_can_die_between_any_two_steps_and_go_on(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(f"{tmp_path}/in", [f"{n}.jpg" for n in range(3)], 32)
    archive = press(tmp_path / "in", tmp_path / "archive", "original", None)
    left = steps

    def until_death(call: Callable[..., None]) -> Callable[..., None]:
        def counted(uri: str, *rest: object) -> None:
            nonlocal left
            if "/runs/" not in uri:  # this process lives on, so its lock must be given back
                left -= 1
                if left < 0:
                    raise Dies
            call(uri, *rest)

        return counted

    with monkeypatch.context() as patch, contextlib.suppress(Dies):
        for name in ("remove", "write_atomic"):
            patch.setattr(storage, name, until_death(getattr(storage, name)))
        prune_all(archive.uri, None, True)
    there = {str(path) for path in (tmp_path / "in").iterdir()}
    gone = {f"{tmp_path}/in/{n}.jpg" for n in range(3)} - there
    logged = {json.loads(line)["uri"] for path in (tmp_path / "archive").glob("pruned/*") for line in path.open()}
    assert gone <= logged
    assert len(gone) == min(steps - 1, 3)
    prune_all(archive.uri, None, True)
    assert list((tmp_path / "in").iterdir()) == []

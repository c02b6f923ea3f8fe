"""What a store does wrong is waited out, or ends the work in one clear sentence and a state to go on from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.verifying import verify_all
from pipeline import storage
from pipeline.archive import open_archive
from pipeline.errors import PipelineError, StorageError, StoreUnavailable
from pipeline.storage import s3
from tests import faulty_proxy
from tests.conftest import S3Server
from tests.data_tools.made import press
from tests.end_to_end.conftest import fill as fill
from tests.end_to_end.conftest import small_photo
from tests.faulty_proxy import Proxy

pytestmark = pytest.mark.s3
IMAGES = 6


@pytest.fixture(params=["rclone", "moto"])
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before a real server, and a client that does not wait long."""
    server: S3Server = request.getfixturevalue({"rclone": "s3_server", "moto": "moto_server"}[request.param])
    server.bucket("faults")
    monkeypatch.setattr(s3, "LONG_PAUSES_S", (0.01,) * 8)
    monkeypatch.setattr(s3, "SHORT_PAUSES_S", (0.01,) * 8)
    monkeypatch.setattr(s3, "SETTLE_S", 0.01)
    monkeypatch.setattr(s3, "READ_TIMEOUT_S", 2)
    with faulty_proxy.before(server.endpoint) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        yield found


@pytest.fixture
def place(proxy: Proxy, tmp_path: Path) -> str:
    """A prefix with photos in it."""
    root = f"s3://faults/{tmp_path.name}"
    for n in range(IMAGES):
        storage.write_atomic(f"{root}/in/{n}.jpg", small_photo(n, 40))
    return root


def require_every_image_once(archive_uri: str) -> None:
    rows = open_archive(archive_uri).metrics(newest=False).to_pylist()
    assert sorted(row["source_uri"].rpartition("/")[2] for row in rows) == [f"{n}.jpg" for n in range(IMAGES)]
    assert {row["status"] for row in rows} == {"kept_original"}
    done = verify_all(archive_uri, None, False)
    assert (done.harmful, done.compared) == ([], IMAGES)


@pytest.mark.parametrize("kind", faulty_proxy.TRANSIENT)
def test_what_passes_is_waited_out(proxy: Proxy, place: str, kind: str):
    proxy.at_random((kind,), 0.25, seed=len(kind))
    press(f"{place}/in", f"{place}/archive", "original", None)
    proxy.heal()
    assert proxy.injected[kind] > 3
    require_every_image_once(f"{place}/archive")


@pytest.mark.parametrize("proxy", ["rclone"], indirect=True)  # it is the proxy that hangs
def test_a_server_that_does_not_answer_is_asked_again(proxy: Proxy, place: str):
    proxy.at_random(("hang",), 0.05, seed=1)
    press(f"{place}/in", f"{place}/archive", "original", None)
    assert proxy.injected["hang"] > 0
    proxy.heal()
    require_every_image_once(f"{place}/archive")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("slowdown", "the object store failed"),
        ("drop", "the endpoint cannot be reached|the object store failed"),
        ("expired", "the session token has expired"),
        ("no-bucket", "the bucket does not exist|nothing found|no such object or bucket"),
    ],
)
@pytest.mark.parametrize("after", [2, 16])
def test_an_outage_rejects_no_image_and_the_next_run_goes_on(
    proxy: Proxy, place: str, kind: str, sentence: str, after: int
):
    proxy.after(after, kind)
    with pytest.raises(StoreUnavailable, match=sentence) as told:
        press(f"{place}/in", f"{place}/archive", "original", None)
    assert "\n" not in str(told.value)
    proxy.heal()
    press(f"{place}/in", f"{place}/archive", "original", None)
    require_every_image_once(f"{place}/archive")


def test_refused_access_to_one_image_is_its_row_and_to_the_archive_the_end(proxy: Proxy, place: str):
    proxy.fault = lambda method, path: "denied" if "/in/3.jpg" in path else None
    archive = press(f"{place}/in", f"{place}/archive", "original", None)
    rows = {row["source_uri"].rpartition("/")[2]: row for row in archive.metrics().to_pylist()}
    assert [name for name, row in rows.items() if row["status"] == "rejected"] == ["3.jpg"]
    assert "access denied" in rows["3.jpg"]["reason"]
    proxy.fault = lambda method, path: "denied" if method == "PUT" else None
    with pytest.raises(StorageError, match="access denied"):
        press(f"{place}/in", f"{place}/archive", "original", None, retry=("unreadable",))
    proxy.heal()
    press(f"{place}/in", f"{place}/archive", "original", None, retry=("unreadable",))
    assert archive.metrics()["status"].to_pylist() == ["kept_original"] * IMAGES


def test_a_stale_listing_of_parts_doubles_no_row(proxy: Proxy, place: str):
    press(f"{place}/in", f"{place}/archive", "original", None)
    proxy.fault = lambda method, path: "stale" if "metrics" in path else None
    press(f"{place}/in", f"{place}/archive", "original", None)
    assert proxy.injected["stale"] > 0
    proxy.heal()
    require_every_image_once(f"{place}/archive")


def test_a_stale_listing_of_sources_leaves_the_rest_to_the_next_run(proxy: Proxy, place: str):
    archive = press(f"{place}/in", f"{place}/archive", "original", None)
    for n in range(IMAGES, IMAGES + 2):
        storage.write_atomic(f"{place}/in/{n}.jpg", small_photo(n, 40))
    proxy.fault = lambda method, path: "stale" if "%2Fin%2F" in path or "/in/" in path else None
    press(f"{place}/in", f"{place}/archive", "original", None)
    assert proxy.injected["stale"] > 0
    assert len(archive.metrics(newest=False)) == IMAGES
    proxy.heal()
    press(f"{place}/in", f"{place}/archive", "original", None)
    assert len(archive.metrics(newest=False)) == IMAGES + 2


def test_an_outage_is_no_damage_for_verify(proxy: Proxy, place: str):
    press(f"{place}/in", f"{place}/archive", "original", None)
    for after in (3, 6, 9, 12):
        proxy.after(after, "slowdown")
        with pytest.raises(StoreUnavailable):
            verify_all(f"{place}/archive", None, False)
        proxy.heal()


def test_a_full_disk_is_one_sentence_and_room_lets_it_go_on(tmp_path: Path, fill: Callable[..., Path]):
    small, source = tmp_path / "small", fill("in", range(40))
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", small]).returncode:
        pytest.skip("only root may mount the small file system")
    try:
        with pytest.raises(PipelineError, match="no space left on the device") as told:
            press(source, small / "archive", "original", None)
        assert "\n" not in str(told.value)
        assert list((small / "archive" / "data").glob("*.parquet")) == []
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        archive = press(source, small / "archive", "original", None)
        assert len(archive.metrics(newest=False)) == 40
        assert verify_all(archive.uri, None, False).harmful == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.ray
@pytest.mark.parametrize("proxy", ["rclone"], indirect=True)  # it is the proxy that refuses
def test_a_job_whose_credentials_expire_ends_with_1_and_goes_on_with_fresh_ones(proxy: Proxy, place: str):
    command = [sys.executable, "-m", "jobs", "recompress", "--source", f"{place}/in", "--archive", f"{place}/archive"]
    command += ["codec.name=original", "resources.cpus=2"]
    proxy.fault = lambda method, path: "expired" if "/in/2.jpg" in path else None
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 1
    assert "the session token has expired" in done.stderr
    assert "run the same command again to go on" in done.stderr
    assert done.stderr.count("\n") == 1
    proxy.heal()
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    require_every_image_once(f"{place}/archive")

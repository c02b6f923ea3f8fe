"""The same promises over a folder and over S3; then what is special to each."""

from __future__ import annotations

import io
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.errors import StorageError, StoreUnavailable
from pipeline.storage import s3
from tests import faulty_s3
from tests.conftest import ACCESS_KEY, SECRET_KEY, S3Server
from tests.faulty_s3 import Bucket

ODD_NAMES = ["a b.jpg", "ä#1?.jpg", "50%25.jpg", "x[1].jpg", "plus+&=.jpg", "日本.jpg", "no suffix"]


def names(root: str, pattern: str = "", **how: Any) -> list[str]:
    found = storage.list_files(storage.join(root, pattern) if pattern else root, **how)
    return [item.uri[len(root) + 1 :] for item in found]


def fill(root: str, *files: str) -> None:
    for name in files:
        storage.write_atomic(storage.join(root, name), name.encode())


class TestEverywhere:
    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_what_is_written_is_read_whatever_the_name(self, root: str, name: str) -> None:
        uri = storage.join(root, "deep", "er", name)
        assert not storage.exists(uri)
        assert storage.read_if_exists(uri) is None
        for data in (b"first", b"", bytes(range(256)) * 300):
            storage.write_atomic(uri, data)
            assert storage.read_bytes(uri) == storage.read_if_exists(uri) == data
            assert storage.size_of(uri) == len(data)
        assert names(root) == [f"deep/er/{name}"]
        assert storage.list_files(uri) == storage.list_files(root)
        storage.remove(uri)
        storage.remove(uri)
        assert not storage.exists(uri)

    def test_a_file_is_read_from_anywhere_in_it(self, root: str) -> None:
        data, uri = os.urandom(100_000), storage.join(root, "big")
        storage.write_atomic(uri, data)
        with storage.open_read(uri, buffer_bytes=1000) as file:
            assert file.seekable()
            file.seek(-10, io.SEEK_END)
            assert file.read() == data[-10:]
            file.seek(500)
            assert file.read(3000) == data[500:3500]
            assert file.read(7) == data[3500:3507]
            file.seek(200_000)
            assert file.read() == b""

    def test_only_the_first_creates(self, root: str) -> None:
        uri = storage.join(root, "locks", "lock.json")
        assert storage.put_if_absent(uri, b"first")
        assert not storage.put_if_absent(uri, b"second")
        assert storage.read_bytes(uri) == b"first"
        assert names(root, hidden=True) == ["locks/lock.json"]

    def test_a_listing_is_sorted_recursive_and_without_hidden_files(self, root: str) -> None:
        fill(root, "b.jpg", "a/z.JPG", "a/c.png", ".hidden.jpg", "a/.cache/x.jpg", "a2/n.txt")
        assert names(root) == ["a/c.png", "a/z.JPG", "a2/n.txt", "b.jpg"]
        assert names(root, suffixes={".jpg"}) == ["a/z.JPG", "b.jpg"]
        assert names(root, "a") == names(root, "a/") == ["a/c.png", "a/z.JPG"]
        assert len(names(root, hidden=True)) == 6

    def test_globs_mean_the_same_everywhere(self, root: str) -> None:
        fill(root, "s-1.tar", "s-2.tar", "s-10.tar", "deep/s-3.tar", "deep/er/s-4.tar", "x[1].tar", "x1.tar")
        assert names(root, "s-?.tar") == ["s-1.tar", "s-2.tar"]
        assert names(root, "*.tar") == ["s-1.tar", "s-10.tar", "s-2.tar", "x1.tar", "x[1].tar"]
        assert names(root, "deep/*.tar") == names(root, "d*/*.tar") == ["deep/s-3.tar"]
        assert names(root, "**/s-[34].tar") == ["deep/er/s-4.tar", "deep/s-3.tar"]
        assert names(root, "x[1].tar") == ["x[1].tar"]
        assert names(root, "nothing*") == names(root, "no/such/*.tar") == []

    def test_a_version_changes_with_the_content(self, root: str) -> None:
        uri = storage.join(root, "a")
        versions = []
        for data in (b"one", b"two", b"three"):
            storage.write_atomic(uri, data)
            [item] = storage.list_files(root)
            assert item == storage.list_files(uri)[0]
            versions.append(item.version)
        assert len(set(versions)) == 3
        assert abs(storage.modified_s(uri) - time.time()) < 60

    def test_what_is_missing_is_told_or_passed_over_as_asked(self, root: str) -> None:
        uri = storage.join(root, "nowhere")
        for action in (storage.read_bytes, storage.size_of, storage.open_read, storage.list_files):
            with pytest.raises(StorageError, match=r"nowhere: (no such|nothing found)"):
                action(uri)
        assert storage.list_files(uri, missing_ok=True) == []
        assert storage.is_empty(uri)
        fill(root, "nowhere/.hidden")
        assert storage.is_empty(uri)
        fill(root, "nowhere/file")
        assert not storage.is_empty(uri)

    def test_it_works_in_forked_and_spawned_processes(self, root: str) -> None:
        fill(root, "a")
        for kind in ("fork", "spawn"):
            with multiprocessing.get_context(kind).Pool(1) as pool:
                assert pool.apply(storage.read_bytes, (storage.join(root, "a"),)) == b"a"


class TestLocal:
    def test_file_uris_and_relative_paths_become_absolute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        storage.write_atomic("sub/a b.txt", b"x")
        [item] = storage.list_files("sub")
        assert item.uri == storage.absolute("sub/a b.txt") == str(tmp_path / "sub" / "a b.txt")
        assert storage.read_bytes(f"file://{tmp_path}/sub/a%20b.txt") == b"x"

    def test_a_failed_write_leaves_the_old_file_and_no_litter(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(StorageError, match="a folder stands where a file was expected"):
            storage.write_atomic(str(tmp_path / "folder"), b"x")
        fill(str(tmp_path), "file")
        with pytest.raises(StorageError, match=r"is a file, expected a folder|where a folder was expected"):
            storage.write_atomic(str(tmp_path / "file" / "below"), b"x")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]

    def test_a_reader_sees_the_old_file_or_the_new_one_and_nothing_between(self, tmp_path: Path) -> None:
        uri, versions = str(tmp_path / "file"), (b"a" * 3_000_000, b"b" * 2_000_000)
        storage.write_atomic(uri, versions[0])

        def write() -> None:
            for i in range(30):
                storage.write_atomic(uri, versions[i % 2])

        writer = threading.Thread(target=write)
        writer.start()
        while writer.is_alive():
            assert storage.read_bytes(uri) in versions
        writer.join()

    def test_a_full_disk_is_told_in_plain_words(self) -> None:
        if not os.path.exists("/dev/full"):
            pytest.skip("this system has no /dev/full")
        with pytest.raises(StorageError, match="no space left on the device; free some"):
            storage.local._guarded(lambda: Path("/dev/full").write_bytes(b"x"), "/dev/full")

    def test_links_are_followed_once_and_dangling_ones_are_listed(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x.jpg").write_bytes(b"x")
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
        (tmp_path / "b").symlink_to(tmp_path / "a")
        (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
        os.mkfifo(tmp_path / "pipe.jpg")
        assert names(str(tmp_path)) == ["a/x.jpg", "b/x.jpg", "gone.jpg"]

    def test_other_schemes_are_refused(self) -> None:
        with pytest.raises(StorageError, match="found the scheme gs://, expected a path, file:// or s3://"):
            storage.read_bytes("gs://bucket/key")


@pytest.mark.s3
class TestS3:
    def test_conditional_writes_are_used_where_they_are_honoured(
        self, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3, "SETTLE_S", 60)  # which nobody has to wait here
        bucket = moto_server.bucket("conditional")
        start = time.monotonic()
        for number in range(5):
            assert storage.put_if_absent(f"{bucket}/{number}", b"same")
            assert not storage.put_if_absent(f"{bucket}/{number}", b"same")
        assert storage._S3._session().conditional["conditional"]
        assert time.monotonic() - start < s3.SETTLE_S
        assert names(bucket, hidden=True) == list("01234")

    def test_a_listing_of_more_than_one_page_is_whole(self, moto_server: S3Server) -> None:
        bucket = moto_server.bucket("pages")
        for number in range(12):
            storage.write_atomic(f"{bucket}/{number:02}", b"")
        call, pages = storage._S3._call, list[Any]()

        def small_pages(action: Any, uri: str) -> Any:
            class Small:
                def call_s3(self, method: str, **query: Any) -> Any:
                    pages.append(query)
                    return call(lambda fs: fs.call_s3(method, **query | {"MaxKeys": 5}), uri)

            return action(Small())

        storage._S3.__dict__["_call"] = small_pages
        try:
            found = [entry.uri for entry in storage._S3.walk(bucket)]
        finally:
            del storage._S3.__dict__["_call"]
        assert found == [f"{bucket}/{number:02}" for number in range(12)]
        assert len(pages) == 3

    def test_folder_marks_are_no_files(self, moto_server: S3Server) -> None:
        bucket = moto_server.bucket("marks")
        storage._S3._call(lambda fs: fs.call_s3("put_object", Bucket="marks", Key="photos/", Body=b""), bucket)
        assert storage.list_files(f"{bucket}/photos/", missing_ok=True) == []

    def test_a_missing_bucket_is_told(self, s3_server: S3Server) -> None:
        for action in (storage.list_files, storage.is_empty, lambda uri: storage.write_atomic(uri + "/a", b"")):
            with pytest.raises(StorageError, match=r"s3://no-such-bucket.*: the bucket does not exist"):
                action("s3://no-such-bucket")

    def test_refused_credentials_are_told_and_not_shown(
        self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-" + SECRET_KEY)
        with pytest.raises(StorageError, match=r"refused|denied") as caught:
            storage.list_files("s3://photos")
        assert SECRET_KEY not in str(caught.value)
        assert ACCESS_KEY not in str(caught.value)

    def test_missing_credentials_are_told(
        self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        with pytest.raises(StorageError, match="no credentials found; set AWS_ACCESS_KEY_ID"):
            storage.read_bytes("s3://photos/a")

    def test_an_endpoint_that_nobody_answers_fails_soon(
        self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        start = time.monotonic()
        with pytest.raises(StorageError, match="the endpoint cannot be reached; check AWS_ENDPOINT_URL"):
            storage.read_bytes("s3://photos/a")
        assert time.monotonic() - start < 30

    def test_a_password_in_the_endpoint_is_not_shown(
        self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3, "SHORT_PAUSES_S", ())
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2secret@127.0.0.1:9")
        with pytest.raises(StorageError, match="s3://photos/a: the object store failed") as caught:
            storage.read_bytes("s3://photos/a")
        assert "hunter2secret" not in str(caught.value)


@pytest.fixture
def faulty(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with faulty_s3.serving() as bucket:
        monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
        monkeypatch.setattr(s3, "LONG_PAUSES_S", (0.02,) * 5)
        monkeypatch.setattr(s3, "SHORT_PAUSES_S", (0.02,) * 3)
        bucket.objects["/photos/a"] = b"data"
        yield bucket


@pytest.mark.s3
class TestFaults:
    @pytest.mark.parametrize(
        "fault",
        [(503, "SlowDown"), (503, "SlowDownRead"), (500, "InternalError"), (429, "TooManyRequests"), "drop"],
    )
    def test_passing_faults_are_waited_out(self, faulty: Bucket, fault: tuple[int, str] | str) -> None:
        faulty.faults = [fault, fault]
        assert storage.read_bytes("s3://photos/a") == b"data"
        faulty.faults = [fault]
        storage.write_atomic("s3://photos/b", b"more")
        assert faulty.objects["/photos/b"] == b"more"
        assert faulty.requests == 5

    def test_a_fault_that_stays_ends_in_one_clear_sentence(self, faulty: Bucket) -> None:
        assert storage.exists("s3://photos/a")
        faulty.faults = [(503, "SlowDown")] * 50
        with pytest.raises(StorageError, match=r"s3://photos/a: the object store failed: .*SlowDown"):
            storage.read_bytes("s3://photos/a")
        assert faulty.requests == 1 + 6

    def test_what_will_not_pass_is_not_repeated(self, faulty: Bucket) -> None:
        faulty.faults = [(403, "AccessDenied")]
        with pytest.raises(StorageError, match="access denied"):
            storage.read_bytes("s3://photos/a")
        assert faulty.requests == 1

    @pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "InvalidTokenId", "TokenRefreshRequired"])
    def test_a_token_that_is_good_no_more_says_nothing_about_the_object(self, faulty: Bucket, code: str) -> None:
        faulty.faults = [(400, code)]
        with pytest.raises(StoreUnavailable, match=r"expired.+get fresh"):
            storage.read_bytes("s3://photos/a")
        assert faulty.requests == 1

    def test_a_create_whose_answer_was_lost_still_counts_as_ours(self, faulty: Bucket) -> None:
        assert storage.put_if_absent("s3://photos/first", b"probe the bucket")
        faulty.faults = ["drop"]
        assert storage.put_if_absent("s3://photos/lock", b"token 1")
        faulty.faults = ["drop"]
        assert not storage.put_if_absent("s3://photos/lock", b"token 2")


def test_secrets_are_recognised_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a+b/c=secret")
    text = (
        "PUT https://me:pw@host/x?X-Amz-Signature=abc123&x=1 with a+b/c=secret, 'session_token': 'tok', s3://b/a@b.jpg"
    )
    shown = storage.redact(text)
    for secret in ("me:pw", "abc123", "a+b/c=secret", "'tok'"):
        assert secret not in shown
    assert "s3://b/a@b.jpg" in shown
    assert "x=1" in shown
    tree = {"codec": {"quality": 60}, "aws": {"Secret_Key": "x", "endpoint": "http://u:p@h"}, "list": ["a+b/c=secret"]}
    assert storage.redact_tree(tree) == {
        "codec": {"quality": 60},
        "aws": {"Secret_Key": "***", "endpoint": "http://***@h"},
        "list": ["***"],
    }

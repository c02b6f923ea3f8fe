from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.records import SourceImage
from pipeline.sources.webdataset import WebDatasetSource
from tests.contracts.source import SourceContract, read_all

JPEG = b"\xff\xd8\xff not really"


def tar_of(members: Sequence[tuple[str, bytes]], **options: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:  # type: ignore[call-overload]
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def read(folder: Path, shard: bytes, name: str = "00000.tar", **options: Any) -> list[SourceImage]:
    (folder / name).write_bytes(shard)
    return read_all(WebDatasetSource(str(folder / name), **options))


def members_of(images: Sequence[SourceImage]) -> list[str]:
    return [image.source_uri.partition(".tar")[2].partition("#")[2] for image in images]


class TestWebDataset(SourceContract):
    kind = "webdataset"

    def put(self, root: str, number: int, images: Mapping[str, bytes]) -> list[str]:
        uri = storage.join(root, f"shard-{number:05}.tar")
        storage.write_atomic(uri, tar_of(list(images.items())))
        return [uri]

    def test_siblings_become_columns(self, root: str) -> None:
        label = json.dumps({"größe": 1.50}, ensure_ascii=False) + "\n"
        sample = [("d/1.jpg", JPEG), ("d/1.json", label.encode()), ("d/1.cls", b"7"), ("d/1.npy", b"\x93NUMPY")]
        storage.write_atomic(storage.join(root, "a.tar"), tar_of([*sample, ("d/2.TXT", b"caf\xe9"), ("d/2.PNG", b"p")]))
        first, second = read_all(WebDatasetSource(root))
        assert first.passthrough == {"__key__": "d/1", "json": label, "cls": "7", "npy": b"\x93NUMPY"}
        assert second.passthrough == {"__key__": "d/2", "txt": b"caf\xe9"}

    def test_a_shard_cut_short_gives_what_is_whole_and_says_so(self, root: str) -> None:
        shard = tar_of([("1.jpg", b"1" * 3000), ("2.jpg", b"2" * 3000)])
        uri = storage.join(root, "a.tar")
        storage.write_atomic(uri, shard[:6000])
        whole, damage = read_all(WebDatasetSource(root))
        assert whole.data == b"1" * 3000
        assert (damage.source_uri, damage.data) == (uri, None)
        assert "ends inside '2.jpg': found 1904 of 3000 bytes" in (damage.error or "")


def test_several_images_under_one_key_are_several_images_and_the_first_carries_the_columns(tmp_path: Path) -> None:
    images = read(tmp_path, tar_of([("1.txt", b"cap"), ("1.jpg", b"a"), ("1.seg.png", b"b"), ("1.seg.txt", b"s")]))
    assert members_of(images) == ["1.jpg", "1.seg.png"]
    assert [image.passthrough for image in images] == [{"__key__": "1", "txt": "cap", "seg.txt": "s"}, {"__key__": "1"}]


def test_repeated_names_get_numbers(tmp_path: Path) -> None:
    images = read(tmp_path, tar_of([("1.jpg", b"a"), ("1.jpg", b"b"), ("2.jpg", b"c"), ("1.jpg", b"d")]))
    assert members_of(images) == ["1.jpg", "1.jpg@2", "2.jpg", "1.jpg@3"]
    assert [image.data for image in images] == [b"a", b"b", b"c", b"d"]


def test_repeated_columns_get_numbers(tmp_path: Path) -> None:
    (image,) = read(tmp_path, tar_of([("1.jpg", b"a"), ("1.txt", b"x"), ("1.TXT", b"y")]))
    assert image.passthrough == {"__key__": "1", "txt": "x", "txt@2": "y"}


@pytest.mark.parametrize(
    ("name", "pack"), [("a.tar.gz", gzip.compress), ("a.tgz", gzip.compress), ("a.tar.xz", lzma.compress)]
)
def test_compressed_shards_read_as_plain_ones(tmp_path: Path, name: str, pack) -> None:  # type: ignore[no-untyped-def]
    shard = tar_of([("1.jpg", b"a" * 700), ("1.cls", b"3"), ("2.jpg", b"b")])
    images = read(tmp_path, pack(shard), name)
    assert [image.data for image in images] == [b"a" * 700, b"b"]


def test_a_broken_compressed_shard_is_a_row(tmp_path: Path) -> None:
    images = read(tmp_path, gzip.compress(tar_of([("1.jpg", bytes(range(256)) * 400)]))[:-900], "a.tar.gz")
    assert [image.data for image in images if image.error] == [None]


def test_hostile_names_are_only_names_and_links_are_rows(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("/etc/passwd.jpg", "../../up.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"abc"))
        for number, kind in enumerate([tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]):
            entry = tarfile.TarInfo(f"link{number}.jpg")
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    images = read(tmp_path, buffer.getvalue())
    assert members_of(images)[:2] == ["/etc/passwd.jpg", "../../up.jpg"]
    assert [image.data for image in images] == [b"abc", b"abc", None, None, None, None]
    assert "a symbolic link" in (images[3].error or "")


def test_a_member_over_the_limit_is_a_row_and_the_next_comes_out(tmp_path: Path) -> None:
    images = read(tmp_path, tar_of([("1.jpg", b"x" * 5000), ("2.jpg", b"y")]), member_limit_bytes=4000)
    assert [image.data for image in images] == [None, b"y"]
    assert images[0].error == "too large: 5000 bytes; expected at most 4000; raise source.member_limit_bytes"


def test_an_image_whose_label_cannot_be_kept_is_a_row(tmp_path: Path) -> None:
    (image,) = read(tmp_path, tar_of([("1.jpg", b"x"), ("1.npy", b"y" * 5000)]), member_limit_bytes=4000)
    assert image.data is None
    assert "its sibling '1.npy'" in (image.error or "")


def test_a_sample_of_endless_members_is_a_row(tmp_path: Path) -> None:
    (image,) = read(tmp_path, tar_of([(f"1.part{number}", b"x") for number in range(1200)] + [("1.jpg", b"a")]))
    assert image.data is None
    assert "1000 members in sample '1'" in (image.error or "")


def test_a_header_that_claims_gigabytes_is_not_believed(tmp_path: Path) -> None:
    bomb = tarfile.TarInfo("x")
    bomb.type, bomb.size = tarfile.XHDTYPE, 8 << 30
    shard = tar_of([("1.jpg", b"a")])[:1024] + bomb.tobuf(tarfile.GNU_FORMAT)
    first, damage = read(tmp_path, shard)
    assert first.data == b"a"
    assert "an extended header claims 8589934592 bytes" in (damage.error or "")


@pytest.mark.parametrize("record", [b"20 comment=x", b"xx path=y\n", b"0 path=y\n", b"-5 a=b\n", b"9 path=y\nnolength"])
def test_a_broken_extended_header_is_a_row(tmp_path: Path, record: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    shard = tar_of([("1.jpg", b"a")])[:1024] + header.tobuf(tarfile.GNU_FORMAT) + record.ljust(512, b"\0")
    first, damage = read(tmp_path, shard + tar_of([("2.jpg", b"b")]))
    assert first.data == b"a"
    assert "a record without a valid length" in (damage.error or "")


def test_a_sparse_member_is_a_row_and_the_next_comes_out(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("1.jpg").tobuf(tarfile.GNU_FORMAT))
    header[156:157], header[124:136] = b"S", b"00000001000\0"
    header[482], header[483:495] = 1, b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    shard = bytes(header) + bytes(512) + bytes(512) + tar_of([("2.jpg", b"b")])
    sparse, plain = read(tmp_path, shard)
    assert "a sparse file" in (sparse.error or "")
    assert plain.data == b"b"


def test_concatenated_tars_are_read_to_the_end(tmp_path: Path) -> None:
    images = read(tmp_path, tar_of([("1.jpg", b"a")]) + tar_of([("2.jpg", b"b")]))
    assert [image.data for image in images] == [b"a", b"b"]


@pytest.mark.parametrize(
    "shard", [b"", b"<html>" * 200, tar_of([("1.jpg", b"a")])[:1024]], ids=["empty", "html", "no end"]
)
def test_damage_is_never_silent(tmp_path: Path, shard: bytes) -> None:
    images = read(tmp_path, shard)
    assert [image.source_uri for image in images if image.error] == [str(tmp_path / "00000.tar")]


def test_an_image_without_a_telling_name_is_found_by_its_first_bytes(tmp_path: Path) -> None:
    images = read(tmp_path, tar_of([("n0001", JPEG), ("n0001.cls", b"3"), ("n0002.blob", JPEG)]))
    assert [image.data for image in images] == [JPEG, JPEG]
    assert images[0].passthrough == {"__key__": "n0001", "cls": "3"}


def test_a_sample_without_image_is_a_row_but_a_readme_is_none(tmp_path: Path) -> None:
    images = read(tmp_path, tar_of([("README.md", b"hi"), ("1.mp4", b"film"), ("1.json", b"{}"), ("2.jpg", b"b")]))
    assert members_of(images) == ["1.mp4", "2.jpg"]
    assert "no image next to the member(s) of type 'json, mp4'" in (images[0].error or "")


@pytest.mark.parametrize("order", [["1.jpg", "2.jpg", "1.cls", "2.cls"], ["1.cls", "2.cls", "1.jpg", "2.jpg"]])
def test_labels_apart_from_their_images_are_not_lost_silently(tmp_path: Path, order: list[str]) -> None:
    images = read(tmp_path, tar_of([(name, b"1") for name in order]))
    assert sum(image.error is not None for image in images) == 2


def test_hidden_and_meta_members_are_passed_over(tmp_path: Path) -> None:
    names = [".DS_Store", "._1.jpg", ".git/x.jpg", "__MACOSX__/1.jpg", "__index__.json", "./1.jpg"]
    assert members_of(read(tmp_path, tar_of([(name, b"x") for name in names]))) == ["./1.jpg"]


def test_long_and_foreign_names_come_through(tmp_path: Path) -> None:
    names = ["d" * 200 + "/é日本 #%.jpg", "caf\udce9.jpg"]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        images = read(tmp_path, tar_of([(name, b"x") for name in names], format=form))
        assert members_of(images) == [names[0], "caf\\xe9.jpg"]


def test_one_key_over_the_whole_shard_is_read_in_bounded_memory(tmp_path: Path) -> None:
    frames = [(f"scene.{number:05}.png", b"p%d" % number) for number in range(2500)]
    images = read(tmp_path, tar_of([*frames, ("scene.json", b"{}")]))
    assert [image.data for image in images] == [data for _, data in frames]
    assert sum("json" in image.passthrough for image in images) == 1


_NAMES = st.sampled_from(["a", "b", "d/c", "ä", "x.y"])
_EXTENSIONS = st.sampled_from(["jpg", "PNG", "seg.png", "json", "txt", "cls", "npy", "jpeg", ""])
_MEMBERS = st.lists(st.tuples(_NAMES, _EXTENSIONS, st.binary(max_size=1500)), max_size=12)
_FORMATS = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def _named_as_images(images: Sequence[SourceImage]) -> list[SourceImage]:
    return [i for i in images if i.source_uri.partition("@")[0].lower().endswith((".jpg", ".png", ".jpeg"))]


@settings(max_examples=100, deadline=None)
@given(members=_MEMBERS, cut=st.floats(0, 1), form=_FORMATS)
def test_any_layout_cut_anywhere_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, str, bytes]], cut: float, form: int
) -> None:
    named = [(f"{name}.{extension}" if extension else name, data) for name, extension, data in members]
    folder, shard = tmp_path_factory.mktemp("layout"), tar_of(named, format=form)
    with tarfile.open(fileobj=io.BytesIO(shard)) as tar:
        ends = {entry.offset_data + entry.size: entry.name for entry in tar}
    expected = [data for name, data in named if name.lower().endswith((".jpg", ".png", ".jpeg"))]
    cut_at = int(len(shard) * cut)

    for length in (len(shard), cut_at):
        images = read(folder, shard[:length])
        assert len({image.image_id for image in images}) == len(images)
        assert images == read_all(WebDatasetSource(str(folder / "00000.tar")))
        found = _named_as_images(images)
        whole = sum(end <= length and name.lower().endswith((".jpg", ".png", ".jpeg")) for end, name in ends.items())
        assert len(found) == whole
        assert all(image.error or image.data == data for image, data in zip(found, expected, strict=False))
        if length < max(ends, default=1):
            assert images[-1].error

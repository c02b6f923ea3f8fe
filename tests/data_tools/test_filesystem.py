"""An archive as an fsspec file system."""

from __future__ import annotations

import io
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.dataset as pads
import pytest
from PIL import Image

from pipeline.archive import open_archive
from pipeline.filesystem import ArchiveFileSystem, names_of
from tests.data_tools import made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Four pictures: JPEG, PNG, GIF, and a JPEG with alpha's cousin, an RGBA WebP."""
    folder = tmp_path_factory.mktemp("mixed") / "source"
    folder.mkdir()
    image = Image.open(photos[0]).convert("RGB").resize((160, 120))
    image.info = {}  # its orientation among them
    image.save(folder / "a.jpg", quality=95)
    image.save(folder / "b.png")
    image.quantize(64).save(folder / "c.gif")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(folder / "d.webp", lossless=True, exact=True)
    return folder


@pytest.fixture(scope="module")
def archive(source: Path) -> str:
    return made.press(source, source.parent / "archive", "cnn", 60).uri


@pytest.fixture(scope="module")
def names(archive: str) -> dict[str, str]:
    """Source file name -> image_id."""
    table = open_archive(archive).metrics(["source_uri", "image_id"]).to_pylist()
    return {row["source_uri"].rpartition("/")[2]: row["image_id"] for row in table}


@pytest.fixture
def fs(archive: str) -> ArchiveFileSystem:
    return ArchiveFileSystem(archive=archive, device="cpu", skip_instance_cache=True)


def test_files_have_the_suffix_of_their_source_and_open_as_that(fs: ArchiveFileSystem, names: dict[str, str]) -> None:
    listed = sorted(fs.ls("", detail=False))
    lossy_gif_is_png = {"a.jpg": ".jpg", "b.png": ".png", "c.gif": ".gif", "d.webp": ".webp"}
    table = {row["image_id"]: row for row in open_archive(str(fs._archive)).metrics().to_pylist()}
    if table[names["c.gif"]]["codec"] != "original":
        lossy_gif_is_png["c.gif"] = ".png"
    assert listed == sorted(names[name] + suffix for name, suffix in lossy_gif_is_png.items())
    formats = {path[32:]: Image.open(fs.open(path)).format for path in listed}
    assert formats[".jpg"] == "JPEG"
    assert formats[".png"] == "PNG"
    assert formats[".webp"] == "WEBP"


@pytest.mark.parametrize(("suffix", "found"), [("", "JPEG"), (".jpg", "JPEG"), (".png", "PNG"), (".webp", "WEBP")])
def test_the_suffix_asks_for_a_format(fs: ArchiveFileSystem, names: dict[str, str], suffix: str, found: str) -> None:
    image = Image.open(io.BytesIO(fs.cat(names["a.jpg"] + suffix)))
    assert (image.format, image.size) == (found, (160, 120))


def test_a_whole_url_opens_without_further_arguments(archive: str, names: dict[str, str], source: Path) -> None:
    with fsspec.open(f"shardpress://{archive}/{names['a.jpg']}.png", "rb") as file:
        there = np.asarray(Image.open(file), np.float64)
    assert np.abs(there - np.asarray(Image.open(source / "a.jpg"), np.float64)).mean() < 6


def test_alpha_comes_back(fs: ArchiveFileSystem, names: dict[str, str], source: Path) -> None:
    image = Image.open(fs.open(names["d.webp"]))
    assert image.getchannel("A").tobytes() == Image.open(source / "d.webp").getchannel("A").tobytes()


def test_info_has_the_size_that_reading_gives_and_ranges_work(fs: ArchiveFileSystem, names: dict[str, str]) -> None:
    path = names["a.jpg"]
    data = fs.cat_file(path)
    assert fs.info(path)["size"] == fs.size(path) == len(data)
    assert fs.cat_file(path, 10, 20) == data[10:20]
    assert fs.cat_file(path, -5, None) == data[-5:]
    assert (fs.exists(path), fs.isfile(path), fs.isdir(path), fs.isdir("")) == (True, True, False, True)


def test_files_download_and_walk(fs: ArchiveFileSystem, names: dict[str, str], tmp_path: Path, archive: str) -> None:
    fs.get_file(names["b.png"] + ".png", str(tmp_path / "b.png"))
    assert Image.open(tmp_path / "b.png").size == (160, 120)
    assert len(fs.find(archive)) == 4
    assert fs.glob(f"{archive}/*.jpg") == [f"{archive}/{names['a.jpg']}.jpg"]


def test_sources_lead_to_their_files(fs: ArchiveFileSystem, source: Path, names: dict[str, str]) -> None:
    assert names_of(fs, [f"{source}/a.jpg", "elsewhere"]) == {f"{source}/a.jpg": names["a.jpg"] + ".jpg"}


def test_what_is_not_there_is_told_as_files_are(fs: ArchiveFileSystem, names: dict[str, str], archive: str) -> None:
    with pytest.raises(FileNotFoundError, match="no picture"):
        fs.cat_file("0" * 32)
    for name in (f"{archive}/holiday.jpg", f"{archive}/a/b"):
        with pytest.raises(FileNotFoundError, match="found no image_id"):
            fs.open(name)
    with pytest.raises(IsADirectoryError, match="one of its pictures"):
        fs.open(archive)
    with pytest.raises(FileNotFoundError, match="suffix"):
        fs.cat_file(names["a.jpg"] + ".exe")
    with pytest.raises(FileNotFoundError, match=r"archive\.json"):
        fs.ls(f"{archive}/data")
    with pytest.raises(FileNotFoundError, match="no archive in the path"):
        ArchiveFileSystem(skip_instance_cache=True).ls("")
    assert not fs.exists(f"{archive}/../../etc/passwd")
    assert not fs.exists("nothing-here")


def test_it_is_read_only(fs: ArchiveFileSystem, names: dict[str, str]) -> None:
    for attempt in (
        lambda: fs.open(names["a.jpg"], "wb"),
        lambda: fs.rm_file(names["a.jpg"]),
        lambda: fs.pipe_file("a", b""),
        lambda: fs.mkdir("a"),
    ):
        with pytest.raises(PermissionError, match="read-only"):
            attempt()


def test_a_byte_exact_payload_gives_the_source_file(source: Path, tmp_path: Path) -> None:
    archive = made.press(source / "a.jpg", tmp_path / "exact", "jxl-lossless", None).uri
    fs = ArchiveFileSystem(archive=archive, skip_instance_cache=True)
    [path] = fs.ls("", detail=False)
    assert fs.cat_file(path) == (source / "a.jpg").read_bytes()


@pytest.mark.s3
def test_an_archive_in_a_bucket(source: Path, root: str) -> None:
    archive = made.press(source / "a.jpg", f"{root}/archive", "webp", 60).uri
    fs = ArchiveFileSystem(skip_instance_cache=True)
    [path] = fs.ls(f"shardpress://{archive}", detail=False)
    with fsspec.open(f"shardpress://{path}", "rb") as file:
        assert Image.open(file).format == "JPEG"


def test_metrics_stay_plain_tables_beside_it(archive: str) -> None:
    assert pads.dataset(f"{archive}/metrics").count_rows() == 4

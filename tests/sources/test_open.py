from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError, SourceError
from pipeline.sources import open_source


def write(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).write_bytes(b"x")
    return str(folder)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a.jpg", "b.unknown", "labels.csv"], "files"),
        (["a.tar", "b.TAR.GZ", "index.json"], "webdataset"),
        (["00000.tar", "00000.parquet", "00000_stats.json"], "webdataset"),
        (["a.parquet", "README.md"], "parquet"),
    ],
)
def test_auto_goes_by_what_lies_there(tmp_path: Path, names: list[str], kind: str) -> None:
    assert open_source(write(tmp_path, *names)).kind == kind


@pytest.mark.parametrize(
    ("uri", "kind"),
    [("s3://b/x-*.tar", "webdataset"), ("s3://b/table.parquet", "parquet"), ("/no/where/*.JPG", "files")],
)
def test_auto_goes_by_the_uri_where_it_says_enough(uri: str, kind: str) -> None:
    assert open_source(uri).kind == kind


def test_auto_refuses_a_mix_and_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"several kinds .*files \(.*a.jpg\), webdataset \(.*b.tar\); .*source.kind"):
        open_source(write(tmp_path, "a.jpg", "b.tar"))


def test_an_unknown_kind_or_option_is_named_with_its_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found 'parket'; expected one of .*; did you mean 'parquet'"):
        open_source(str(tmp_path), "parket")
    with pytest.raises(ConfigError, match=r"source.image_col: .* kind 'parquet' .*; did you mean 'image_column'"):
        open_source(str(tmp_path), "parquet", image_col="jpg")


def test_auto_lists_once_and_then_afresh(tmp_path: Path) -> None:
    source = open_source(write(tmp_path, "a.jpg"))
    write(tmp_path, "b.jpg")
    assert [len(source.list_items()) for _ in range(2)] == [1, 2]


def test_braces_are_named_as_the_trouble(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"found nothing at all; expected tar shards .* write \*"):
        open_source(f"{tmp_path}/x-{{000..009}}.tar").list_items()

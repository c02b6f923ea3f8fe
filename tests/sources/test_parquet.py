from __future__ import annotations

import datetime
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import SourceError
from pipeline.records import SourceImage
from pipeline.sources.parquet import ParquetSource
from tests.contracts.source import SourceContract, read_all


def parquet_of(columns: Mapping[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer, **options)
    return buffer.getvalue()


def hugging_face(images: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [{"bytes": data, "path": name} for name, data in images.items()]


def read(folder: Path, columns: Mapping[str, Any], **options: Any) -> list[SourceImage]:
    (folder / "a.parquet").write_bytes(parquet_of(columns))
    return read_all(ParquetSource(str(folder / "a.parquet"), **options))


def rows_of(images: list[SourceImage]) -> list[str]:
    return [image.source_uri.partition("#")[2] for image in images]


class TestParquet(SourceContract):
    kind = "parquet"

    def put(self, root: str, number: int, images: Mapping[str, bytes]) -> list[str]:
        uri = storage.join(root, f"train-{number:05}.parquet")
        storage.write_atomic(uri, parquet_of({"image": list(images.values()), "label": [number] * len(images)}))
        return [uri]

    def test_other_columns_pass_through(self, root: str) -> None:
        when = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC)
        columns = {
            "jpg": [b"a", b"b"],
            "label": [3, None],
            "box": [[0.5, 1.0], []],
            "when": [when, when],
            "raw": [1, 2],
        }
        storage.write_atomic(storage.join(root, "a.parquet"), parquet_of(columns))
        first, second = read_all(ParquetSource(root))
        assert first.passthrough == {"label": 3, "box": [0.5, 1.0], "when": when, "raw": 1}
        assert second.passthrough == {"label": None, "box": [], "when": when, "raw": 2}


class TestHuggingFace(TestParquet):
    def put(self, root: str, number: int, images: Mapping[str, bytes]) -> list[str]:
        uri = storage.join(root, f"train-{number:05}.parquet")
        storage.write_atomic(uri, parquet_of({"image": hugging_face(images), "label": [number] * len(images)}))
        return [uri]


def test_rows_are_named_by_path_then_by_number(tmp_path: Path) -> None:
    cells = [{"bytes": b"a", "path": "x.jpg"}, {"bytes": b"b", "path": None}, {"bytes": b"c", "path": "x.jpg"}]
    images = read(tmp_path, {"image": cells})
    assert rows_of(images) == ["x.jpg", "row=1", "x.jpg@2"]
    assert [image.passthrough for image in images] == [
        {"image.path": "x.jpg"},
        {"image.path": None},
        {"image.path": "x.jpg"},
    ]


def test_rows_are_named_by_the_id_column(tmp_path: Path) -> None:
    columns = {"image": [b"a", b"b", b"c"], "uid": [0, 7, 7]}
    assert rows_of(read(tmp_path, columns, id_column="uid")) == ["0", "7", "7@2"]
    assert rows_of(read(tmp_path, columns)) == ["row=0", "row=1", "row=2"]


def test_row_numbers_run_on_over_batches_and_row_groups(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet_of({"image": [b"%d" % n for n in range(25)]}, row_group_size=10))
    images = read_all(ParquetSource(str(tmp_path), batch_rows=4))
    assert rows_of(images) == [f"row={n}" for n in range(25)]
    assert [image.data for image in images] == [b"%d" % n for n in range(25)]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_every_kind_of_bytes_is_an_image(tmp_path: Path, kind: pa.DataType) -> None:
    (image,) = read(tmp_path, {"anything": pa.array([b"abc"], kind)})
    assert image.data == b"abc"


def test_a_null_image_or_a_bare_path_is_a_row(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([None, {"bytes": None, "path": "x.jpg"}, {"bytes": b"c", "path": None}], kind)
    null, bare, whole = read(tmp_path, {"image": cells, "label": [1, 2, 3]})
    assert null.error == "damaged: row 0 holds null; expected the bytes of an image"
    assert "only the path 'x.jpg'" in (bare.error or "")
    assert (whole.data, bare.passthrough["label"]) == (b"c", 2)


def test_the_image_column_is_found_by_type_then_by_name(tmp_path: Path) -> None:
    cells = hugging_face({"x.jpg": b"a"})
    assert read(tmp_path, {"embedding": [b"e"], "Image": [b"i"]})[0].data == b"i"
    assert read(tmp_path, {"mask": cells, "image": hugging_face({"y": b"i"})})[0].passthrough["mask"] == cells[0]
    assert read(tmp_path, {"thumb": cells, "image": [b"raw"]})[0].data == b"a"


def test_an_ambiguous_table_is_an_error_that_lists_the_columns(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"found 2 columns that .*image_column to one of: left \(binary\), right \(binary\)"
    ):
        read(tmp_path, {"left": [b"a"], "right": [b"b"]})
    assert read(tmp_path, {"left": [b"a"], "right": [b"b"]}, image_column="right")[0].passthrough == {"left": b"a"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "photo"}, "found 0 columns named 'photo'; set source.image_column to one of: image"),
        ({"id_column": "key"}, "found 0 columns named 'key'; set source.id_column to one of: image"),
        ({"image_column": "label"}, "column 'label' is int64; expected binary or a struct"),
    ],
)
def test_a_wrong_option_is_an_error_before_anything_is_read(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        read(tmp_path, {"image": [b"a"], "label": [1]}, **options)


def test_a_later_file_with_another_schema_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "b.parquet").write_bytes(parquet_of({"label": [1]}))
    images = [*read(tmp_path, {"image": [b"a"]}), *read_all(ParquetSource(str(tmp_path)))]
    assert [image.data for image in images] == [b"a", b"a", None]
    assert "found 0 columns that could hold images" in (images[-1].error or "")


@pytest.mark.parametrize("data", [b"", b"<html>", parquet_of({"image": [b"a"]})[:-20]], ids=["empty", "html", "cut"])
def test_a_file_that_is_no_parquet_is_a_row(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    (image,) = read_all(ParquetSource(str(tmp_path)))
    assert (image.data, image.source_uri) == (None, str(tmp_path / "a.parquet"))
    assert (image.error or "").startswith("damaged: ")


def test_a_damaged_row_group_costs_its_rows_and_no_others(tmp_path: Path) -> None:
    cells = [bytes([n]) * 400 for n in range(12)]
    data = bytearray(parquet_of({"image": cells}, row_group_size=4, compression="NONE", use_dictionary=False))
    page = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(0).data_page_offset
    data[page : page + 16] = b"\xff" * 16
    (tmp_path / "a.parquet").write_bytes(data)
    images = read_all(ParquetSource(str(tmp_path)))
    assert rows_of(images) == ["row=0", "row=1", "row=2", "row=3", "row_group=1", "row=8", "row=9", "row=10", "row=11"]
    assert "rows 4 to 7 (row group 1) cannot be read" in (images[4].error or "")


def test_values_that_python_cannot_hold_stay_arrow_scalars(tmp_path: Path) -> None:
    times = pa.array([123_456_789], pa.time64("ns"))
    (image,) = read(tmp_path, {"image": [b"a"], "t": times, "stamp": pa.array([1_234_567_891], pa.timestamp("ns"))})
    assert pa.array([image.passthrough["t"]]) == times
    assert image.passthrough["stamp"].value == 1_234_567_891


def test_an_image_over_the_limit_is_a_row(tmp_path: Path) -> None:
    big, small = read(tmp_path, {"image": [b"x" * 5000, b"y"]}, member_limit_bytes=4000)
    assert "expected at most 4000 bytes" in (big.error or "")
    assert small.data == b"y"

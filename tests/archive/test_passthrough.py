"""Columns that come along: untouched, under their own names, readable across parts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.archive import create_or_open, passthrough, plan
from pipeline.records import image_id_of
from tests.archive.made import SPEC, commit, items, source


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, 3], pa.int64()),
        ([0.5], pa.float64()),
        (["a", "ü"], pa.string()),
        ([b"\xff", None], pa.binary()),
        ([[1, 2], []], pa.list_(pa.int64())),
        ([{"a": 1}, None], pa.struct({"a": pa.int64()})),
        ([True], pa.bool_()),
        ([datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC")),
        ([pa.scalar(3, pa.int8()), None], pa.int8()),
        ([pa.scalar([1.0], pa.list_(pa.float32()))], pa.list_(pa.float32())),
        ([np.float32(0.5)], pa.float32()),
        ([None, None], pa.null()),
    ],
)
def test_values_keep_type_and_value(values: list[Any], kind: pa.DataType) -> None:
    array = passthrough.to_array(values)
    assert array.type == kind
    plain = [value.as_py() if isinstance(value, pa.Scalar) else value for value in values]
    assert array.to_pylist() == plain


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1, "a", None, b"b"], ["1", "a", None, '"Yg=="']),
        ([{}, {}], ["{}", "{}"]),
        ([[{}]], ["[{}]"]),
        ([2**70], [str(2**70)]),
        (["caf\udce9"], [r"caf\udce9"]),
        ([{"a": 1}, {"a": "x"}], ['{"a": 1}', '{"a": "x"}']),
        ([[1], "a", np.zeros(2)], ["[1]", "a", "[0.0, 0.0]"]),
    ],
)
def test_what_no_one_type_can_hold_becomes_text(values: list[Any], texts: list[str | None]) -> None:
    assert passthrough.to_array(values).to_pylist() == texts


def test_every_array_can_be_written_to_parquet(tmp_path: Path) -> None:
    values: list[list[Any]] = [[None], [{}], [{"a": {}}], [[[]]], [{"a": None}], [[None]]]
    for number, each in enumerate(values):
        pq.write_table(pa.table({"x": passthrough.to_array(each)}), tmp_path / f"{number}.parquet")


def test_a_name_of_ours_gets_a_prefix_in_any_case() -> None:
    names = ["Width", "label", "payload", "source_payload", "Label", "", "caf\udce9"]
    assert passthrough.stored_names(names, ["width", "payload"]) == {
        "Width": "source_Width",
        "label": "label",
        "payload": "source_payload",
        "source_payload": "source_source_payload",
        "Label": "source_Label",
        "": "source_",
        "caf\udce9": r"caf\udce9",
    }


def test_parts_with_other_types_or_columns_are_read_together(tmp_path: Path) -> None:
    archive = create_or_open(str(tmp_path))
    mixed: list[dict[str, Any]] = [
        {"label": 3, "meta": {"a": 1}, "only_here": b"x", "none": None},
        {"label": "cat", "meta": {"a": 1, "b": "two"}, "none": "now some"},
        {"label": 0.5, "meta": {"b": "three"}, "none": None, "width": 7},
    ]
    for number, extra in enumerate(mixed):
        [unit] = plan(archive, items(1, prefix=f"/{number}"), SPEC)
        commit(archive, unit, [source(unit.items[0].uri, **extra)])
    together = f"FROM read_parquet('{tmp_path}/data/*.parquet', union_by_name = true)"
    found = duckdb.execute(f"SELECT label, only_here, source_width {together}").fetchall()
    rows = {str(row[0]): row[1:] for row in found}
    assert rows == {"3": (b"x", None), "cat": (None, None), "0.5": (None, 7)}
    assert len(duckdb.execute(f"SELECT * {together}").fetchall()) == 3
    for number, extra in enumerate(mixed):
        stored = archive.payload(image_id_of(f"/{number}/0000.jpg")).passthrough
        assert stored == {("source_width" if name == "width" else name): value for name, value in extra.items()}

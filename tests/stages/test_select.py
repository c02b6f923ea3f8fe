from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.stages.select import where

TABLE = pa.table(
    {
        "psnr_db": [31.5, 33.0, None],
        "codec": ["cnn", "it's", "webp"],
        "width": [10, 20, 30],
        "at": pa.array([0, 86_400_000, None], pa.timestamp("ms", "UTC")),
    }
)


@pytest.mark.parametrize(
    ("text", "widths"),
    [
        ("width = 10", [10]),
        ("psnr_db < 33 and codec = 'cnn'", [10]),
        ('psnr_db<33 OR codec=="webp"', [10, 30]),
        ("not (width >= 20)", [10]),
        ("codec in ('cnn', 'webp')", [10, 30]),
        ("codec not in ('cnn')", [20, 30]),
        ("codec like '%b%'", [30]),
        ("codec = 'it''s'", [20]),
        ("psnr_db is null", [30]),
        ("psnr_db is not null and width <> 10", [20]),
        ("at >= '1970-01-02'", [20]),
        ("psnr_db > -1e3", [10, 20]),
    ],
)
def test_expressions_select_rows(text, widths):
    assert TABLE.filter(where(text, TABLE.schema))["width"].to_pylist() == widths


@pytest.mark.parametrize(
    "text",
    [
        "",
        "width",
        "width =",
        "width = 'x'",
        "wdth = 1",
        "(width = 1",
        "width = 1 2",
        "width ; 1",
        "width = import",
        "1=1",
    ],
)
def test_what_is_not_understood_is_named(text):
    with pytest.raises(ConfigError, match="--where"):
        where(text, TABLE.schema)

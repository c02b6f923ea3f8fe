"""`pipeline.read_archive`: archives as Ray datasets."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import pipeline
from pipeline.data import ArchiveDataset
from pipeline.errors import ArchiveError, ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("small_ray")]


def test_every_picture_comes_with_its_label_and_its_pixels(classical: str) -> None:
    rows = pipeline.read_archive(classical, columns=["label", "psnr_db"]).take_all()
    direct = ArchiveDataset(classical, columns=["label"], layout="numpy")
    expected = {sample["image_id"]: sample for sample in (direct[at] for at in range(len(direct)))}
    assert {row["image_id"] for row in rows} == expected.keys()
    for row in rows:
        assert set(row) == {"image_id", "label", "psnr_db", "image"}
        assert row["label"] == expected[row["image_id"]]["label"]
        assert np.array_equal(row["image"], expected[row["image_id"]]["image"])


def test_payloads_without_decoding_and_rows_by_where(classical: str) -> None:
    dataset = pipeline.read_archive(classical, ["payload", "codec"], decode=False, where="source_uri like '%shard-3%'")
    rows = dataset.take_all()
    assert len(rows) == 16
    assert all(row["payload"][:4] == b"RIFF" for row in rows if row["codec"] == "webp")
    assert pipeline.read_archive(classical, ["label"], where="width > 9999").count() == 0


def test_all_of_the_metrics_table_by_default(classical: str) -> None:
    row = pipeline.read_archive(classical, decode=False).take(1)[0]
    assert {"image_id", "source_uri", "psnr_db", "status", "committed_at"} <= row.keys()


def test_batches_for_torch(classical: str) -> None:
    def crop(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"image": np.stack([image[:32, :32] for image in batch["image"]]), "label": batch["label"]}

    dataset = pipeline.read_archive(classical, ["label"]).map_batches(crop)
    batch = next(iter(dataset.iter_torch_batches(batch_size=8)))
    assert tuple(batch["image"].shape) == (8, 32, 32, 3)
    assert set(batch["label"].tolist()) == {0, 1}


def test_the_learned_codec_decodes_in_the_tasks(learned: str) -> None:
    rows = pipeline.read_archive(learned, where="source_uri like '%shard-1%=1_'").take_all()
    assert [row["image"].shape for row in rows] == [(64, 64, 3)] * 6


def test_wrong_asks_are_told(classical: str) -> None:
    with pytest.raises(ConfigError, match="decode=True"):
        pipeline.read_archive(classical, ["image"])
    with pytest.raises(ArchiveError, match=r"archive\.json"):
        pipeline.read_archive(classical + "/data")


def test_importing_pipeline_brings_neither_ray_nor_torch() -> None:
    script = "import sys, pipeline; assert not {'ray', 'torch'} & set(sys.modules); assert pipeline.read_archive"
    subprocess.run([sys.executable, "-c", script], check=True)

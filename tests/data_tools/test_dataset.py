"""Archives as torch datasets: samples, sharding, workers, and a classifier that learns the same from both."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pipeline.data import ArchiveDataset, ArchiveStream, BatchDecoder, PartSampler
from pipeline.errors import ArchiveError, ConfigError


def test_a_sample_is_a_tensor_with_its_label(classical: str, shards: Path) -> None:
    dataset = ArchiveDataset(classical, columns=["label", "psnr_db"])
    assert len(dataset) == 64
    sample = dataset[5]
    assert (sample["image"].shape, sample["image"].dtype) == ((3, 64, 64), torch.uint8)
    assert sample["label"] in (0, 1)
    assert sample["psnr_db"] > 20
    assert sample["source_uri"].startswith(str(shards))
    with pytest.raises(IndexError):
        dataset[64]


def test_the_pixels_are_those_of_the_source(classical: str, shards: Path) -> None:
    originals = {
        f"{path}#row={number}": row
        for path in sorted(shards.glob("*.parquet"))
        for number, row in enumerate(pq.read_table(path).to_pylist())
    }
    dataset = ArchiveDataset(classical, columns=["label"], layout="numpy")
    for at in (0, 30, 63):
        sample = dataset[at]
        source = originals[sample["source_uri"]]
        assert source["label"] == sample["label"]
        there = np.asarray(Image.open(io.BytesIO(source["image"])).convert("RGB"), np.float64)
        assert np.abs(sample["image"] - there).mean() < 8


def test_where_selects_and_unknown_names_are_told(classical: str) -> None:
    half = ArchiveDataset(classical, where="source_uri like '%shard-1%'")
    assert len(half) == 16
    with pytest.raises(ArchiveError, match=r"caption.*label"):
        ArchiveDataset(classical, columns=["caption"])[0]
    with pytest.raises(ConfigError, match="layout"):
        ArchiveDataset(classical, layout="torch")
    with pytest.raises(ConfigError, match="colour"):
        ArchiveDataset(classical, where="colour = 3")


@pytest.mark.parametrize("codec", ["learned", "classical"])
def test_pictures_in_bf16_are_nearly_those_in_fp32(codec: str, request: pytest.FixtureRequest) -> None:
    uri, some = request.getfixturevalue(codec), "source_uri like '%shard-1%'"
    exact, fast = (ArchiveDataset(uri, where=some, precision=precision) for precision in ("fp32", "bf16"))
    for one, other in zip((exact[k] for k in range(4)), (fast[k] for k in range(4)), strict=True):
        assert one["image_id"] == other["image_id"]
        assert (one["image"].float() - other["image"].float()).abs().mean() < 0.5
    with pytest.raises(ConfigError, match="precision 'half': expected one of fp32, bf16"):
        ArchiveDataset(uri, precision="half")


@pytest.mark.parametrize("codec", ["learned", "classical"])
def test_batches_decoded_in_the_main_process_equal_those_of_workers(codec: str, request: pytest.FixtureRequest) -> None:
    uri = request.getfixturevalue(codec)
    whole = {s["image_id"]: s["image"] for s in ArchiveStream(uri, shuffle=False, where="source_uri like '%shard-0%'")}
    coded = ArchiveStream(uri, decode="symbols", where="source_uri like '%shard-0%'")
    decoder = BatchDecoder(uri, device="cpu", transform=lambda image: image.float())
    loader = DataLoader(coded, batch_size=8, num_workers=1, collate_fn=list)
    seen = {s["image_id"]: s["image"] for samples in map(decoder, loader) for s in samples}
    assert seen.keys() == whole.keys()
    # Symbols are exact; a float network sums in another order for eight pictures than for one.
    level = 1 if codec == "learned" else 0
    assert all((seen[name] - whole[name].float()).abs().max() <= level for name in whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_an_epoch_without_overlap(classical: str, workers: int) -> None:
    world, seen = 4, Counter[str]()
    for rank in range(world):
        stream = ArchiveStream(classical, rank=rank, world_size=world, seed=1)
        loader = DataLoader(stream, batch_size=None, num_workers=workers)
        names = [sample["image_id"] for sample in loader]
        assert len(names) == len(stream) == 16
        seen.update(names)
    assert len(seen) == 64
    assert set(seen.values()) == {1}


def test_epochs_differ_runs_repeat_and_parts_stay_together(classical: str) -> None:
    def order(stream: ArchiveStream) -> list[str]:
        return [sample["source_uri"] for sample in stream]

    stream = ArchiveStream(classical, seed=3, mixed_parts=1)
    first = order(stream)
    stream.set_epoch(1)
    assert order(stream) != first
    assert sorted(order(stream)) == sorted(first)
    assert order(ArchiveStream(classical, seed=3, mixed_parts=1)) == first
    parts = [uri.partition("#")[0] for uri in first]
    assert sum(a != b for a, b in itertools.pairwise(parts)) == 3, "each of four parts is read once"


def test_workers_that_stay_see_the_next_epoch(classical: str) -> None:
    stream = ArchiveStream(classical, seed=5, transform=lambda image: image[:, :1, :1])
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    first = [sample["image_id"] for sample in loader]
    stream.set_epoch(1)
    assert [sample["image_id"] for sample in loader] != first


def test_a_part_sampler_shards_the_map_style_dataset(classical: str) -> None:
    dataset = ArchiveDataset(classical)
    picked = [set(PartSampler(dataset, rank=rank, world_size=2)) for rank in range(2)]
    assert not picked[0] & picked[1]
    assert len(picked[0] | picked[1]) == 64
    batch = next(iter(DataLoader(dataset, batch_size=8, sampler=PartSampler(dataset))))
    assert batch["image"].shape == (8, 3, 64, 64)
    with pytest.raises(ConfigError, match="both"):
        PartSampler(dataset, rank=0)


def test_a_dataset_travels_to_a_spawned_worker(learned: str) -> None:
    stream = ArchiveStream(learned, where="source_uri like '%shard-2%=1_'")
    next(iter(stream))  # decoders and locks exist now, and must stay behind
    loader = DataLoader(stream, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert len(list(loader)) == 6


class _Originals(Dataset[dict[str, Any]]):
    def __init__(self, shards: Path) -> None:
        tables = [pq.read_table(path) for path in sorted(shards.glob("*.parquet"))]
        self._rows = pa.concat_tables(tables).to_pylist()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = np.array(Image.open(io.BytesIO(self._rows[index]["image"])).convert("RGB"))
        return {"image": torch.from_numpy(pixels).permute(2, 0, 1), "label": self._rows[index]["label"]}


class _Slopes(nn.Module):
    """How much each channel changes along x and along y, and a linear layer on top."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image.float() / 32
        slopes = [x.diff(dim=dim).abs().mean((2, 3)) for dim in (2, 3)]
        return cast(torch.Tensor, self.linear(torch.cat(slopes, 1)))


def _one_epoch(make_loader: Callable[[], Any]) -> float:
    """Accuracy after one epoch of a tiny classifier."""
    torch.manual_seed(0)
    net = _Slopes()
    optimiser = torch.optim.Adam(net.parameters(), 0.1)
    for batch in make_loader():
        loss = nn.functional.cross_entropy(net(batch["image"]), batch["label"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    right, total = 0, 0
    for batch in make_loader():
        right += int((net(batch["image"]).argmax(1) == batch["label"]).sum())
        total += len(batch["label"])
    return right / total


def test_a_classifier_learns_from_the_archive_what_it_learns_from_the_originals(learned: str, shards: Path) -> None:
    def from_originals() -> Any:
        return DataLoader(_Originals(shards), batch_size=4, shuffle=True)

    def from_archive() -> Any:
        return DataLoader(ArchiveStream(learned, columns=["label"]), batch_size=4)

    originals, archive = _one_epoch(from_originals), _one_epoch(from_archive)
    assert originals > 0.8
    assert archive > originals - 0.1

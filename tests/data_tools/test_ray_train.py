"""An archive under Ray Train: two workers with gloo share each epoch, and train one classifier together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ray


def train(config: dict[str, Any]) -> None:
    """What each worker runs: a linear classifier over how much a picture changes along x and y."""
    import ray.train
    import ray.train.torch
    import torch
    from torch.utils.data import DataLoader

    from pipeline.data import ArchiveDataset, ArchiveStream, PartSampler

    def slopes(image: torch.Tensor) -> torch.Tensor:
        x = image.float() / 32
        return torch.cat([x.diff(dim=dim).abs().mean((1, 2)) for dim in (1, 2)])

    def loss_of(batch: dict[str, Any]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(batch["image"]), batch["label"])

    torch.manual_seed(ray.train.get_context().get_world_rank())  # which DDP evens out
    model = ray.train.torch.prepare_model(torch.nn.Linear(6, 2))
    optimiser = torch.optim.Adam(model.parameters(), 0.1)
    dataset = ArchiveDataset(config["uri"], columns=["label"], transform=slopes)
    sampler = PartSampler(dataset, seed=1)
    epochs, losses = [], []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        ids: list[str] = []
        for batch in DataLoader(dataset, batch_size=4, sampler=sampler):
            loss = loss_of(batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            ids += batch["image_id"]
        epochs.append(ids)
        losses.append(float(loss.detach()))
    stream = ArchiveStream(config["uri"], columns=["label"], transform=slopes, shuffle=False)
    with torch.no_grad():
        right = [int((model(b["image"]).argmax(1) == b["label"]).sum()) for b in DataLoader(stream, batch_size=4)]
    told = {
        "epochs": epochs,
        "streamed": [sample["image_id"] for sample in stream],
        "right": sum(right),
        "weights": model.module.weight.tolist(),
        "backend": torch.distributed.get_backend(),
    }
    Path(config["out"], f"{ray.train.get_context().get_world_rank()}.json").write_text(json.dumps(told))
    ray.train.report({"loss": losses[-1]})


def test_two_workers_share_every_epoch_and_learn_one_model(classical: str, tmp_path: Path, small_ray: None) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        train,
        train_loop_config={"uri": classical, "out": str(tmp_path)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2, use_gpu=False),
        run_config=RunConfig(name="archive", storage_path=str(tmp_path / "runs")),
    )
    result = trainer.fit()
    assert result.error is None
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["backend"] == second["backend"] == "gloo"
    for ours, theirs in [*zip(first["epochs"], second["epochs"], strict=True), (first["streamed"], second["streamed"])]:
        assert len(ours) == len(theirs) == 32
        assert len({*ours, *theirs}) == 64
    assert first["epochs"][0] != first["epochs"][1], "every epoch has its own order"
    assert first["weights"] == second["weights"], "one model, whatever each worker began with"
    assert first["right"] + second["right"] > 0.9 * 64

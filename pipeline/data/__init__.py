"""Archives as data: for torch, for whoever opens pictures by id, for tables. README.md here has recipes.

pictures  rows, payloads, decoders, files (no torch)      order    shuffled by part
dataset   ArchiveDataset, ArchiveStream (torch)           batches  payloads decoded together on a device
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipeline.data.pictures import Pictures

if TYPE_CHECKING:
    from pipeline.data.batches import BatchDecoder
    from pipeline.data.dataset import ArchiveDataset, ArchiveStream, PartSampler

__all__ = ["ArchiveDataset", "ArchiveStream", "BatchDecoder", "PartSampler", "Pictures"]
_HOMES = {
    "ArchiveDataset": "dataset",
    "ArchiveStream": "dataset",
    "PartSampler": "dataset",
    "BatchDecoder": "batches",
}


def __getattr__(name: str) -> Any:
    """torch is imported by whoever asks for a dataset, and nobody else."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"pipeline.data.{_HOMES[name]}"), name)

"""An archive as a torch dataset, map-style and iterable: what a training script needs instead of a folder of JPEGs.

A sample is a dict: "image" (a (3, H, W) uint8 tensor unless told), "image_id", "source_uri", and the columns asked
for: labels and captions that came along with the source, or columns of the metrics table. Pictures are RGB and
upright; profiles are not applied and alpha is left out, as `Image.open(f).convert("RGB")` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from pipeline.archive import StoredImage
from pipeline.data.batches import LAYOUTS, laid_out, symbols_of
from pipeline.data.order import MIXED_PARTS, epoch_order, share
from pipeline.data.pictures import Pictures, known_columns
from pipeline.errors import ArchiveError, ConfigError

Sample = dict[str, Any]
_DECODES = ("pixels", "symbols")
_FETCHED_AT_ONCE = 16


class _Samples:
    """Rows of an archive as samples: what both datasets take, check and do the same way."""

    def __init__(
        self,
        uri: str,
        *,
        where: str | None = None,
        columns: Sequence[str] = (),
        transform: Callable[[Any], Any] | None = None,
        decode: str = "pixels",
        layout: str = "tensor",
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        """Opens the archive and reads its metrics table.

        Args:
            uri: the archive.
            where: rows by metrics columns, e.g. "psnr_db >= 33 and width > 256".
            columns: what else a sample holds; names of passthrough or metrics columns.
            transform: applied to each image; torchvision.transforms.v2 take it as it comes.
            decode: "pixels", or "symbols" for a `BatchDecoder` on a device in the main process.
            layout: "tensor", "numpy" (H, W, 3) or "pil".
            device: where workers synthesise learned payloads; forked workers must stay on the CPU.
            precision: "fp32", or "bf16": more pictures a second, a little different (`codecs.base.PRECISIONS`).

        Raises:
            ConfigError: an unknown word for `decode` or `layout`, or a `where` that is not understood.
            ArchiveError: no archive there.
        """
        for name, value, known in (("decode", decode, _DECODES), ("layout", layout, LAYOUTS)):
            if value not in known:
                raise ConfigError(f"{name} {value!r}: expected one of {', '.join(known)}")
        self.pictures = Pictures(uri, where, device, precision)
        self._columns, self._transform = tuple(columns), transform
        self._decode, self._layout = decode, layout

    @property
    def parts(self) -> list[str]:
        """The part of each picture."""
        return list(self.pictures.table["part"].to_pylist())

    def read(self, indexes: Sequence[int]) -> list[Sample]:
        """Samples in this order; neighbours share the reading of their part."""
        return [self._sample(stored) for stored in self.pictures.neighbours(self.pictures.rows(indexes))]

    def _sample(self, stored: StoredImage) -> Sample:
        image: Any = symbols_of(self.pictures, stored) if self._decode == "symbols" else None
        if image is None:
            image = laid_out(self.pictures.picture(stored).rgb, self._layout)
            image = self._transform(image) if self._transform is not None else image
        sample = {"image": image, "image_id": stored.image_id, "source_uri": stored.source_uri}
        own, passed = known_columns(self._columns)
        sample |= {name: stored.metrics[name] for name in own}
        for name in passed:
            if name not in stored.passthrough:
                raise ArchiveError(
                    f"{stored.source_uri}: has no column {name!r}; expected a metrics column"
                    f" or one of {', '.join(stored.passthrough) or '(none came along with its source)'}"
                )
            sample[name] = stored.passthrough[name]
        return sample


class ArchiveDataset(_Samples, Dataset[Sample]):
    """Map-style: `dataset[i]`, in the order of parts. With a `PartSampler` every part is read once an epoch."""

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} pictures")
        return self.read([index % len(self)])[0]

    def __getitems__(self, indexes: Sequence[int]) -> list[Sample]:
        """A batch in one call; DataLoader uses it."""
        return self.read(indexes)


class PartSampler(Sampler[int]):
    """Indexes of a dataset of this module: shuffled by part, sharded by rank. Call `set_epoch` before each epoch.

    Args:
        rank, world_size: those of torch.distributed, which Ray Train sets up, unless told.
        mixed_parts: how many parts are shuffled together, and how many a process keeps in memory.
    """

    def __init__(
        self,
        dataset: _Samples,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        mixed_parts: int = MIXED_PARTS,
    ) -> None:
        self._parts, self._shuffle, self._seed, self._mixed = dataset.parts, shuffle, seed, mixed_parts
        self._rank, self._world_size = _place(rank, world_size)
        dataset.pictures.cached_parts = max(1, mixed_parts)
        # Shared memory, so that workers kept alive between epochs (persistent_workers) see the change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._parts) // self._world_size

    def __iter__(self) -> Iterator[int]:
        return iter(self.of_worker())

    def of_worker(self, worker: int = 0, workers: int = 1) -> list[int]:
        """What one of the workers of this rank reads in this epoch: a run of neighbours."""
        order = epoch_order(self._parts, self._shuffle, self._seed, int(self._epoch), self._mixed)
        return list(share(order, self._rank, self._world_size, worker, workers).tolist())


class ArchiveStream(_Samples, IterableDataset[Sample]):
    """Iterable: sharded by rank and worker, shuffled by part; each worker reads its own parts and no others.

    Takes what `ArchiveDataset` takes, and what a `PartSampler` takes. Call `set_epoch` before each epoch.
    """

    def __init__(
        self,
        uri: str,
        *,
        shuffle: bool = True,
        seed: int = 0,
        mixed_parts: int = MIXED_PARTS,
        rank: int | None = None,
        world_size: int | None = None,
        **samples: Any,
    ) -> None:
        super().__init__(uri, **samples)
        self._order = PartSampler(
            self, shuffle=shuffle, seed=seed, rank=rank, world_size=world_size, mixed_parts=mixed_parts
        )

    def set_epoch(self, epoch: int) -> None:
        self._order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        own = self._order.of_worker(info.id, info.num_workers) if info is not None else self._order.of_worker()
        for start in range(0, len(own), _FETCHED_AT_ONCE):
            yield from self.read(own[start : start + _FETCHED_AT_ONCE])


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """(rank, world size): as given, else those of torch.distributed, else one of one."""
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank {rank} and world_size {world_size}: give both, or none of them")
    if rank is None or world_size is None:
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if together else (0, 1)
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} of {world_size}: expected 0 <= rank < world_size")
    return rank, world_size

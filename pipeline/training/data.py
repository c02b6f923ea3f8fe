"""Training photos: decoded once into memory, cropped at random for ever.

A few hundred photos fit in RAM as uint8, and a decoder in the loop is what starves an accelerator. Only the
standard library, NumPy, Pillow and torch are needed, so that a bare training machine will do.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline.errors import TrainingError
from pipeline.training.spec import AugmentSpec

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def read_files(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every image in a folder, in its tar shards, or in one tar; sorted, so stable."""
    root = Path(path)
    if not root.exists():
        raise TrainingError(f"{root}: no such file or folder; expected a folder of images or tar shards")
    for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
        if file.suffix == ".tar":
            with tarfile.open(file) as shard:
                for member in shard:
                    if member.isfile() and Path(member.name).suffix.lower() in _SUFFIXES:
                        yield member.name, shard.extractfile(member).read()  # type: ignore[union-attr]
        elif file.suffix.lower() in _SUFFIXES:
            yield str(file), file.read_bytes()


def _pixels(item: tuple[str, bytes]) -> np.ndarray:
    with Image.open(io.BytesIO(item[1])) as image:
        return np.array(image.convert("RGB"))


def load_photos(path: str | Path, min_side_px: int = 64) -> list[np.ndarray]:
    """Every image under `path` as (H, W, 3) uint8, in the order of `read_files`, tiny ones left out."""
    with ThreadPoolExecutor() as pool:
        photos = [p for p in pool.map(_pixels, read_files(path)) if min(p.shape[:2]) >= min_side_px]
    if not photos:
        raise TrainingError(f"{path}: found no image of at least {min_side_px} px; give a folder with photos")
    return photos


def centre_crop(photo: np.ndarray, size_px: int = 256) -> np.ndarray:
    """The middle of a photo, (size, size, 3); smaller photos are mirrored out to it."""
    missing = [max(0, size_px - side) for side in photo.shape[:2]]
    if any(missing):
        photo = np.pad(photo, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    top, left = ((side - size_px) // 2 for side in photo.shape[:2])
    return photo[top : top + size_px, left : left + size_px]


class Crops:
    """Random square crops, flipped and turned by quarter turns; the generator's state is the whole state.

    Photos are drawn by area, so that every pixel is as likely as any other. Those smaller than the crop
    are mirrored out to its size. They rest on `device`, where crops are cut, so that no pixel travels twice.
    """

    def __init__(
        self,
        photos: Sequence[np.ndarray],
        seed: int,
        device: str | torch.device = "cpu",
        augment: AugmentSpec | None = None,
    ) -> None:
        self.photos = [torch.from_numpy(np.require(p, requirements=["C", "W"])).to(device) for p in photos]
        areas = np.array([p.shape[0] * p.shape[1] for p in photos], dtype=np.float64)
        self.probabilities = areas / areas.sum()
        self.rng = np.random.default_rng(seed)
        self.augment = augment or AugmentSpec()

    def crop(self, size_px: int) -> Tensor:
        """One (size, size, 3) uint8 crop."""
        photo = self.photos[self.rng.choice(len(self.photos), p=self.probabilities)]
        height, width = photo.shape[:2]
        top = self.rng.integers(0, max(height - size_px, 0) + 1)
        left = self.rng.integers(0, max(width - size_px, 0) + 1)
        crop = photo[top : top + size_px, left : left + size_px]
        crop = _mirrored(_mirrored(crop, 0, size_px), 1, size_px)
        crop = torch.rot90(crop, int(self.rng.integers(0, 4)))
        return crop.flip(1) if self.rng.integers(0, 2) else crop

    def batch(self, count: int, size_px: int) -> Tensor:
        """(count, 3, size, size) uint8."""
        return torch.stack([self.crop(size_px) for _ in range(count)]).permute(0, 3, 1, 2)

    def augmented(self, count: int, size_px: int) -> Tensor:
        """A batch with the changes of the augmentation; the same as `batch` where it has none."""
        augment = self.augment
        source_px = size_px
        if augment.downscale < 1:
            source_px = round(size_px / self.rng.uniform(augment.downscale, 1))
        batch = self.batch(count, source_px)
        if source_px != size_px:
            batch = (
                F.interpolate(batch.float(), size=(size_px, size_px), mode="bilinear", antialias=True).round().byte()
            )
        strengths = (augment.brightness, augment.contrast, augment.saturation)
        if any(strengths):
            factors = self.rng.uniform(-1, 1, (count, 3)) * strengths + 1
            batch = _jittered(batch, torch.from_numpy(factors).float().to(batch.device))
        for k in range(augment.synthetic_of(count)):
            batch[k] = self._synthetic(batch[k])
        return batch

    def _synthetic(self, crop: Tensor) -> Tensor:
        """A crop (3, S, S) uint8 on its way to noise, halftone, mosaic or hard contrast; gray or coloured."""
        kind, strength, gray, way = self.rng.integers(4), self.rng.random(), self.rng.random() < 0.5, self.rng.random()
        size, photo = crop.shape[-1], crop.float()
        source = torch.Generator(crop.device).manual_seed(int(self.rng.integers(1 << 62)))
        noise = torch.rand(1 if gray else 3, size, size, device=crop.device, generator=source)
        shown = photo.mean(0, keepdim=True) if gray else photo
        if kind == 0:
            made = shown + 510 * strength * (noise - 0.5)
        elif kind == 1:
            made = 255.0 * (shown / 255 > (noise - 0.5) * (2 * strength) + 0.5)
        elif kind == 2:
            cell = 2 ** int(self.rng.integers(0, 7))
            cells = noise[:, : -(-size // cell), : -(-size // cell)]
            cells = cells.round() if strength < 0.5 else cells
            made = 255 * cells.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, :size, :size]
        else:
            made = (shown - shown.mean()) * 16**strength + 127.5
        return torch.lerp(photo, made.clamp(0, 255), min(1.0, 2 * way)).round().byte()


def _jittered(batch: Tensor, factors: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 with brightness, contrast and saturation times `factors` (B, 3)."""
    brightness, contrast, saturation = (factors[:, k, None, None, None] for k in range(3))
    x = batch.float() * brightness
    x = (x - x.mean(dim=(1, 2, 3), keepdim=True)) * contrast + x.mean(dim=(1, 2, 3), keepdim=True)
    gray = x.mean(dim=1, keepdim=True)
    return ((x - gray) * saturation + gray).round().clamp(0, 255).byte()


def _mirrored(crop: Tensor, axis: int, size_px: int) -> Tensor:
    """`crop` continued by its mirror image, and that by its own, until it is `size_px` long."""
    while crop.shape[axis] < size_px:
        crop = torch.cat([crop, crop.flip(axis)], axis)
    return crop.narrow(axis, 0, size_px)

"""Learned payloads decoded together on a device: workers undo the entropy coding, the main process synthesises.

Entropy decoding is the CPU's, and scales with DataLoader workers; networks want the accelerator, which workers
that were forked must not touch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.archive import StoredImage
from pipeline.codecs.base import SplitCodec, Symbols
from pipeline.data.pictures import Pictures
from pipeline.errors import CodecError
from pipeline.imaging import export

LAYOUTS = ("tensor", "numpy", "pil")


@dataclass(frozen=True, slots=True, eq=False)
class Undecoded:
    """What stands for the image of a learned row until a `BatchDecoder` has seen it."""

    codec: str
    model_id: str | None
    symbols: Symbols


def symbols_of(pictures: Pictures, stored: StoredImage) -> Undecoded | None:
    """The symbols of a learned row; None for a row of a classical codec."""
    codec = pictures.decoder(stored.codec, stored.model_id)
    if not isinstance(codec, SplitCodec):
        return None
    return Undecoded(stored.codec, stored.model_id, codec.entropy_decode(stored.payload))


def laid_out(rgb: np.ndarray, layout: str) -> Any:
    """(H, W, 3) uint8 as a (3, H, W) uint8 tensor, itself, or an RGB PIL image."""
    if layout == "tensor":
        return torch.from_numpy(rgb.transpose(2, 0, 1).copy())
    return export.to_pil(rgb) if layout == "pil" else rgb


class BatchDecoder:
    """Turns samples of a dataset with `decode="symbols"` into samples with pictures.

        loader = DataLoader(ArchiveDataset(uri, decode="symbols"), batch_size=64, num_workers=8, collate_fn=list)
        decoder = BatchDecoder(uri, device="cuda", transform=to_224)
        for samples in map(decoder, loader): ...

    Args:
        precision: "fp32", or "bf16" for more pictures a second that are a little different (`codecs.base.PRECISIONS`).
        transform: applied to each image after decoding, in the calling process.
    """

    def __init__(
        self,
        uri: str,
        *,
        device: str = "auto",
        precision: str = "fp32",
        transform: Callable[[Any], Any] | None = None,
        layout: str = "tensor",
    ) -> None:
        if layout not in LAYOUTS:
            raise CodecError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
        self._pictures = Pictures(uri, device=device, precision=precision)
        self._transform, self._layout = transform, layout

    def __call__(self, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        waiting: dict[tuple[str, str | None], list[int]] = {}
        for at, sample in enumerate(samples):
            if isinstance(image := sample["image"], Undecoded):
                waiting.setdefault((image.codec, image.model_id), []).append(at)
        found = [dict(sample) for sample in samples]
        for (codec, model_id), places in waiting.items():
            decoder = self._pictures.decoder(codec, model_id)
            if not isinstance(decoder, SplitCodec):
                raise CodecError(f"codec {codec}: it has no symbols to decode in batches; use decode='pixels'")
            for at, rgb in zip(
                places, decoder.synthesise([samples[at]["image"].symbols for at in places]), strict=True
            ):
                found[at]["image"] = laid_out(rgb, self._layout)
        if self._transform is not None:
            for sample in found:
                sample["image"] = self._transform(sample["image"])
        return found

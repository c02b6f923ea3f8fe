"""The accelerator half of super-resolution: pixels to more pixels, in tiles whose halo covers the receptive field."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned.superres import FrozenSuperResolver
from pipeline.codecs.learned.tiles import pick_device, tiled
from pipeline.nn import models
from pipeline.nn.superres import SuperResolver

TILE_PX = 384
"""Low-resolution pixels: a trunk of 32 channels then holds about 25 MB a layer."""


class Enlarger:
    """A frozen super-resolver on a device, in fp32: what it makes must look the same everywhere to one 8-bit level."""

    def __init__(self, frozen: FrozenSuperResolver, device: str = "auto") -> None:
        self.frozen, self.device = frozen, pick_device(device)
        models.require_fitting(lambda: SuperResolver(frozen.spec), frozen.arrays)
        network = SuperResolver(frozen.spec)
        network.load_state_dict(models.thawed(frozen.spec.kind, frozen.arrays))
        self.network = network.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def scale(self) -> int:
        return self.frozen.spec.scale

    @torch.no_grad()
    def __call__(self, rgb: np.ndarray, quality: float) -> np.ndarray:
        """(H, W, 3) uint8 to (scale H, scale W, 3) uint8; gray pictures stay gray."""
        height, width = rgb.shape[:2]
        scale, level = self.scale, torch.tensor([quality / 100], device=self.device)
        gray = bool((rgb[..., :1] == rgb).all())
        out = torch.empty(1, 3, scale * height, scale * width, dtype=torch.uint8, device=self.device)

        def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
            part = rgb[top // scale : bottom // scale, left // scale : right // scale]
            x = torch.from_numpy(part.copy()).to(self.device).permute(2, 0, 1)[None].float() / 255
            x_hat = self.network(x.contiguous(memory_format=torch.channels_last), level)
            x_hat = x_hat.mean(1, keepdim=True).expand(-1, 3, -1, -1) if gray else x_hat
            return (x_hat * 255).round().clamp(0, 255).byte()

        tiled(out.shape[2], out.shape[3], tile, out, 1, scale * self.frozen.spec.halo_px, scale * TILE_PX)
        return np.ascontiguousarray(out[0].permute(1, 2, 0).cpu().numpy())

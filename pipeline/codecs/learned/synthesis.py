"""y_hat to pixels, in tiles: in integers where a model's decoder is one of integers, in floats where it is not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned.filters import Filter
from pipeline.codecs.learned.steps import Steps
from pipeline.codecs.learned.tiles import HALO_PX, tiled
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.codecs.learned.wiener import Wiener
from pipeline.nn import ends, exact
from pipeline.nn.bytewise import bytewise
from pipeline.nn.freeze import FrozenTransforms
from pipeline.nn.spec import HyperpriorSpec


class Synthesis:
    """g_s of a frozen model on a device; `bf16` says whether that multiplies bf16 in hardware."""

    def __init__(
        self, model: FrozenModel, spec: HyperpriorSpec, transforms: FrozenTransforms, device: torch.device, bf16: bool
    ) -> None:
        self.g_s, self.device, self.bf16 = transforms.g_s, device, bf16
        self.halo_px = max(HALO_PX, 16 * -(-spec.decoder_blocks // 2))  # a block looks 8 px further
        self.exact = exact.ExactSynthesis(spec, model.arrays, device) if exact.in_integers(model.arrays) else None

    def picture(
        self,
        y_hat: Tensor,
        steps: Steps,
        height_px: int,
        width_px: int,
        gray: bool,
        precision: str = "fp32",
        wiener: Wiener | None = None,
    ) -> np.ndarray:
        """(height_px, width_px, 3) uint8 of y_hat (1, M, h, w) in quantiser steps; a gray one has three equal channels.

        In bf16 where `precision` asks for it and that is faster; bytes are faster still, where a CPU multiplies them.
        """
        padded = 16 * y_hat.shape[2], 16 * y_hat.shape[3]
        out = torch.empty(*padded, 3, dtype=torch.uint8, device=self.device).permute(2, 0, 1)[None]
        halo_px = self.halo_px + (0 if wiener is None else 16)  # for the pixels that it looks at beyond a tile
        fast = precision == "bf16" and self.bf16 and (self.exact is None or self.device.type != "cpu")

        def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
            part = y_hat[:, :, top // 16 : bottom // 16, left // 16 : right // 16]
            here = steps.within(top, bottom, left, right)
            if self.exact is not None and not fast:
                levels = self.exact(part[0], here.centi)
                levels = _gray(levels) if gray else levels
            else:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=fast):
                    x_hat = self.g_s(here.in_pixel_units(part), here.quality)
                    x_hat = tinted(x_hat, gray)[:, : 1 if gray else 3]
                levels = x_hat[0].permute(1, 2, 0) * 255
            levels = levels if behind is None else behind(levels)
            return ends.rounded(made, levels).permute(2, 0, 1)[None]

        with torch.autocast(self.device.type, enabled=False):  # not that of whoever calls
            made = bytewise() if self.exact is not None and self.device.type == "cpu" else None
            behind = None if wiener is None else Filter(wiener, self.device)
            tiled(*padded, tile, out, 1, halo_px)
        return np.ascontiguousarray(out[0, :, :height_px, :width_px].permute(1, 2, 0).cpu().numpy())


def tinted(x: Tensor, gray: bool) -> Tensor:
    """A picture (B, 3, H, W), or what stands for one; the mean of its channels in each of them if it is gray."""
    return x.mean(1, keepdim=True).expand(-1, 3, -1, -1) if gray else x


def _gray(levels: Tensor) -> Tensor:
    """The mean of (H, W, 3), (H, W, 1), in an order of operations that every device keeps."""
    red, green, blue = levels.unbind(2)
    return red.add(green).add_(blue).mul_(1 / 3)[..., None]

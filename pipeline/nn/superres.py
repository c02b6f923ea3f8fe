"""Super-resolution: a low-resolution picture in, a larger one out, whatever decoded it.

    x (B, 3, h, w) --+-- bicubic --------------------------------------------(+)-- (B, 3, scale h, scale w)
                     +-- trunk -- last layer, zero at the start -- shuffle ---+

The start is bicubic, and training only adds to it. `level` in [0, 1] says how good the picture is, 1 for a clean one
and the codec's quality for a decoded one: from it each layer gets gains, so one file of weights serves both.

Trunks: `pixels`, residual 3x3 convolutions at low resolution (Lim et al., EDSR, CVPRW 2017, but small; Shi et al.,
ESPCN, CVPR 2016); `codec`, the codec's g_a and g_s with a new last layer; `backbone`, an ImageNet classifier.
`pipeline/training/LOG.md` compares them at equal budgets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.nn.backbone import Backbone
from pipeline.nn.hyperprior import pad_to
from pipeline.nn.layers import QualityTable, asinh
from pipeline.nn.spec import SuperresSpec
from pipeline.nn.transforms import AnalysisTransform, SynthesisTransform


class GainedBlock(nn.Module):
    """x + conv(relu(conv(x) * gain(level)))."""

    def __init__(self, width: int, anchors: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = QualityTable(torch.zeros(anchors, width))
        with torch.no_grad():
            self.conv2.weight *= 0.1

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x) * torch.exp(self.modulation(level))))


class PixelTrunk(nn.Module):
    """x (B, 3, h, w) around 0 to what is added to the bicubic picture, (B, 3, scale h, scale w)."""

    def __init__(self, spec: SuperresSpec) -> None:
        super().__init__()
        self.scale = spec.scale
        self.enter = self._entry(spec)
        self.blocks = nn.ModuleList(GainedBlock(spec.width, spec.anchors) for _ in range(spec.blocks))
        self.modulation = QualityTable(torch.zeros(spec.anchors, spec.width))
        self.out = _zero(nn.Conv2d(spec.width, 3 * spec.scale**2, 3, padding=1))

    def _entry(self, spec: SuperresSpec) -> nn.Module:
        return nn.Conv2d(3, spec.width, 3, padding=1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.enter(x) * torch.exp(self.modulation(level))
        for block in self.blocks:
            h = block(h, level)
        return F.pixel_shuffle(self.out(h), self.scale)


class BackboneTrunk(PixelTrunk):
    """The same behind features of a classifier, brought to one a pixel.

    Raises:
        ConfigError: the layer lies on no grid of whole pixels, so that tiles would not fit together.
    """

    def _entry(self, spec: SuperresSpec) -> nn.Module:
        features = Backbone(spec.backbone, spec.layer, unit_px=1)
        if not features.exact:
            raise ConfigError(
                f"run.model.layer: features of {spec.layer!r} of {spec.backbone} are not a whole number of pixels "
                "apart, and tiles of large pictures would not fit together; expected a layer as of vgg16 or resnet18"
            )
        return nn.Sequential(features, Unit(features.channels), nn.Conv2d(features.channels, spec.width, 1))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return super().forward(pad_to(x, 16), level)[:, :, : self.scale * x.shape[2], : self.scale * x.shape[3]]

    @property
    def features(self) -> Backbone:
        return self.enter[0]  # type: ignore[index]

    @torch.no_grad()
    def settle(self, x: Tensor) -> None:
        """Bring the features of pictures like x (B, 3, h, w), around 0, to a spread of 1."""
        std = self.features(x).std(dim=(0, 2, 3), keepdim=True)
        self.enter[1].std.copy_(std.clamp_min(1e-2 * float(std.mean())))  # type: ignore[index]


class Unit(nn.Module):
    """Features of ImageNet networks reach into the hundreds; unscaled, they sent the first steps far off."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.std: Tensor
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x / self.std


class CodecTrunk(nn.Module):
    """g_a and g_s of the codec, latents not quantised; the last layer of g_s gives way to a larger one."""

    def __init__(self, spec: SuperresSpec) -> None:
        super().__init__()
        self.factor = 8 * spec.scale
        self.g_a = AnalysisTransform(spec.latent, spec.width, spec.encoder_blocks, spec.anchors)
        self.g_s = SynthesisTransform(spec.latent, spec.width, spec.blocks, spec.anchors)
        self.out = _zero(nn.Conv2d(spec.width, 3 * self.factor**2, 1))
        del self.g_s.klt, self.g_s.head

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        padded = pad_to(x, 16) + 0.5
        y = self.g_a(padded, level)
        h = F.pixel_shuffle(self.g_s.up(asinh(y / self.g_s.y_std)), 2) * torch.exp(self.g_s.modulation(level))
        out = F.pixel_shuffle(self.out(self.g_s.blocks(h)), self.factor)
        scale = self.factor // 8
        return out[:, :, : scale * x.shape[2], : scale * x.shape[3]]


TRUNKS: dict[str, type[nn.Module]] = {"pixels": PixelTrunk, "backbone": BackboneTrunk, "codec": CodecTrunk}


class SuperResolver(nn.Module):
    """See the module; x (B, 3, h, w) in [0, 1] and level (B,) to (B, 3, scale h, scale w), not clamped."""

    def __init__(self, spec: SuperresSpec) -> None:
        super().__init__()
        self.spec, self.shard = spec, (0, 1)
        self.trunk = TRUNKS[spec.trunk](spec)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return enlarged(x, self.spec.scale) + self.trunk(x - 0.5, level).float()


def enlarged(x: Tensor, scale: int) -> Tensor:
    """Bicubic with a = -1/2, in fp32: with `antialias` torch takes that a, and enlarging leaves nothing to smooth."""
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x.float(), scale_factor=float(scale), mode="bicubic", antialias=True)


def freeze(model: SuperResolver) -> dict[str, np.ndarray]:
    """Every array of a weights file: fp16, gains in fp32."""
    return {
        name: value.float().cpu().numpy().astype(np.float32 if name.endswith((".table", "std")) else np.float16)
        for name, value in model.state_dict().items()
    }


def thaw(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items()}


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer

"""An ImageNet classifier as an encoder: torchvision's network, cut at a named layer, on the grid of the latents.

What a classifier has learned to see may be what a compressor should keep, or may throw away what it needs: the
layer goes by its name in torchvision's graph (`features.22` of VGG16, `layer2` of a ResNet, `Mixed_5d` of Inception).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.nn.vision import torchvision

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEAST_PX = 96
"""Inception's stem takes nothing smaller than 75 px; smaller pictures are continued by their last row and column."""


class Backbone(nn.Module):
    """x (B, 3, H, W), pixels minus 1/2, to features (B, F, fold H / unit, fold W / unit); H, W multiples of `unit_px`.

    `fold` is how many features lie along a side of a cell of the grid. Layers that do not pad lose features at the
    border, as many on both sides; the outermost ones take their place, so that each feature stays where it looks.

    Raises:
        ConfigError: torchvision has no such network, or the network no such layer.
    """

    def __init__(self, name: str, layer: str, unit_px: int = 16) -> None:
        super().__init__()
        self.unit_px = unit_px
        self.network = _cut(name, layer)
        with torch.no_grad():
            small, large = (self.network(torch.zeros(1, 3, side, side))["out"] for side in (LEAST_PX, 2 * LEAST_PX))
        if small.ndim != 4:
            raise ConfigError(
                f"run.model.layer: {layer!r} of {name} is no map of features; name one before its pooling"
            )
        self.exact = LEAST_PX % small.shape[-1] == 0
        """Whether features lie on a grid of whole pixels, wherever a picture is cut."""
        per_least_px = large.shape[-1] - small.shape[-1]
        self.fold = max(1, round(per_least_px * unit_px / LEAST_PX))
        self.on_grid = per_least_px * unit_px == self.fold * LEAST_PX
        self.channels = int(small.shape[1])
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) - 0.5, persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = x.shape[-2] // self.unit_px, x.shape[-1] // self.unit_px
        least = -(-LEAST_PX // self.unit_px) * self.unit_px
        x = F.pad(x, (0, max(0, least - x.shape[-1]), 0, max(0, least - x.shape[-2])), mode="replicate")
        h = self.network((x - self.mean) / self.std)["out"].float()  # type: ignore[operator]
        size = [side // self.unit_px * self.fold for side in x.shape[-2:]]
        h = _bordered(h, size) if self.on_grid else F.interpolate(h, size=size, mode="bilinear", align_corners=False)
        return h[:, :, : rows * self.fold, : cols * self.fold]

    def train(self, mode: bool = True) -> Backbone:
        """Batch norms keep the statistics of ImageNet, fine-tuned or not: `network` stays in evaluation mode."""
        self.training = mode
        return self

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state dict of the whole network, or of its `features` alone.

        Raises:
            ConfigError: something is missing from it, or misshapen.
        """
        own = self.network.state_dict()
        found = {name: state.get(name, state.get(name.removeprefix("features."))) for name in own}
        for name, value in own.items():
            if (given := found[name]) is None or given.shape != value.shape:
                seen = "missing" if given is None else f"of shape {tuple(given.shape)}"
                raise ConfigError(
                    f"run.backbone.weights: {name} is {seen}; expected shape {tuple(value.shape)}, "
                    "so they are of another network than run.model.backbone"
                )
        self.network.load_state_dict({name: value.to(own[name].dtype) for name, value in found.items()})  # type: ignore[union-attr]


def _bordered(h: Tensor, size: list[int]) -> Tensor:
    """h (B, F, H, W) continued, or cut, alike on both sides until it has `size`."""
    down, across = size[0] - h.shape[-2], size[1] - h.shape[-1]
    if not down and not across:
        return h
    return F.pad(h, (across // 2, across - across // 2, down // 2, down - down // 2), mode="replicate")


def _cut(name: str, layer: str) -> Any:
    vision = torchvision()
    from torchvision.models import feature_extraction

    known = vision.models.list_models(module=vision.models)
    if name not in known:
        raise ConfigError(f"run.model.backbone: torchvision has no {name!r}; {_hint(name, known)}")
    options = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    network = vision.models.get_model(name, weights=None, **options).eval()
    nodes = feature_extraction.get_graph_node_names(network)[1]
    inside = [node for node in nodes if node == layer or node.startswith(f"{layer}.")]
    if not inside:
        raise ConfigError(f"run.model.layer: {name} has no layer {layer!r}; {_hint(layer, nodes)}")
    return feature_extraction.create_feature_extractor(network, {layer: "out"}).eval()


def _hint(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known[1:9])} ..."

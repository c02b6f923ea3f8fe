"""kMAC per pixel of a model, counted and not estimated: hooks on every convolution note what really ran.

Multiplications inside a convolution or matrix product count, activations and gains do not, as in published tables.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.nn.hyperprior import MeanScaleHyperprior
from pipeline.nn.models import Compressor, Model
from pipeline.nn.superres import SuperResolver

SIDE_PX = 256


@torch.inference_mode()
def kmac_per_px(model: Compressor) -> tuple[float, float]:
    """(encoder, decoder) on one square picture of 256 px; the decoder's share includes h_s."""
    x, quality = torch.full((1, 3, SIDE_PX, SIDE_PX), 0.5), torch.tensor([0.5])
    if isinstance(model, MeanScaleHyperprior):
        y = torch.zeros(1, model.spec.latent, SIDE_PX // 16, SIDE_PX // 16)
        z = torch.zeros(1, model.spec.hyper, SIDE_PX // 64, SIDE_PX // 64)
        encoder = macs(model.g_a, x, quality) + macs(model.h_a, y)
        decoder = macs(model.g_s, y, quality) + macs(model.h_s, z)
    else:
        side = SIDE_PX // model.spec.unit_px
        encoder = macs(model.g_a, x)
        decoder = macs(model.g_s, torch.zeros(1, model.spec.latent, side, side), quality)
    return encoder / SIDE_PX**2 / 1e3, decoder / SIDE_PX**2 / 1e3


@torch.inference_mode()
def work_of(model: Model) -> dict[str, float]:
    """kMAC per pixel by what is done; those of a super-resolver are per pixel of the enlarged picture."""
    if isinstance(model, SuperResolver):
        side = SIDE_PX // model.spec.scale
        return {"restore": macs(model, torch.full((1, 3, side, side), 0.5), torch.tensor([1.0])) / SIDE_PX**2 / 1e3}
    encoder, decoder = kmac_per_px(model)
    return {"encoder": encoder, "decoder": decoder}


def macs(network: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of all convolutions and linear layers in one call of `network`."""
    counted: list[int] = []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        counted.append(output.numel() * layer.weight[0].numel())  # type: ignore[index]

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    network(*inputs)
    for handle in handles:
        handle.remove()
    return sum(counted)

"""Freezing: a trained network becomes arrays that decode for ever.

g_a, g_s and h_a stay floats (stored as fp16), pictures come from a g_s in integers where there is one
(`training.quantised`); h_s becomes integers; per-quality tables become fixed point; the
entropy coder's frequencies become integers that sum to 2^24 elsewhere (`training.export`). The result is one
safetensors file whose SHA-256 is the identity of the model.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.nn import context, integer
from pipeline.nn.hyper import Z_LIMIT, HyperContext
from pipeline.nn.hyperprior import MeanScaleHyperprior
from pipeline.nn.spec import HyperpriorSpec

WEIGHT_BITS = 14
LOG2_SIGMA_UNITS = integer.INDEX_STEPS_PER_OCTAVE << integer.SCALE_BITS
FLOAT_PARTS = ("g_a.", "g_s.", "h_a.", "log2_gain.")


def _integer_layer(conv: nn.Conv2d, bits_in: int, row_bits_out: np.ndarray, shift_to: int) -> dict[str, np.ndarray]:
    """Weights, bias and shift of one layer; `row_bits_out` are the fractional bits wanted of each output row."""
    weight = conv.weight.detach().double().numpy()
    out, fan_in, taps = weight.shape[0], weight.shape[1], weight.shape[2] * weight.shape[3]
    extra = (row_bits_out - shift_to).astype(np.float64)
    scale = 2.0 ** (WEIGHT_BITS + extra)
    shift = bits_in + WEIGHT_BITS - shift_to
    bias = conv.bias.detach().double().numpy() * scale * 2.0**bits_in  # type: ignore[union-attr]
    rounded = np.round(weight * scale[:, None, None, None]).reshape(out, fan_in, taps).transpose(2, 0, 1)
    return {
        "weight": np.ascontiguousarray(rounded).astype(np.int32),
        "bias": np.round(bias + 2.0 ** (shift - 1)).astype(np.int64),
        "shift": np.array([shift], dtype=np.int32),
    }


def freeze_h_s(model: MeanScaleHyperprior) -> dict[str, np.ndarray]:
    """Integer arrays of h_s, as `integer.load_layers` wants them."""
    grid = np.arcsinh(np.arange(Z_LIMIT + 1)) * 2**integer.ACTIVATION_BITS
    arrays: dict[str, np.ndarray] = {"h_s.compression": np.round(grid).astype(np.int32)}
    bits_in = integer.ACTIVATION_BITS
    for name in integer.LAYER_NAMES:
        conv: nn.Conv2d = getattr(model.h_s, name)
        bits = np.full(conv.out_channels, integer.ACTIVATION_BITS)
        if name == "out":
            # log2(sigma) in units of 1/512 octave has nine fractional bits, means in units of sigma have eight.
            bits[: conv.out_channels // 2] = int(np.log2(LOG2_SIGMA_UNITS))
        for part, value in _integer_layer(conv, bits_in, bits, integer.ACTIVATION_BITS).items():
            arrays[f"h_s.{name}.{part}"] = value
    return arrays


def freeze_context(model: HyperContext) -> dict[str, np.ndarray]:
    """Integer arrays of a context of z, as `context.load` wants them, but for frequency tables."""
    positions = np.arange((integer.INDEX_COUNT - 1 << integer.SCALE_BITS) + 1)
    sigma = np.exp2(positions / LOG2_SIGMA_UNITS + integer.LOG2_SIGMA_MIN)
    arrays = {"z_context.sigmas": np.round(sigma * 2**integer.ACTIVATION_BITS).astype(np.int32)}
    for k, network in enumerate(model.networks):
        for name in context.LAYER_NAMES:
            conv: nn.Conv2d = network[name]  # type: ignore[index]
            bits = np.full(conv.out_channels, integer.ACTIVATION_BITS)
            if name == "out":
                bits[: conv.out_channels // 2] = int(np.log2(LOG2_SIGMA_UNITS))
            for part, value in _integer_layer(conv, integer.ACTIVATION_BITS, bits, integer.ACTIVATION_BITS).items():
                fits = part == "weight" and np.abs(value).max() < 1 << 15
                arrays[f"z_context.{k}.{name}.{part}"] = value.astype(np.int16) if fits else value
    return arrays


def freeze(model: MeanScaleHyperprior) -> dict[str, np.ndarray]:
    """Every array of the model but the frequency tables."""
    arrays = freeze_h_s(model)
    arrays["log2_base"] = np.round(model.log2_base.table.detach().double().numpy() * LOG2_SIGMA_UNITS).astype(np.int32)
    arrays["log2_sigma_z"] = np.round(model.log2_sigma_z.table.detach().double().numpy() * LOG2_SIGMA_UNITS).astype(
        np.int32
    )
    for name, value in model.state_dict().items():
        if name.startswith(FLOAT_PARTS):
            kind = np.float32 if ".table" in name or name.endswith(("y_std", ".limits")) else np.float16
            arrays[name] = value.float().cpu().numpy().astype(kind)
    return arrays


def thaw(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The state of a `MeanScaleHyperprior` from frozen arrays, to train on; what was frozen but for rounding."""
    state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in arrays.items() if k.startswith(FLOAT_PARTS)}
    for name in ("log2_base", "log2_sigma_z"):
        state[f"{name}.table"] = torch.from_numpy(arrays[name] / LOG2_SIGMA_UNITS).float()
    bits_in = integer.ACTIVATION_BITS
    for name in integer.LAYER_NAMES:
        weight, bias, shift = (arrays[f"h_s.{name}.{part}"] for part in ("weight", "bias", "shift"))
        taps, out, fan_in = weight.shape
        side = 3 if taps == 9 else 1
        scale = np.full(out, 2.0**WEIGHT_BITS)
        if name == "out":
            scale[: out // 2] *= LOG2_SIGMA_UNITS / 2**integer.ACTIVATION_BITS
        kernel = weight.transpose(1, 2, 0).reshape(out, fan_in, side, side) / scale[:, None, None, None]
        state[f"h_s.{name}.weight"] = torch.from_numpy(kernel).float()
        state[f"h_s.{name}.bias"] = torch.from_numpy((bias - 2.0 ** (int(shift[0]) - 1)) / scale / 2.0**bits_in).float()
    return state


class FrozenTransforms(nn.Module):
    """The float half of a frozen model: g_a, h_a, g_s and the gains, for inference."""

    def __init__(self, spec: HyperpriorSpec, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        model = MeanScaleHyperprior(spec)
        self.g_a, self.h_a, self.g_s, self.log2_gain = model.g_a, model.h_a, model.g_s, model.log2_gain
        floats = {k: torch.from_numpy(v.astype(np.float32)) for k, v in arrays.items() if k.startswith(FLOAT_PARTS)}
        self.load_state_dict(floats)
        self.requires_grad_(False).eval()
        for layer in (self.g_a.klt, self.g_a.stem, self.g_s.klt, self.g_s.head, self.g_a.blocks, self.g_s.blocks):
            layer.settle()

    def branches_to_bf16(self, decoder: bool) -> None:
        """Weights that are only used under autocast, which would bring them to bf16 at every call; g_s if `decoder`."""
        parts: list[nn.Module] = [self.g_a.stem, self.g_a.blocks, self.g_a.down]
        parts += [self.g_s.up, self.g_s.blocks, self.g_s.head] if decoder else []
        for layer in (layer for part in parts for layer in part.modules() if isinstance(layer, nn.Conv2d)):
            layer.to(torch.bfloat16)

    def gain(self, quality: Tensor) -> Tensor:
        """(B,) in [0, 1] to (B, M, 1, 1)."""
        return torch.exp2(self.log2_gain(quality))

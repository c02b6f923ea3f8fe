"""g_s as it will be in integers, while it is still trained: quantisation-aware training, and its export.

Weights and what goes into products are rounded in the forward pass; gradients pass as if they were not (Jacob et al.,
CVPR 2018). Units of what goes in are learned with the weights (Esser et al., "Learned Step Size Quantization", ICLR
2020), those of weights are powers of two a row. `nn.exact` then computes what is trained here, but for codes next to a
tie, which may fall the other way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.nn import ends
from pipeline.nn.codes import CODE_LIMIT, GATE_ONE, GATE_UNITS, SPATIAL_LIMIT, SPATIAL_WEIGHT_LIMIT, WEIGHT_LIMIT
from pipeline.nn.exact import LOG2_UNITS, PREFIX
from pipeline.nn.layers import asinh, by_rows, ste_round
from pipeline.nn.transforms import SynthesisTransform, modulated

DECODER = "decoder."
"""How names in the state of a model begin that trains with one."""
MAX_SHIFT = 20
PARTS = ("expand", "spatial", "project", "gate", "merge")
CLIPS = tuple(0.92**k for k in range(20))
"""Shares of the largest value that are tried as the end of the range of codes."""
LEAST = 1e-3
"""The largest value of a channel that is always empty."""
SEEN_POSITIONS = 4096
"""Of each batch that units are fitted to."""


def codes_of(x: Tensor, unit: Tensor, limit: int) -> Tensor:
    """Codes of x (B, C, H, W) in units (1, C, 1, 1), up to `limit`; beyond it nothing has a gradient.

    No autograd function of its own: compiled on a GPU, what such a one returned for x seems to have been lost (LOG.md).
    """
    return ste_round((x.float() / unit).clamp(-limit, limit))


def gate_of(v: Tensor) -> Tensor:
    """The sigmoid as the integer network has it; its gradient is the sigmoid's."""
    return ste_round(torch.sigmoid(ste_round(v * GATE_UNITS) / GATE_UNITS) * GATE_ONE) / GATE_ONE


class QuantisedSynthesis(nn.Module):
    """`g_s` with rounded factors: y_hat (B, M, h, w) in pixel units and quality (B,) to x_hat in [0, 1], not clamped.

    `log_units` are logarithms of the real value of a code, per channel, by the name of what is coded; `observe`
    fits them, and learning goes on from there. The weights are those of `g_s`, which is no part of this module.
    """

    def __init__(self, g_s: SynthesisTransform) -> None:
        super().__init__()
        self._of = (g_s,)
        width, blocks = g_s.up.out_channels // 4, range(len(g_s.blocks))
        sizes = {"up/in": g_s.up.in_channels, f"{len(g_s.blocks)}/x": width}
        sizes |= {f"{k}/{of}": width for k in blocks for of in ("x", "spatial", "project")}
        sizes |= {f"{k}/merge": 2 * width for k in blocks}
        self.log_units = nn.ParameterDict({name: torch.zeros(size) for name, size in sizes.items()})
        self._seen: dict[str, list[Tensor]] | None = None

    @property
    def g_s(self) -> SynthesisTransform:
        return self._of[0]

    @torch.no_grad()
    def observe(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fit units to what goes into the products of the float network on (y_hat, quality)."""
        self._seen = {}
        for y_hat, quality in batches:
            self.branch(y_hat, quality)
        for name, parts in self._seen.items():
            self.log_units[name].copy_(_fitted(torch.cat(parts), _limit_of(name)).log())
        self._seen = None
        if "limits" in self.g_s.blocks._buffers:
            for k, limit in enumerate(self.g_s.blocks.limits.flatten(1)):
                self.log_units[f"{k}/x"].clamp_max_((limit / CODE_LIMIT).log())

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        return self.g_s.linear(y_hat) + self.branch(y_hat, quality)

    def branch(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """The CNN's part of the picture."""
        g_s = self.g_s
        entry = y_hat / g_s.y_std
        if self._seen is None:
            entry = ste_round(entry * ends.ASINH_UNITS) / ends.ASINH_UNITS
        h = self._product("up", self._coded("up/in", asinh(entry)))
        x = F.pixel_shuffle(h, 2) * modulated(g_s.modulation, quality)
        for k in range(len(g_s.blocks)):
            x = self._block(k, x)
        last = f"{len(g_s.blocks)}/x"
        return F.pixel_shuffle(self._product("head", self._coded(last, self._held(last, x))), 8)

    def _block(self, k: int, x: Tensor) -> Tensor:
        x = self._held(f"{k}/x", x)
        v = self._product(f"{k}/expand", self._coded(f"{k}/x", x))
        spread = self._coded(f"{k}/spatial", v * self._gate(v))
        x = x + self._product(f"{k}/project", self._coded(f"{k}/project", self._product(f"{k}/spatial", spread)))
        u, v = self._product(f"{k}/gate", self._coded(f"{k}/x", x)).chunk(2, dim=1)
        return x + self._product(f"{k}/merge", self._coded(f"{k}/merge", u * self._gate(v)))

    def _held(self, name: str, x: Tensor) -> Tensor:
        """x within what codes reach, as the limits between blocks have it."""
        if self._seen is None:
            limit = CODE_LIMIT * _spread(self._unit(name))
            return torch.maximum(torch.minimum(x, limit), -limit)
        if "limits" not in self.g_s.blocks._buffers:
            return x
        limit = self.g_s.blocks.limits[int(name.split("/")[0])]
        return x.clamp(-limit, limit)

    def _coded(self, name: str, x: Tensor) -> Tensor:
        """x at the nearest codes, in codes; x itself while units are being fitted."""
        if self._seen is None:
            return codes_of(x, _spread(self._unit(name)), _limit_of(name))
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        self._seen.setdefault(name, []).append(rows[:: max(1, len(rows) // SEEN_POSITIONS)].clone())
        return x

    def _gate(self, v: Tensor) -> Tensor:
        return gate_of(v) if self._seen is None else torch.sigmoid(v)

    def _product(self, name: str, codes: Tensor) -> Tensor:
        layer = self._layer(name)
        if self._seen is not None:
            return F.conv2d(codes, layer.weight, layer.bias, padding=layer.padding, groups=layer.groups)
        unit_in, unit_out = self._units_of(name)
        factors, shift = _integers(layer, unit_in, unit_out)
        kernel = factors.view(layer.weight.shape)
        found = F.conv2d(codes, kernel, padding=layer.padding, groups=layer.groups).float()
        return found * _spread(unit_out * 2.0**-shift) + _spread(layer.bias)  # type: ignore[arg-type]

    def _layer(self, name: str) -> nn.Conv2d:
        block, _, part = name.rpartition("/")
        found: nn.Conv2d = getattr(self.g_s.blocks[int(block)] if block else self.g_s, part)
        return found

    def _unit(self, name: str) -> Tensor:
        found: Tensor = self.log_units[name].exp()
        return found

    def _units_of(self, name: str) -> tuple[Tensor, Tensor]:
        """Real values of one of what goes into a layer (in,), and of what comes out in integers (out,)."""
        k, _, part = name.rpartition("/")
        layer = self._layer(name)
        ones = torch.ones(layer.out_channels, device=layer.weight.device)
        if part == "up":
            return self._unit("up/in"), ones
        if part == "head":
            return self._unit(f"{len(self.g_s.blocks)}/x"), ones / 255
        x, spatial, project, merge = (self._unit(f"{k}/{of}") for of in ("x", "spatial", "project", "merge"))
        gates = torch.cat([merge * GATE_ONE, torch.full_like(merge, 1 / GATE_UNITS)])
        return {
            "expand": (x, ones / GATE_UNITS),
            "spatial": (spatial, project),
            "project": (project, x),
            "gate": (x, gates),
            "merge": (merge, x),
        }[part]

    @torch.no_grad()
    def tell_limits(self) -> None:
        """g_s in floats, which slopes are taken through, holds between its blocks what codes reach."""
        if "limits" in self.g_s.blocks._buffers:
            for k, limit in enumerate(self.g_s.blocks.limits.flatten(1)):
                limit.copy_(CODE_LIMIT * self._unit(f"{k}/x"))

    @torch.no_grad()
    def arrays(self, log2_gain: Tensor) -> dict[str, np.ndarray]:
        """What `nn.exact` computes with; `log2_gain` (anchors, M) is the table of the model."""
        g_s, count = self.g_s, len(self.g_s.blocks)
        streams = [self._unit(f"{k}/x") for k in range(count + 1)]
        before = [torch.ones_like(streams[0]), *streams[:-1]]
        *rescales, leave = (a / b for a, b in zip(before, streams, strict=True))
        floats = {f"{k}.rescale": rescale for k, rescale in enumerate(rescales)}
        floats |= {
            f"{k}.spatial.rescale": 1 / (GATE_UNITS * GATE_ONE * self._unit(f"{k}/spatial")) for k in range(count)
        }
        floats |= {"head.rescale": leave, "up.rescale": 1 / self._unit("up/in"), "y_std": g_s.y_std.flatten()}
        found = {name: value.numpy().astype(np.float32) for name, value in floats.items()}
        for name, table in (("log2_gain", log2_gain), ("log2_modulation", g_s.modulation.table / math.log(2))):
            found[name] = torch.round(table.double() * LOG2_UNITS).numpy().astype(np.int32)
        for name in ("up", "head", *(f"{k}/{part}" for k in range(count) for part in PARTS)):
            layer, (unit_in, unit_out) = self._layer(name), self._units_of(name)
            factors, shift = _integers(layer, unit_in, unit_out)
            assert layer.bias is not None
            bias = layer.bias / unit_out
            if name == "head":
                factors, shift, bias = (by_rows(part, 8) for part in (factors, shift, bias))
            found |= _stored(name.replace("/", "."), factors, shift, bias)
        found |= _klt(g_s.klt)
        return {PREFIX + name: value for name, value in found.items()}


def parted(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state of a model as it is without a decoder of its own for training, and that of this decoder, if any."""
    own = {name.removeprefix(DECODER): value for name, value in state.items() if name.startswith(DECODER)}
    return {name: value for name, value in state.items() if not name.startswith(DECODER)}, own


def _limit_of(name: str) -> int:
    return SPATIAL_LIMIT if name.endswith("spatial") else CODE_LIMIT


def _klt(klt: nn.Conv2d) -> dict[str, np.ndarray]:
    """What high bytes of y are multiplied by, and low ones; behind these what high ones of the strongest lack."""
    weight = by_rows(klt.weight[:, :, 0, 0], 16) * 255
    high, shift = _rounded(weight, WEIGHT_LIMIT)
    rest = ((weight * 2.0 ** shift[:, None] - high) * ends.Y_HIGH).round()
    lower = shift + round(math.log2(ends.Y_UNITS))
    bias = (by_rows(klt.bias, 16) + 0.5) * 255  # type: ignore[arg-type]
    return _stored("klt.high", high, lower - round(math.log2(ends.Y_HIGH)), torch.zeros_like(shift)) | _stored(
        "klt.low", torch.cat([high, rest[:, : ends.FINE_CHANNELS]], dim=1), lower, bias
    )


def _stored(name: str, factors: Tensor, shift: Tensor, bias: Tensor) -> dict[str, np.ndarray]:
    width = np.int16 if name.endswith(".spatial") else np.int8
    return {
        f"{name}.weight": factors.numpy().astype(width),
        f"{name}.shift": shift.numpy().astype(np.int8),
        f"{name}.bias": bias.numpy().astype(np.float32),
    }


def _fitted(rows: Tensor, limit: int) -> Tensor:
    """The unit of each channel of rows (n, C): codes reach where the mean squared error is least."""
    rows = rows.float()
    units = rows.abs().amax(0).clamp_min(LEAST) / limit * torch.tensor(CLIPS)[:, None]
    coded = ((rows / unit).round_().clamp_(-limit, limit).mul_(unit) for unit in units)
    errors = torch.stack([found.sub_(rows).square_().mean(0) for found in coded])
    return units.gather(0, errors.argmin(0)[None])[0]


def _integers(layer: nn.Conv2d, unit_in: Tensor, unit_out: Tensor) -> tuple[Tensor, Tensor]:
    """Integer weights (out, in * taps) of a layer from codes to units of what comes out, and shifts (out,)."""
    depthwise = layer.groups > 1
    by_input = unit_in[:, None, None, None] if depthwise else _spread(unit_in)
    weight = (layer.weight * by_input / unit_out[:, None, None, None]).flatten(1)
    return _rounded(weight, SPATIAL_WEIGHT_LIMIT if depthwise else WEIGHT_LIMIT)


def _rounded(weight: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Rows of weight (out, in) times 2^shift, rounded to integers up to `limit`, and shifts (out,)."""
    top = weight.detach().abs().amax(1).clamp_min(1e-30)
    shift = torch.floor(torch.log2(limit / top)).clamp(-MAX_SHIFT, MAX_SHIFT)
    return ste_round(weight * 2.0 ** shift[:, None]), shift


def _spread(x: Tensor) -> Tensor:
    return x.view(1, -1, 1, 1)

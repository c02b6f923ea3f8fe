"""Products of bytes whose every sum is exact, and the codes that go into them.

See `exact`, which says why.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import BitstreamError

CODE_LIMIT, WEIGHT_LIMIT = 127, 127
"""Codes, what goes into a product, and weights are -127 .. 127; as bytes codes are 128 more."""
SPATIAL_LIMIT, SPATIAL_WEIGHT_LIMIT = 2047, 511
"""The same of depth-wise layers."""
SUM_LIMIT = 1 << 24
"""Every integer up to here is a float32."""
GATE_UNITS, GATE_ONE = 16, 256
"""The sigmoid reads its argument in units of 1/16, and is in units of 1/256."""
PLAIN: tuple[Any, ...] = 1.0, 0, torch.float32, "none", [], ""
"""What comes out of a product of bytes: float32, as it is."""
ROUNDING = float(3 * (1 << 22) + 128)
"""There float32 are one apart: adding it rounds, ties to even, and leaves a byte, 128 more, at the end."""


class ByteLinear:
    """weight q / 2^shift + bias of codes q: bytes (..., in) to float32 (..., out).

    Args:
        weight: (out, in) int8.
        shift: (out,) int8, of each row.
        bias: (out,) float32; all else is exact, so that adding it is rounded once, however it is done.

    Raises:
        BitstreamError: shapes that do not fit, or a sum that could leave the exact range of float32.
    """

    def __init__(self, weight: np.ndarray, shift: np.ndarray, bias: np.ndarray, device: torch.device) -> None:
        require_exact(weight, CODE_LIMIT + 1)
        factors, scale = torch.from_numpy(weight).to(device), power(shift).to(device)
        self.scale, self.bias = scale, torch.from_numpy(bias).to(device)
        self.in_bytes = device.type == "cpu" and multiplies_bytes()
        if self.in_bytes:
            self.packed = torch.ops.onednn.qlinear_prepack(factors, None)
            self.zeros = torch.zeros(len(weight), dtype=torch.int64, device="cpu")
            self.product = _byte_product()
        else:
            self.weight = factors.float().t().contiguous()

    def __call__(self, codes: Tensor) -> Tensor:
        if self.in_bytes:
            return self.product(codes, 1.0, 128, self.packed, self.scale, self.zeros, self.bias, *PLAIN)
        return ((codes.float() - 128) @ self.weight).mul_(self.scale).add_(self.bias)


def _byte_product() -> Callable[..., Tensor]:
    found: Callable[..., Tensor] = torch.ops.onednn.qlinear_pointwise.default
    return found


@cache
def multiplies_bytes() -> bool:
    """Whether oneDNN has fast and exact products of bytes here: without VNNI, sums of pairs are cut off at 16 bits."""
    if not getattr(torch.cpu, "_is_vnni_supported", lambda: True)():
        return False
    codes = torch.from_numpy(np.repeat(np.array([0, 255, 1, 254], np.uint8), 4)[:, None].repeat(1024, axis=1))
    factors = torch.from_numpy(np.repeat(np.array([-127, 127, 126, 1], np.int8), 8)[:, None].repeat(1024, axis=1))
    scale = power(np.arange(len(factors)) % 9)
    bias = torch.from_numpy((np.arange(len(factors)) / 3 - 5).astype(np.float32))
    wanted = ((codes.long() - 128) @ factors.long().t() * scale.double() + bias.double()).float()
    try:
        product, packed = _byte_product(), torch.ops.onednn.qlinear_prepack(factors, None)
        zeros = torch.zeros(len(factors), dtype=torch.int64, device="cpu")
        parts = codes, codes[:1], codes[5:6]
        found = [product(part, 1.0, 128, packed, scale, zeros, bias, *PLAIN) for part in parts]
    except (AttributeError, RuntimeError):  # a torch without this operator, or one that it refuses here
        return False
    return all(map(torch.equal, found, (wanted, wanted[:1], wanted[5:6])))


def entered(x: Tensor, rescale: Tensor) -> Tensor:
    """The bytes of x (..., C), which changes to units in which photos stay within 127, and is held there."""
    return x.mul_(rescale).clamp_(-CODE_LIMIT, CODE_LIMIT).add(ROUNDING).view(torch.int32).to(torch.uint8)


def coded(x: Tensor) -> Tensor:
    """The bytes of x, which is overwritten: round(x) + 128 as uint8."""
    return x.clamp_(-CODE_LIMIT, CODE_LIMIT).add_(ROUNDING).view(torch.int32).to(torch.uint8)


def gate(v: Tensor) -> Tensor:
    """256 times the sigmoid of v / 16, rounded, of whole numbers v, which are overwritten.

    No value is closer to a tie than 0.003.
    """
    return v.mul_(1 / GATE_UNITS).sigmoid_().mul_(GATE_ONE).round_()


def power(shift: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ldexp(np.float32(1), -shift.astype(np.int32)))


def require_exact(weight: np.ndarray, limit: int) -> None:
    """Raises BitstreamError unless every sum of `weight` times codes up to `limit` is exact."""
    if (np.abs(weight.astype(np.int64)).sum(1) * limit).max() >= SUM_LIMIT:
        raise BitstreamError("weights: g_s does not fit exact arithmetic; the file is damaged or foreign")

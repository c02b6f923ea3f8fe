"""`learned.slopes` in bytes: the picture is the decoder's own, and the way back is products of bytes, too."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned.byte_rows import ByteProduct, packed
from pipeline.codecs.learned.rows import depthwise, gathered, matrix, product
from pipeline.codecs.learned.slopes import Back, ByHand
from pipeline.codecs.learned.steps import Steps
from pipeline.codecs.learned.synthesis import Synthesis
from pipeline.nn.bytewise import bytewise
from pipeline.nn.codes import GATE_ONE
from pipeline.nn.exact import PREFIX, TAPE_OF_GATES, TAPE_OF_SPREAD, ExactSynthesis, Tape
from pipeline.nn.layers import by_rows, patches
from pipeline.nn.parted import over_rows, strips
from pipeline.nn.transforms import SynthesisTransform

LEVELS = 255


class BackBlock:
    """The way back through the k-th block of `exact.ExactSynthesis`; rounding and limits let slopes pass."""

    def __init__(self, made: ModuleType, arrays: Mapping[str, np.ndarray], k: int) -> None:
        self.made = made
        expand, project, gate, merge = (
            factors_of(arrays, f"{k}.{layer}").t() for layer in ("expand", "project", "gate", "merge")
        )
        # What comes into a product is told in units that make columns alike: some are a thousand times as large.
        of_expand, of_gate = (weight.square().mean(0).sqrt_().clamp_min_(1e-12) for weight in (expand, gate))
        self.expand, self.gate = ByteProduct(expand / of_expand), ByteProduct(gate / of_gate)
        self.project, self.merge = ByteProduct(project), ByteProduct(merge)
        of_u, of_v = of_gate.chunk(2)
        of_u, of_v = of_u * (GATE_ONE / TAPE_OF_GATES[0]), of_v / TAPE_OF_GATES[1]
        self.of_expand, self.of_gate = of_expand.numpy(), torch.cat([of_u, of_v]).numpy()
        spread = torch.from_numpy(arrays[f"{PREFIX}{k}.spatial.rescale"]) * (GATE_ONE / TAPE_OF_SPREAD)
        self.kernel = factors_of(arrays, f"{k}.spatial").view(-1, 1, 3, 3).flip(2, 3) * spread[:, None, None, None]
        self.rescale = arrays[f"{PREFIX}{k}.rescale"].copy()
        self.one = np.ones_like(self.rescale)

    def __call__(self, slope: Tensor, codes: Tensor, units: Tensor, tape: Tape, height: int) -> None:
        """`slope` (h w, C) over what leaves, its bytes and their units (n,), to those over what entered; in place."""
        made, over = self.made, torch.empty_like(slope)
        rows, bytes_of, unit_of = slope.numpy(), codes.numpy(), units.numpy()
        for strip in strips(len(rows)):
            own, unit, read = bytes_of[strip], unit_of[strip], codes[strip]
            inner = np.empty((len(own), 4 * own.shape[1]), np.uint8)
            taped = self.merge(read), tape.gates[strip], tape.of_gates[strip]
            over_rows(made.gate_back, (*taped, inner, unit), self.of_gate)
            over_rows(made.plus, (rows[strip], self.gate(torch.from_numpy(inner)), own, unit), self.one)
            torch.mul(self.project(read), units[strip, None], out=over[strip])
        seen = depthwise(over, self.kernel, None, height).numpy()
        for strip in strips(len(rows)):
            own, unit, read = bytes_of[strip], unit_of[strip], codes[strip]
            over_rows(made.silu_back, (seen[strip], tape.of_spread[strip], own, unit), self.of_expand)
            over_rows(made.plus, (rows[strip], self.expand(read), own, unit), self.rescale)


class InBytes:
    """As `slopes.ByHand`, for a decoder in integers on a CPU that multiplies bytes."""

    def __init__(
        self, made: ModuleType, g_s: SynthesisTransform, exact: ExactSynthesis, arrays: Mapping[str, np.ndarray]
    ) -> None:
        self.made, self.exact, self.y_std = made, exact, g_s.y_std.float().flatten()
        of_pixels = by_rows(matrix(g_s.klt)[0].float(), 16)
        self.klt_alone = ByteProduct(of_pixels.t())
        # Back from what the head comes back from: 16 x 16 px as four patches of 8 x 8.
        quarters = of_pixels.unflatten(0, (2, 8, 2, 24)).transpose(1, 2).flatten(0, 3)
        self.klt = quarters.t().contiguous()
        up = factors_of(arrays, "up").unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)
        self.up = ByteProduct(up.t() * torch.from_numpy(arrays[f"{PREFIX}up.rescale"])[:, None])
        self.head = ByteProduct(factors_of(arrays, "head").t() / LEVELS)
        self.leave = arrays[f"{PREFIX}head.rescale"].copy()
        self.blocks = [BackBlock(made, arrays, k) for k in range(len(exact.blocks))]

    def __call__(self, y_hat: Tensor, steps: Steps, linear: bool) -> tuple[Tensor, Back]:
        """As `slopes.ByHand`."""
        if linear:
            picture = self.exact(y_hat, steps.centi).mul_(1 / LEVELS)
            return picture.permute(2, 0, 1)[None], self._by_klt
        channels, height, width = y_hat.shape
        tapes = list[Tape]()
        picture = self.exact(y_hat, steps.centi, tapes).mul_(1 / LEVELS)
        place = (y_hat / steps.gain[0]).permute(1, 2, 0).reshape(-1, channels).div_(self.y_std)
        *_, factor = self.exact.factors(steps.centi)

        def back(over_x: Tensor) -> Tensor:
            over = patches(over_x, 8).permute(0, 2, 3, 1).reshape(4 * height * width, -1)
            codes, units = packed(self.made, over)
            found = self.head(codes)
            slope, codes = torch.zeros_like(found), codes.new_empty(found.shape)
            over_rows(self.made.plus, (slope, found, codes, units), self.leave)
            for block in reversed(self.blocks):
                block(slope, codes, units, tapes.pop(), 2 * height)
            of_h = gathered(slope, height).flatten(0, 1).mul_(factor.view(-1, 1, factor.shape[-1]))
            codes, units = packed(self.made, of_h.view(height * width, -1))
            found = self.up(codes).mul_(units[:, None])
            found.mul_(place.square().add_(1).rsqrt_()).div_(self.y_std)
            found.add_(product(gathered(over, height).view(height * width, -1), self.klt))
            return found.view(1, height, width, channels).permute(0, 3, 1, 2)

        return picture.permute(2, 0, 1)[None], back

    def _by_klt(self, over_x: Tensor) -> Tensor:
        over = patches(over_x, 16).permute(0, 2, 3, 1)
        codes, units = packed(self.made, over.flatten(0, 2))
        return self.klt_alone(codes).mul_(units[:, None]).view(*over.shape[:3], -1).permute(0, 3, 1, 2)


def fastest(
    synthesis: Synthesis, arrays: Mapping[str, np.ndarray], dtype: torch.dtype, made: ModuleType | None
) -> ByHand | InBytes:
    """In bytes where a decoder is one of integers and what that takes is `made`; else in floats."""
    if made is None or synthesis.exact is None or bytewise() is None:
        return ByHand(synthesis.g_s, dtype)
    return InBytes(made, synthesis.g_s, synthesis.exact, arrays)


def factors_of(arrays: Mapping[str, np.ndarray], layer: str) -> Tensor:
    """(out, in) float32: what the integers of a layer stand for."""
    weight, shift = arrays[f"{PREFIX}{layer}.weight"], arrays[f"{PREFIX}{layer}.shift"]
    return torch.from_numpy(np.ldexp(weight.astype(np.float32), -shift.astype(np.int32)[:, None]))

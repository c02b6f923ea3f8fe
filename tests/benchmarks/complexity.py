"""kMAC per pixel of a packaged model: what one pixel costs on each side, counted and not estimated.

Hooks on every convolution of g_a, h_a and g_s count what really ran; the integer h_s is counted layer by layer.
Multiplications inside a convolution or matrix product count, activations and gains do not, as in published tables.

    python -m tests.benchmarks.complexity [--model ID]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.codecs.learned import weights
from pipeline.nn import integer
from pipeline.nn.complexity import macs
from pipeline.nn.freeze import FrozenTransforms
from pipeline.nn.spec import HyperpriorSpec
from tests.benchmarks.conditions import conditions, table

SIDE_PX = 256


@dataclass(frozen=True)
class Complexity:
    """kMAC per pixel of each network. h_s runs on both sides: the encoder, too, must know the tables."""

    g_a: float
    h_a: float
    g_s: float
    h_s: float

    @property
    def encoder(self) -> float:
        return self.g_a + self.h_a

    @property
    def decoder(self) -> float:
        return self.g_s + self.h_s


@torch.inference_mode()
def complexity_of(model: weights.FrozenModel, side_px: int = SIDE_PX) -> Complexity:
    """Counted on one square picture of `side_px`, a multiple of 64, so that nothing is padded."""
    transforms = FrozenTransforms(HyperpriorSpec(**model.spec), dict(model.arrays))
    quality, pixels = torch.tensor([0.5]), side_px**2
    y = torch.zeros(1, model.spec["latent"], side_px // 16, side_px // 16)
    z = np.zeros((model.spec["hyper"], side_px // 64, side_px // 64))
    return Complexity(
        g_a=macs(transforms.g_a, torch.zeros(1, 3, side_px, side_px), quality) / pixels / 1e3,
        h_a=macs(transforms.h_a, y) / pixels / 1e3,
        g_s=macs(transforms.g_s, y, quality) / pixels / 1e3,
        h_s=_integer_macs(model.h_s, z) / pixels / 1e3,
    )


@dataclass(frozen=True)
class _Counted:
    """An integer layer that notes its multiply-accumulates."""

    layer: integer.IntegerLayer
    counted: list[int]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.counted.append(self.layer.weight.size * x.shape[1] * x.shape[2])
        return np.asarray(self.layer(x))

    narrow = __call__


def _integer_macs(h_s: integer.IntegerHyperSynthesis, z: np.ndarray) -> int:
    counted: list[int] = []
    integer.IntegerHyperSynthesis(tuple(_Counted(layer, counted) for layer in h_s.layers), h_s.compression)(z)  # type: ignore[misc]
    return sum(counted)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.complexity", description=__doc__)
    parser.add_argument("--model", default=None, help="id of a packaged model; the default one when left out")
    model = weights.packaged_model(parser.parse_args(words).model or weights.default_model_id())
    found = complexity_of(model)
    floats = sum(array.size for name, array in model.arrays.items() if not name.startswith("tables."))
    print(f"Model {model.model_id}: {floats / 1e6:.2f} M parameters\n")
    rows = {"g_a": found.g_a, "h_a": found.h_a, "encoder (g_a + h_a)": found.encoder}
    rows |= {"g_s": found.g_s, "h_s, integer": found.h_s, "decoder (g_s + h_s)": found.decoder}
    rows["encoder that also runs h_s"] = found.encoder + found.h_s
    print(table({"network": name, "kMAC/px": f"{value:.2f}"} for name, value in rows.items()))
    used = f"does not matter; one {SIDE_PX} x {SIDE_PX} px picture of zeros"
    print(f"\n{conditions('tests.benchmarks.complexity', words, 'any', used)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What learns how: matrices by Muon, everything else by AdamW.

Muon (Jordan et al., 2024) orthogonalises the momentum of a matrix, so that all its directions learn alike. The codec is
nearly all 1x1 convolutions, which are matrices, and reaches the same loss in fewer steps at next to no cost (see
LOG.md). The KLT, depth-wise filters, biases and tables stay with AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.muon import Muon

# At the full rate gains run away and linear starts dissolve, or what they were fitted to does; the others have many or
# large inputs, so that the same step moves their output further.
SCALES = {
    "g_a.features.": 0.1,
    "g_a.out.": 0.02,
    "g_a.squeeze.": 0.01,
    "log2_gain.": 0.1,
    "modulation.": 0.1,
    ".klt.": 0.02,
    "h_s.": 0.5,
}


def share_of_peak(step: int, warmup_steps: int, progress: float) -> float:
    """Of the peak learning rate, before `step`: a linear warm-up, then a cosine to zero at a `progress` of 1."""
    return min(1.0, (step + 1) / warmup_steps) * 0.5 * (1 + math.cos(math.pi * progress))


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter maps channels to channels: (out, in, kh, kw) with in > 1, linear starts excepted."""
    linear = ".klt." in name or name.startswith(("g_a.out.", "g_a.squeeze."))
    return parameter.ndim == 4 and parameter.shape[1] > 1 and not linear


def groups(parameters: Iterable[tuple[str, nn.Parameter]], scale: float = 1.0) -> list[dict[str, Any]]:
    """Parameter groups by learning rate; `scale` times the one in SCALES is kept under "scale"."""
    found: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters:
        found.setdefault(next((s for part, s in SCALES.items() if part in name), 1.0), []).append(parameter)
    return [{"params": members, "scale": s * scale} for s, members in found.items()]


class Optimizer:
    """Muon and AdamW behind the few methods the loop calls; `set_lr` takes AdamW's learning rate.

    The model must be in channels_last memory format. `resident` keeps learning rates and counts of steps on the GPU
    that the model is on, where a CUDA graph reads them.
    """

    def __init__(
        self, model: nn.Module, matrix_lr_scale: float, muon: bool = True, resident: torch.device | None = None
    ) -> None:
        self.resident = resident
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        # Muon wants two dimensions. These parameters share the storage of the model's own, which is channels_last.
        self.matrices = [
            (p, nn.Parameter(p.data.permute(0, 2, 3, 1).view(len(p), -1))) for n, p in named if muon and is_matrix(n, p)
        ]
        by_muon = {id(p) for p, _ in self.matrices}
        flat = [(n, q) for (n, _), (_, q) in zip([m for m in named if id(m[1]) in by_muon], self.matrices, strict=True)]
        self.muon = Muon(groups(flat, matrix_lr_scale)) if muon else None
        rest = [m for m in named if id(m[1]) not in by_muon]
        self.adamw = torch.optim.AdamW(groups(rest), weight_decay=0.0, betas=(0.9, 0.995))
        self._settle()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return (self.muon.param_groups if self.muon else []) + self.adamw.param_groups

    def _settle(self) -> None:
        """Rates and counts where they belong; a checkpoint may come from another device."""
        on_gpu = self.resident is not None
        for group in self.param_groups:
            rate = float(group["lr"])
            group["lr"] = torch.tensor(rate, device=self.resident) if on_gpu else rate
            group["rate"] = torch.tensor(rate, device=self.resident) if on_gpu else rate
        for group in self.adamw.param_groups:
            group["capturable"] = group["fused"] = on_gpu
        for state in self.adamw.state.values():
            state["step"] = state["step"].to(self.resident or "cpu")

    def set_lr(self, lr: float) -> None:
        for group in self.param_groups:
            if self.resident:
                group["rate"].fill_(lr * group["scale"])
            else:
                group["lr"] = lr * group["scale"]

    def gate(self, open_: Tensor) -> None:
        """Let the next step move parameters or not, by a boolean on the device; only where rates are resident."""
        for group in self.param_groups if self.resident else ():
            group["lr"].copy_(group["rate"] * open_)

    def zero_grad(self) -> None:
        self.adamw.zero_grad()
        for parameter, _ in self.matrices:
            parameter.grad = None

    def step(self) -> None:
        for parameter, matrix in self.matrices:
            matrix.grad = None if parameter.grad is None else parameter.grad.permute(0, 2, 3, 1).reshape(matrix.shape)
        if self.muon:
            self.muon.step()
        self.adamw.step()

    def tensors(self) -> list[Tensor]:
        """All that `step` changes beside the parameters, once it has been called."""
        optimizers = [self.adamw, *([self.muon] if self.muon else [])]
        return [each for one in optimizers for state in one.state.values() for each in state.values()]

    def state_dict(self) -> dict[str, Any]:
        muon = {"muon": self.muon.state_dict()} if self.muon else {}
        return muon | {"adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.muon:
            self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
        self._settle()

"""Muon (Jordan et al., 2024) that orthogonalises all matrices of a shape at once.

`torch.optim.Muon` takes them one by one, some thousand tiny products a step, which is most of a step on a GPU, and
reads its learning rate on the host, which no CUDA graph can. The update is the same.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)
STEPS = 5


class Muon(torch.optim.Optimizer):
    """For matrices alone; learning rates, numbers or tensors, are those of AdamW (`match_rms_adamw`)."""

    def __init__(self, params: Any, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": 1e-3, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            alike = defaultdict[torch.Size, list[Tensor]](list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for shape, matrices in alike.items():
                updates = orthogonalised(torch.stack(self._momenta(matrices, group["momentum"])))
                updates = updates.float() * (-0.2 * math.sqrt(max(shape)) * group["lr"])
                torch._foreach_add_(matrices, list(updates.unbind()))

    def _momenta(self, matrices: list[Tensor], momentum: float) -> list[Tensor]:
        """Nesterov's look ahead, of each matrix."""
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        buffers = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, buffers, momentum))


def orthogonalised(matrices: Tensor) -> Tensor:
    """(B, m, n) to bf16 matrices of the same singular vectors, all values near 1: five steps of Newton and Schulz."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x

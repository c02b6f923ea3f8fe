"""Several processes training one model: each takes its slice of every batch, and gradients are averaged.

All draw the same crops and the same noise from the same seeds, so that two workers take the step that one would have
taken with the whole batch, but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline.errors import TrainingError


class Group:
    """The processes of torch.distributed, or this one alone."""

    def __init__(self) -> None:
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if together else 0
        self.world = torch.distributed.get_world_size() if together else 1

    def own(self, count: int) -> slice:
        """This process's part of a batch. Raises TrainingError unless it divides evenly."""
        if count % self.world:
            raise TrainingError(f"run.batch: {count} pictures do not divide among {self.world} workers; change either")
        each = count // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over all processes."""
        if self.world > 1:
            found = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([grad.flatten() for grad in found])
            torch.distributed.all_reduce(flat)
            for grad, mean in zip(found, (flat / self.world).split([g.numel() for g in found]), strict=True):
                grad.copy_(mean.view_as(grad))

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.world > 1:
            torch.distributed.all_reduce(value)
            value /= self.world
        return value

    def firsts(self, value: float) -> float:
        """What the first process has; clocks differ, and schedules must not."""
        if self.world == 1:
            return value
        held = torch.tensor([value], dtype=torch.float64)
        if torch.distributed.get_backend() == "nccl":
            held = held.cuda()
        torch.distributed.broadcast(held, 0)
        return float(held)

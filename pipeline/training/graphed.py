"""The training step on a GPU: a CUDA graph, so that the host does nothing but draw crops.

A step is some thousand kernels of a few microseconds, and launching them takes longer than running them. Nothing in
here waits for the GPU, except every `LOOK_STEPS` steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.errors import TrainingError
from pipeline.nn.spec import SuperresSpec
from pipeline.training import losses

if TYPE_CHECKING:
    from pipeline.training.loop import Trainer

LOOK_STEPS, SNAPSHOT_STEPS, EAGER_STEPS = 50, 500, 3


def fits(trainer: Trainer) -> bool:
    """Whether a step asks nothing of the host: codecs trained for MSE, in one process, without an adversary."""
    alone = trainer.group.world == 1 and trainer.adversary is None
    return alone and trainer.distortion is losses.mse and not isinstance(trainer.spec.model, SuperresSpec)


class GraphedStep:
    """The step of `Trainer.train_step`, for what a graph can hold (`fits`); on a CPU it runs without one.

    A step whose gradient is not finite, or far outside the running norm, moves nothing but momentum. When many are
    like that, the weights of 500 to 1,000 steps ago come back, a third slower.

    Raises:
        TrainingError: it goes wrong from the start.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, device = trainer, trainer.device
        counters = (trainer.norm_mean, trainer.step, trainer.skipped)
        self.norm_mean, self.steps, self.skipped = (torch.tensor(float(x), device=device) for x in counters)
        self.parameters = [p for p in trainer.model.parameters() if p.requires_grad]
        state = {name: x for name, x in trainer.model.state_dict().items() if x.is_floating_point()}
        self.weights, self.averages = list(state.values()), [trainer.ema.weights[name] for name in state]
        self.names: tuple[str, ...] = ()
        self.snapshots: list[list[Tensor]] = []
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, Tensor] | None = None
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.eager_left = EAGER_STEPS

    def __call__(self, x: Tensor, quality: Tensor) -> dict[str, float]:
        """One step on x (B, 3, H, W) uint8 and quality (B,); what it cost, every `LOOK_STEPS` steps, else nothing."""
        means = self._step(x, quality)
        trainer = self.trainer
        trainer.step += 1
        if trainer.step % LOOK_STEPS:
            return {}
        found = dict(zip(self.names, means.tolist(), strict=True))
        skipped, trainer.skipped = trainer.skipped, int(self.skipped.item())
        trainer.norm_mean = self.norm_mean.item()
        self._look_after(math.isfinite(found["loss"]) and trainer.skipped - skipped < LOOK_STEPS // 5)
        return {name: round(value, 4) for name, value in found.items()} | {
            "lr": round(trainer.learning_rate(), 6), "skipped": trainer.skipped, "lr_scale": round(trainer.lr_scale, 3)
        }  # fmt: skip

    def _step(self, x: Tensor, quality: Tensor) -> Tensor:
        if self.stream is None:
            return self.update(x, quality)
        if self.inputs is None or self.inputs[0].shape != x.shape:
            self.graph, self.eager_left, self.inputs = None, EAGER_STEPS, (x.clone(), quality.clone())
        for held, new in zip(self.inputs, (x, quality), strict=True):
            held.copy_(new)
        if self.graph is None:
            return self._before_capture()
        self.graph.replay()
        return self.means

    def _before_capture(self) -> Tensor:
        """A step kernel by kernel, on the stream that is captured next; the last of these is captured after it."""
        assert self.stream is not None
        assert self.inputs is not None
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            means = self.update(*self.inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        self.eager_left -= 1
        if self.eager_left == 0:
            graph = torch.cuda.CUDAGraph()
            self.trainer.optimizer.zero_grad()
            with torch.cuda.graph(graph, stream=self.stream):
                self.means = self.update(*self.inputs)
            self.graph = graph
        return means

    def update(self, x: Tensor, quality: Tensor) -> Tensor:
        """Forward, backward, clipping, optimizer and average: loss, its parts and the gradient norm, see `names`."""
        trainer = self.trainer
        picture = x.float().div_(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(trainer.device.type, torch.bfloat16):
            loss, parts, _ = trainer._loss(picture, quality)
        trainer.optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        usual = torch.isfinite(norm) & ((self.steps < 200) | (norm <= 10 * self.norm_mean))
        scale = torch.where(usual, (trainer.spec.clip_norm / (norm + 1e-6)).clamp(max=1), 0)
        torch._foreach_mul_(gradients, scale)
        for gradient in gradients:
            gradient.masked_fill_(~usual, 0)  # 0 times infinity is no number
        trainer.optimizer.gate(usual)
        trainer.optimizer.step()
        decay = ((1 + self.steps) / (10 + self.steps)).clamp_max(trainer.spec.ema_decay)
        moved = torch._foreach_sub(self.weights, self.averages)
        torch._foreach_mul_(moved, 1 - decay)
        torch._foreach_add_(self.averages, moved)
        self.norm_mean.lerp_(torch.where(usual, norm, self.norm_mean), 0.02)
        self.skipped.add_(~usual)
        self.steps.add_(1)
        self.names = ("loss", *parts, "norm")
        return torch.stack([loss.detach(), *(each.mean() for each in parts.values()), norm]).float()

    def _look_after(self, healthy: bool) -> None:
        """Keep what is healthy, and go back to it when it is not."""
        held = self.weights + self.averages + self.trainer.optimizer.tensors() + [self.norm_mean]
        if not healthy and not self.snapshots:
            raise TrainingError(f"step {self.trainer.step}: the loss is lost from the start; give a lower run.lr")
        if not healthy:
            torch._foreach_copy_(held, self.snapshots[0])
            self.snapshots = self.snapshots[:1]
            self.trainer.lr_scale *= 2 / 3
        elif not self.snapshots or self.trainer.step % SNAPSHOT_STEPS == 0:
            self.snapshots = [*self.snapshots, [each.clone() for each in held]][-2:]

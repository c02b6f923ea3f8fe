"""A classifier whose answers are known before it is asked."""

from __future__ import annotations

import torch

from pipeline.nn.vision import torchvision


def strongest_channel(classes: int = 4) -> torch.nn.Module:
    """squeezenet1_1 with generated weights: its class is the strongest of red, green and blue in the middle."""
    model = torchvision().models.get_model("squeezenet1_1", num_classes=classes)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.features[0].weight.data[:3] = torch.eye(3)[:, :, None, None] / 9
    for module in model.features.children():
        if hasattr(module, "squeeze"):
            channels = min(3, module.squeeze.weight.shape[0])
            module.squeeze.weight.data[range(channels), range(channels)] = 1
            module.expand1x1.weight.data[range(channels), range(channels)] = 1
    model.classifier[1].weight.data[range(3), range(3)] = 1
    network: torch.nn.Module = model.eval()
    return network

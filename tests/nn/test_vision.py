"""Torchvision's classifiers from weights of one's own, whatever build of torchvision is installed."""

from __future__ import annotations

import io

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.errors import ConfigError
from pipeline.nn.vision import Classifier, torchvision
from tests.nn.made import strongest_channel


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return strongest_channel(3)


def picture(channel: int, height: int = 300, width: int = 400) -> np.ndarray:
    rgb = np.full((height, width, 3), 140, np.uint8)
    rgb[..., channel] = 250
    return rgb


def test_the_strongest_channel_wins(network):
    classifier = Classifier("squeezenet1_1", safetensors.torch.save(network.state_dict()), "cpu")
    assert [classifier.top1(picture(channel)) for channel in range(3)] == [0, 1, 2]


def test_torch_files_are_read_without_pickled_code(network):
    sink = io.BytesIO()
    torch.save(network.state_dict(), sink)
    assert Classifier("squeezenet1_1", sink.getvalue(), "cpu").top1(picture(2)) == 2


@pytest.mark.parametrize("size", [(333, 517), (300, 500), (375, 500), (777, 601), (256, 256)])
def test_preprocessing_is_that_of_torchvision(network, size):
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    classifier, seen = Classifier("squeezenet1_1", safetensors.torch.save(network.state_dict()), "cpu"), []
    classifier.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    classifier.top1(rgb)
    torchvision()
    from torchvision.transforms import v2

    statistics = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    usual = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224), statistics])
    expected = usual(torch.from_numpy(rgb).permute(2, 0, 1).float() / 255)[None]
    assert seen[0].shape == expected.shape
    assert float((seen[0] - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (5, 900), (900, 5)])
def test_any_size_can_be_classified(network, size):
    classifier = Classifier("squeezenet1_1", safetensors.torch.save(network.state_dict()), "cpu")
    assert classifier.top1(np.zeros((*size, 3), np.uint8)) in range(3)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("squeezenet", None, "did you mean 'squeezenet"),
        ("squeezenet1_1", b"rubbish", "not a state dict"),
        ("squeezenet1_1", safetensors.torch.save({"a": torch.zeros(2)}), "do not fit"),
    ],
)
def test_what_does_not_fit_is_told(name, data, said):
    with pytest.raises(ConfigError, match=said):
        Classifier(name, data, "cpu")

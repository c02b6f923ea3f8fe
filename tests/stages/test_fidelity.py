"""Where labels come from, and a classifier at work on what codecs make of pictures."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from pipeline.errors import ConfigError
from pipeline.nn.vision import torchvision
from pipeline.stages.fidelity import Fidelity
from tests.stages.pictures import smooth, source_of

NAMES = {"cat": 0, "n02": 1}


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [(r"n\d+", "n02_dog.jpg", 1), (r"(\w+)-", "cat-17.jpg", 0), (r"n\d+", "n77.jpg", None), (r"n\d+", "x.jpg", None)],
)
def test_labels_from_names(pattern, name, expected):
    assert Fidelity("resnet18", label_pattern=pattern).label_of(source_of(b"", name), NAMES) == expected


@pytest.mark.parametrize(
    ("value", "names", "expected"), [(7, {}, 7), ("7", {}, 7), (b"cat", NAMES, 0), ("x", NAMES, None)]
)
def test_labels_from_a_column(value, names, expected):
    assert Fidelity("resnet18", label_column="cls").label_of(source_of(b"", cls=value), names) == expected


def test_without_either_nothing_is_known():
    assert Fidelity("resnet18").label_of(source_of(b""), NAMES) is None


def test_a_task_is_built_from_files(tmp_path):
    torch.manual_seed(0)
    network = torchvision().models.get_model("squeezenet1_1", num_classes=3)
    weights, classes = tmp_path / "w.safetensors", tmp_path / "classes.txt"
    weights.write_bytes(safetensors.torch.save({k: v.half() for k, v in network.state_dict().items()}))
    classes.write_text("cat\ndog\nbird\n")
    task = Fidelity("squeezenet1_1", str(weights), str(classes), r"^[a-z]+").task("cpu")
    assert task.classify(smooth()) in range(3)
    assert task.label_of(source_of(b"", "dog-1.jpg")) == 1


def test_the_classes_of_imagenet_are_known_by_name():
    fidelity = Fidelity("squeezenet1_1", classes="imagenet", label_pattern=r"n\d{8}_(.+)\.")
    names = fidelity._names()
    assert len(names) == 1000
    assert fidelity.label_of(source_of(b"", "n01440764_tench.JPEG"), names) == 0
    assert fidelity.label_of(source_of(b"", "n01601694_water_ouzel.JPEG"), names) == 20
    assert fidelity.label_of(source_of(b"", "n01601694_unicorn.JPEG"), names) is None
    column = Fidelity("squeezenet1_1", classes="imagenet", label_column="cls")
    assert column.label_of(source_of(b"", cls="water ouzel"), names) == 20


def test_an_empty_list_of_classes_is_an_error(tmp_path):
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        Fidelity("squeezenet1_1", classes=str(tmp_path / "classes.txt"))._names()

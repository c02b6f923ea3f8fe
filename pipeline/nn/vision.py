"""Torchvision's classifiers, with or without its compiled half.

With a CPU build of torch the compiled part of the torchvision wheel does not load, and `import torchvision` stops at
`operator torchvision::nms does not exist`. Two operator schemas, defined first, let its Python part (models,
transforms, feature extraction) work; where torchvision is whole nothing is touched.
"""

from __future__ import annotations

import difflib
import io
from typing import Any

import numpy as np
import torch

from pipeline.errors import ConfigError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_held: list[Any] = []  # a library's definitions go when it is collected


def torchvision() -> Any:
    """The module `torchvision`, importable whatever build is installed."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            library.define(schema)
        _held.append(library)
        import torchvision
    return torchvision


class Classifier:
    """A torchvision classification network; `weights` are the bytes of a state dict, None for torchvision's own.

    A .safetensors or a torch file is read, the latter with `weights_only`. Raises ConfigError for an unknown
    network, weights that do not fit it, or when torchvision's own cannot be fetched.
    """

    def __init__(self, network: str, weights: bytes | None, device: str = "auto") -> None:
        name = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
        self.device = torch.device(name)
        self.model = _network(network, weights).eval().to(self.device)
        # The network's own preset, and not the same thing by hand: one row of pixels more or less from another
        # rounding of sizes turned 3 of 100 answers of squeezenet1_1, which is why it read 62 where its card says 65.
        own = torchvision().models.get_model_weights(network)
        self.prepare = (own.DEFAULT if weights is None else next(iter(own))).transforms()

    @torch.inference_mode()
    def top1(self, rgb: np.ndarray) -> int:
        """The likeliest class of (H, W, 3) uint8 pixels, resized, cropped and normalised as torchvision does it."""
        x = torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device).permute(2, 0, 1).float() / 255
        return int(self.model(self.prepare(x)[None]).argmax(1))


def class_names(network: str) -> list[str]:
    """ImageNet's 1000 classes in the order of torchvision's own weights of `network`, in words: "water ouzel"."""
    own = torchvision().models.get_model_weights(network)
    return [str(name) for name in next(iter(own)).meta["categories"]]


def _network(name: str, weights: bytes | None) -> Any:
    models = torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known[:8])} ..."
        raise ConfigError(f"fidelity.network: torchvision has no {name!r}; {hint}")
    if weights is None:
        try:
            return models.get_model(name, weights="DEFAULT")
        except OSError as error:
            raise ConfigError(
                f"fidelity.weights: torchvision could not fetch its own for {name} ({error}); name a local file or URI"
            ) from error
    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in state_of(weights, "fidelity.weights").items()
    }
    try:
        network = models.get_model(name, num_classes=_class_count(state, models.get_model(name).state_dict()))
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ConfigError(f"fidelity.weights: they do not fit {name} ({first}); expected its state dict") from error
    return network


def state_of(data: bytes, key: str) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors or a torch file, the latter read with `weights_only`.

    Raises:
        ConfigError: neither; `key` is the setting that named it.
    """
    import pickle

    import safetensors.torch

    try:
        if data[:2] == b"PK" or data[:1] == b"\x80":
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return dict(found)
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, TypeError) as error:
        first = (str(error).splitlines() or ["no message"])[0]
        raise ConfigError(f"{key}: not a state dict ({first}); expected a .safetensors or a torch file") from error


def _class_count(state: dict[str, torch.Tensor], usual: dict[str, torch.Tensor]) -> int:
    """Rows of the last layer, by the name it has in a network of the usual 1000 classes."""
    last = [name for name, value in usual.items() if value.ndim >= 2][-1]
    return int(state[last].shape[0]) if last in state else 1000

"""Where a classifier's weights come from: torchvision, a file, any store that fsspec reads; pinned by SHA-256.

Files are .safetensors or torch files, the latter read with `weights_only`.
"""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from pipeline.errors import ConfigError, StorageError
from pipeline.nn.backbone import Backbone
from pipeline.nn.vision import state_of, torchvision
from pipeline.training.spec import BackboneSpec

NONE, DEFAULT = "none", "default"


def load(backbone: Backbone, network: str, spec: BackboneSpec) -> dict[str, Any]:
    """Fill a backbone and tell where its weights came from: {"weights": ..., "sha256": ...}, for a model card.

    Raises:
        ConfigError: they cannot be fetched, are not those that `sha256` pins, or do not fit.
    """
    if spec.weights == NONE:
        return {"network": network, "weights": NONE}
    origin: dict[str, Any] = {"network": network, "weights": spec.weights}
    if spec.weights == DEFAULT or _is_name(spec.weights):
        backbone.load(_torchvisions_own(network, spec.weights))
        return origin
    data = _read(spec.weights, network)
    found = hashlib.sha256(data).hexdigest()
    if spec.sha256 is not None and found != spec.sha256.lower():
        raise ConfigError(
            f"run.backbone.weights {spec.weights}: SHA-256 is {found}; run.backbone.sha256 expects {spec.sha256}; "
            "fetch the file again, or correct the pin"
        )
    backbone.load(state_of(data, "run.backbone.weights"))
    # The name of the file is enough; where it lay on one machine is no part of a model.
    return origin | {"weights": spec.weights.rpartition("/")[2], "sha256": found}


def _is_name(weights: str) -> bool:
    return "_Weights." in weights and "/" not in weights


def _torchvisions_own(network: str, name: str) -> dict[str, Tensor]:
    models = torchvision().models
    try:
        chosen = models.get_model_weights(network).DEFAULT if name == DEFAULT else models.get_weight(name)
    except ValueError as error:
        raise ConfigError(f"run.backbone.weights: torchvision has no {name!r} ({error}); try {DEFAULT!r}") from error
    try:
        state: dict[str, Tensor] = chosen.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise ConfigError(
            f"run.backbone.weights: {chosen} could not be fetched ({error}); on a machine with a network download "
            f"{chosen.url} and give its path as run.backbone.weights"
        ) from error
    return state


def _read(uri: str, network: str) -> bytes:
    from pipeline import storage

    try:
        return storage.read_bytes(uri)
    except StorageError as error:
        raise ConfigError(
            f"run.backbone.weights: {error}; expected a state dict of {network}, {DEFAULT!r}, {NONE!r} "
            "or a name such as VGG16_Weights.IMAGENET1K_V1"
        ) from error

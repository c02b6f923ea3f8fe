"""Pictures back larger than they were: super-resolvers as frozen files, and `restore` for plain pictures.

A super-resolver works on pixels, whichever codec decoded them, so it outlives models of the codec. Its file is
safetensors with an id from its SHA-256 and a card, like those of the codecs, in a folder of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.weights_checks import MALFORMED, spec_of
from pipeline.errors import BitstreamError, ConfigError, PipelineError
from pipeline.nn.spec import SuperresSpec

if TYPE_CHECKING:
    from pipeline.codecs.learned.enlarging import Enlarger

FOLDER = resources.files("pipeline.codecs.learned") / "superres_weights"
CLEAN = 100.0


@dataclass(frozen=True, eq=False)
class FrozenSuperResolver:
    """One super-resolver, as its file holds it."""

    sha256: str
    spec: SuperresSpec
    arrays: Mapping[str, np.ndarray]
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def model_id(self) -> str:
        """First 16 hex digits of the SHA-256."""
        return self.sha256[:16]


def parse(data: bytes) -> FrozenSuperResolver:
    """A super-resolver from the bytes of its file.

    Raises:
        BitstreamError: not a safetensors file of one.
    """
    try:
        meta = weights.meta_of(data)
        arrays = safetensors.numpy.load(data)
        kind, fields, card = meta.get("kind"), dict(meta.get("spec", {})), dict(meta.get("card", {}))
        if kind != SuperresSpec.kind:
            raise BitstreamError(f"weights: found a model of kind {kind!r}; expected a {SuperresSpec.kind}")
        spec = spec_of(kind, fields)
    except (*MALFORMED, ConfigError) as error:
        raise BitstreamError(f"weights: not a super-resolver's file ({error}); fetch it again") from error
    assert isinstance(spec, SuperresSpec)
    return FrozenSuperResolver(hashlib.sha256(data).hexdigest(), spec, arrays, card)


def packaged() -> dict[str, Any]:
    """model id -> file, of every super-resolver that comes with the package, and those opened since by their path."""
    suffix = weights.SUFFIX
    return {f.name.removesuffix(suffix): f for f in FOLDER.iterdir() if f.name.endswith(suffix)} | _opened


_opened: dict[str, Any] = {}


def trained_scales() -> dict[int, str]:
    """Scale -> id of the super-resolver that comes with the package for it, from the files `DEFAULT.<scale>x`."""
    files = {f.name: f for f in FOLDER.iterdir()}
    return {s: files[f"DEFAULT.{s}x"].read_text().strip() for s in (2, 3, 4) if f"DEFAULT.{s}x" in files}


def require_scale(scale: int) -> str:
    """The id of the default super-resolver for `scale`.

    Raises:
        ConfigError: there is none.
    """
    known = trained_scales()
    if scale not in known:
        raise ConfigError(
            f"scale {scale}: this installation has super-resolvers for {', '.join(f'{s}x' for s in known) or 'none'}; "
            "train one for 2, 3 or 4 with `shardpress train --config configs/train/superres.yaml --data PHOTOS "
            "--out FOLDER run.model.scale=3`, then name its file"
        )
    return known[scale]


def chosen(scale: int, model: str | None = None) -> str:
    """The id of the super-resolver that enlarges by `scale`: `model`, an id or a file, or the default one.

    Raises:
        ConfigError: there is none, or it enlarges by another factor.
        BitstreamError: it is no super-resolver's file.
    """
    if model is None:
        return require_scale(scale)
    model_id = open_model(model)
    if (found := parse(packaged_bytes(model_id)).spec.scale) != scale:
        raise ConfigError(f"scale {scale}: super-resolver {model} enlarges {found}x; ask for that, or name another")
    return model_id


def open_model(model: str) -> str:
    """The id of a super-resolver named by its id, or by the path or URI of its file, which this process then knows."""
    found = weights.read_named(model)
    if found is None:
        return model
    _opened.setdefault(*found)
    return found[0]


@cache
def packaged_bytes(model_id: str) -> bytes:
    """The file of a super-resolver, its hash checked. Raises ConfigError or BitstreamError as `weights` does."""
    return weights.checked_bytes(packaged(), model_id)


@cache
def enlarger(model_id: str, device: str = "auto") -> Enlarger:
    """The network of a packaged or opened super-resolver on a device; built once a process, with torch."""
    return built(packaged_bytes(model_id), device)


def built(data: bytes, device: str = "auto") -> Enlarger:
    from pipeline.codecs.learned.enlarging import Enlarger

    return Enlarger(parse(data), device)


def restore(
    rgb: np.ndarray, scale: int = 2, quality: float = CLEAN, model: str | None = None, device: str = "auto"
) -> np.ndarray:
    """(H, W, 3) uint8 to (scale H, scale W, 3) uint8.

    Args:
        quality: how good the picture is: 100 for a clean one, the quality it was coded at for a decoded one.
        model: the id or file of a super-resolver; None is the one that comes with the package.

    Raises:
        ConfigError: no super-resolver was trained for this scale, or quality is not in [0, 100].
    """
    if not 0 <= quality <= CLEAN:
        raise ConfigError(f"restore: quality is {quality}; expected a number in [0, 100]")
    return enlarger(chosen(scale, model), device)(rgb, quality)


Weights = Callable[[str], bytes]
"""model id -> bytes of its file; raises a PipelineError when there is none."""


def needed(model_id: str, weights_of: Weights, device: str) -> Enlarger:
    """The super-resolver that a payload names, from `weights_of` alone: of an archive, or of the package.

    Raises:
        BitstreamError: it is not there, or something else is under its id.
    """
    try:
        data = weights_of(model_id)
    except PipelineError as error:
        raise BitstreamError(f"the payload needs super-resolver {model_id}: {error}") from error
    return built(data, device)

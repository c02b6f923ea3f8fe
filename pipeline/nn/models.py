"""What a model is to trainer and export, whatever its kind: forward, start, freeze, thaw.

build(spec)(x, quality) -> Likelihoods    build(spec).start(crops, patches)
frozen(model) -> arrays                   thawed(kind, arrays) -> state
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from pipeline.nn import freeze, static, superres
from pipeline.nn.hyperprior import MeanScaleHyperprior
from pipeline.nn.spec import HyperpriorSpec, ModelSpec, SuperresSpec
from pipeline.nn.static import StaticCompressor
from pipeline.nn.superres import SuperResolver

Compressor = MeanScaleHyperprior | StaticCompressor
Model = Compressor | SuperResolver


def build(spec: ModelSpec) -> Model:
    """The network of a spec, its weights still to be started, loaded or trained."""
    if isinstance(spec, SuperresSpec):
        return SuperResolver(spec)
    return MeanScaleHyperprior(spec) if isinstance(spec, HyperpriorSpec) else StaticCompressor(spec)


def frozen(model: Model) -> dict[str, np.ndarray]:
    """Every array of a weights file but its frequency tables."""
    if isinstance(model, SuperResolver):
        return superres.freeze(model)
    return freeze.freeze(model) if isinstance(model, MeanScaleHyperprior) else static.freeze(model)


def thawed(kind: str, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The state of a model of `kind` from the arrays of its weights file, to train on."""
    if kind == SuperresSpec.kind:
        return superres.thaw(arrays)
    return freeze.thaw(arrays) if kind == HyperpriorSpec.kind else static.thaw(arrays)

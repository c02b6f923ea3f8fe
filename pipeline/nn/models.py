"""What a model is to trainer and export, whatever its kind: forward, start, freeze, thaw.

build(spec)(x, quality) -> Likelihoods    build(spec).start(crops, patches)
frozen(model) -> arrays                   thawed(kind, arrays) -> state
grown(state, model) -> state
require_fitting(make, arrays)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import BitstreamError, ConfigError
from pipeline.nn import freeze, static, superres
from pipeline.nn.hyperprior import MeanScaleHyperprior
from pipeline.nn.spec import HyperpriorSpec, ModelSpec, SuperresSpec
from pipeline.nn.static import StaticCompressor
from pipeline.nn.superres import SuperResolver
from pipeline.nn.transforms import Blocks

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


def grown(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state`, and for blocks that g_a or g_s of `model` has more of, blocks that change nothing yet.

    Chen et al., "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016.
    """
    last, own = (".project.", ".merge."), model.state_dict()
    rows = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Blocks))
    more = {
        name: torch.zeros_like(value) if any(part in name for part in last) else value
        for name, value in own.items()
        if name.startswith(rows) and name not in state
    }
    # What leaves the old row enters every new block, and leaves it.
    limits = {name: state[name] for name in own if name.endswith(".limits") and name in state}
    longer = {name: torch.cat([x, x[-1:].expand(own[name].shape)])[: len(own[name])] for name, x in limits.items()}
    return more | dict(state) | {name: x for name, x in longer.items() if len(x) > len(limits[name])}


def require_fitting(
    make: Callable[[], nn.Module], arrays: Mapping[str, np.ndarray], parts: tuple[str, ...] = ("",)
) -> None:
    """Looks at the network that sizes ask for without its memory, which could be any.

    Raises:
        BitstreamError: it cannot be made, or the arrays whose names begin with one of `parts` are not its own.
    """
    try:
        with torch.device("meta"):
            state = make().state_dict()
    except (ConfigError, RuntimeError, AssertionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BitstreamError(f"weights: their sizes make no network ({error}); fetch the file again") from None
    wanted = {name: tuple(value.shape) for name, value in state.items() if name.startswith(parts)}
    found = {name: value.shape for name, value in arrays.items() if name.startswith(parts)}
    if found != wanted:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise BitstreamError(
            f"weights: {len(odd)} arrays do not fit their sizes, such as {odd[0]}, which is {found.get(odd[0])}, "
            f"expected {wanted.get(odd[0])}; the file is damaged, fetch it again"
        )

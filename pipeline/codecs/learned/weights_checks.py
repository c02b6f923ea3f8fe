"""What the arrays and sizes in a weights file must be, before anything is built or read with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import safetensors
from pydantic import TypeAdapter, ValidationError

from pipeline.entropy.tables import FrequencyTables
from pipeline.errors import BitstreamError, ConfigError
from pipeline.nn import context, integer
from pipeline.nn.context import IntegerContext
from pipeline.nn.spec import SPECS, ModelSpec

KIND = "mean-scale-hyperprior"
MALFORMED = (
    KeyError,
    ValueError,
    TypeError,
    OverflowError,
    AttributeError,
    RecursionError,
    safetensors.SafetensorError,
)
WORTH_UNTOLD = 1.7
"""Of models that do not say what errors are worth; their quantiser steps are too coarse for what they code."""


@dataclass(frozen=True, eq=False)
class Trellis:
    """What trellis-coded y goes by.

    tables  one for each scale index under the first quantiser, then as many under the second.
    shifts  how far towards zero of their quantiser's points symbols are reconstructed, (2 * indexes,) float32.
    step  of each quantiser, where 1 is that of plain rounding.
    """

    tables: FrequencyTables
    shifts: np.ndarray
    step: float


class ZContext(NamedTuple):
    """What z in turns goes by; `tables` are those of `nn.context`."""

    network: IntegerContext
    tables: FrequencyTables


def z_context_in(arrays: Mapping[str, np.ndarray], channels: int) -> ZContext | None:
    """None where a model has none. Raises BitstreamError for one that is not whole."""
    network = context.load(arrays, channels)
    if network is None:
        return None
    try:
        tables = FrequencyTables(*(_integers(arrays, f"z_context.{name}", 1) for name in ("frequencies", "reaches")))
        if len(tables) != context.TABLE_COUNT:
            raise ValueError(f"z_context has {len(tables)} tables, expected {context.TABLE_COUNT}")
    except MALFORMED as error:
        raise BitstreamError(f"weights: {error}; the file is damaged, fetch it again") from None
    return ZContext(network, tables)


def trellis_in(arrays: Mapping[str, np.ndarray]) -> Trellis | None:
    """None where a model has none. Raises BitstreamError for one that is not whole."""
    if not any(name.startswith("trellis.") for name in arrays):
        return None
    count = 2 * integer.INDEX_COUNT
    try:
        tables = FrequencyTables(*(_integers(arrays, f"trellis.{name}", 1) for name in ("frequencies", "reaches")))
        shifts, step = (_floats(arrays, f"trellis.{name}", n) for name, n in (("shifts", count), ("step", 1)))
        if len(tables) != count or not (np.abs(shifts) <= 1).all() or not 0.25 <= step[0] <= 4:
            raise ValueError(
                f"a trellis of {len(tables)} tables, shifts up to {np.abs(shifts).max()} and a step of {step[0]}; "
                f"expected {count}, at most 1, and 1/4 to 4"
            )
    except MALFORMED as error:
        raise BitstreamError(f"weights: {error}; the file is damaged, fetch it again") from None
    return Trellis(tables, shifts, float(step[0]))


def _floats(arrays: Mapping[str, np.ndarray], name: str, count: int) -> np.ndarray:
    found = arrays[name]
    if found.dtype != np.float32 or found.shape != (count,):
        raise ValueError(f"{name} is {found.dtype} {found.shape}, expected {count} of float32")
    return found


def worth_of(entry: Mapping[str, Any] | None) -> float:
    """Raises ValueError, KeyError or TypeError for what is none."""
    found = WORTH_UNTOLD if entry is None else float(entry["worth"])
    if not 0 < found < 100:
        raise ValueError(f"refinement {entry!r} has no worth between 0 and 100")
    return found


def require_consistent(arrays: Mapping[str, np.ndarray], spec: dict[str, Any]) -> None:
    """Raises BitstreamError unless what symbols depend on is made of integers whose shapes fit one another."""
    hyper, latent = spec.get("hyper"), spec.get("latent")
    try:
        spec_of(KIND, spec)
        z, y = (_integers(arrays, name, 2).shape[1] for name in ("log2_sigma_z", "log2_base"))
        _integers(arrays, "tables.frequencies", 1), _integers(arrays, "tables.reaches", 1)
        _integers(arrays, "h_s.compression", 1)
        conv1, up1, conv2, up2, out = (_layer_sizes(arrays, name) for name in integer.LAYER_NAMES)
    except (*MALFORMED, ConfigError) as error:
        raise BitstreamError(f"weights: {error}; the file is damaged, fetch it again") from None
    wanted = (z, y, conv1[1], up1[1], 4 * conv2[1], up2[1], 4 * out[1], out[0])
    if wanted != (hyper, latent, z, conv1[0], up1[0], conv2[0], up2[0], 2 * y):
        raise BitstreamError(f"weights: found sizes {wanted} that do not fit one another; the file is damaged")


def require_static(arrays: Mapping[str, np.ndarray], kind: str, spec: dict[str, Any]) -> None:
    """The same for a model with static tables: a scale for every channel, and every channel once in their order."""
    try:
        base, gain = _integers(arrays, "log2_base", 2).shape, arrays["log2_gain.table"].shape
        _integers(arrays, "tables.frequencies", 1), _integers(arrays, "tables.reaches", 1)
        order = np.sort(_integers(arrays, "channels.order", 1))
        spec_of(kind, spec)
    except (*MALFORMED, ConfigError) as error:
        raise BitstreamError(f"weights: {error}; the file is damaged, fetch it again") from None
    if base != gain or base[1] != spec.get("latent") or not np.array_equal(order, np.arange(base[1])):
        raise BitstreamError(
            f"weights: scales {base}, gains {gain} and {len(order)} channels do not fit; the file is damaged"
        )


def require_shifts(shifts: np.ndarray | None, tables: int) -> None:
    """Raises BitstreamError unless there are none, or one from 0 to 1/2 for each table."""
    if shifts is not None and (
        shifts.dtype != np.float32 or shifts.shape != (tables,) or not ((shifts >= 0) & (shifts <= 0.5)).all()
    ):
        raise BitstreamError("weights: tables.shifts are not one float32 from 0 to 1/2 a table; the file is damaged")


def _layer_sizes(arrays: Mapping[str, np.ndarray], name: str) -> tuple[int, int]:
    """(out, in) channels of a layer of h_s."""
    weight = _integers(arrays, f"h_s.{name}.weight", 3)
    if _integers(arrays, f"h_s.{name}.bias", 1).shape != weight.shape[1:2]:
        raise ValueError(f"h_s.{name}.bias does not fit its weight")
    shift = arrays[f"h_s.{name}.shift"]
    if shift.size != 1 or not 0 <= shift.item() < 64:
        raise ValueError(f"h_s.{name}.shift is {shift.tolist()}, expected one of 0 to 63")
    return weight.shape[1], weight.shape[2]


def _integers(arrays: Mapping[str, np.ndarray], name: str, axes: int) -> np.ndarray:
    found = arrays[name]
    if found.dtype.kind not in "iu" or found.ndim != axes or found.size == 0:
        raise ValueError(f"{name} is {found.dtype} {found.shape}, expected integers along {axes} axes")
    return found


def spec_of(kind: str, fields: dict[str, Any]) -> ModelSpec:
    """The spec of a kind from its fields, as `ModelSpec.to_json` gives them.

    Raises:
        ConfigError: a field is unknown or of another type, or the fields do not go together.
    """
    known = {name: value for name, value in fields.items() if name != "kind"}
    try:
        return TypeAdapter(SPECS[kind]).validate_json(json.dumps(known), strict=True)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, ("model", *found["loc"])))
        raise ConfigError(f"{where} is {found['input']!r}; {found['msg']}") from None

"""Frozen models: safetensors files that hold everything needed to decode, addressed by their SHA-256.

A file is read with NumPy alone. Float weights are only touched by `networks.py`; what a payload's symbols depend
on (integer h_s, fixed-point tables, frequencies) is checked here on load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import TypeAdapter, ValidationError

from pipeline import storage
from pipeline.entropy.tables import FrequencyTables
from pipeline.errors import BitstreamError, ConfigError, StorageError
from pipeline.nn import integer
from pipeline.nn.spec import CODECS, SPECS, ModelSpec

MALFORMED = (
    KeyError,
    ValueError,
    TypeError,
    OverflowError,
    AttributeError,
    RecursionError,
    safetensors.SafetensorError,
)
KIND = "mean-scale-hyperprior"
SUFFIX = ".safetensors"
WORTH_UNTOLD = 1.7
"""Of models that do not say what errors are worth; their quantiser steps are too coarse for what they code."""
FOLDER = resources.files("pipeline.codecs.learned") / "weights"


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


@dataclass(frozen=True, eq=False)
class FrozenModel:
    """One decoder, and the encoder that goes with it.

    kind  what sort of model: a key of `nn.spec.SPECS`.
    spec  its sizes, the fields of that class.
    h_s  has no layers where every channel has one table.
    skip_below  scale indexes under this one are not coded: their symbols are 0.
    worth  to the encoder, how much more an error counts than lmbda says.
    """

    sha256: str
    kind: str
    spec: dict[str, Any]
    arrays: Mapping[str, np.ndarray]
    tables: FrequencyTables
    h_s: integer.IntegerHyperSynthesis
    skip_below: int
    card: dict[str, Any]
    worth: float
    trellis: Trellis | None = None

    @property
    def shifts(self) -> np.ndarray:
        """How far under each table symbols other than 0 are reconstructed towards zero, (tables,) float32."""
        found = self.arrays.get("tables.shifts")
        return np.zeros(len(self.tables), np.float32) if found is None else found

    @property
    def model_id(self) -> str:
        """First 16 hex digits of the SHA-256, as payload headers carry it."""
        return self.sha256[:16]


def parse(data: bytes) -> FrozenModel:
    """A model from the bytes of its file.

    Raises:
        BitstreamError: not a safetensors file of a known kind, or inconsistent.
    """
    try:
        meta = meta_of(data)
        arrays = safetensors.numpy.load(data)
        kind, spec, skip_below = meta.get("kind"), dict(meta.get("spec", {})), int(meta.get("skip_below", 0))
        worth = _worth(meta.get("refinement"))
    except MALFORMED as error:
        raise BitstreamError(f"weights: not a shardpress model file ({error}); fetch it again") from error
    if not isinstance(kind, str) or kind not in CODECS:
        raise BitstreamError(f"weights: found a model of kind {kind!r}; known are {', '.join(CODECS)}")
    wanted = {"log2_sigma_z"} if kind == KIND else {"channels.order"}
    missing = (wanted | {"log2_base", "tables.frequencies", "tables.reaches"}) - arrays.keys()
    if missing:
        raise BitstreamError(f"weights: {', '.join(sorted(missing))} missing; the file is damaged, fetch it again")
    if kind == KIND:
        _require_consistent(arrays, spec)
    else:
        _require_static(arrays, kind, spec)
    tables = FrequencyTables(arrays["tables.frequencies"], arrays["tables.reaches"])
    expected = integer.INDEX_COUNT if spec.get("num_bits") is None else 1
    if len(tables) != expected:
        raise BitstreamError(f"weights: {len(tables)} frequency tables; expected {expected}")
    _require_shifts(arrays.get("tables.shifts"), expected)
    return FrozenModel(
        sha256=hashlib.sha256(data).hexdigest(),
        kind=kind,
        spec=spec,
        arrays=arrays,
        tables=tables,
        h_s=integer.load_layers(arrays) if kind == KIND else integer.IntegerHyperSynthesis((), np.zeros(1)),
        skip_below=skip_below,
        card=meta.get("card", {}),
        worth=worth,
        trellis=_trellis(arrays),
    )


def _trellis(arrays: Mapping[str, np.ndarray]) -> Trellis | None:
    """Raises BitstreamError for what is malformed; None where a model has none."""
    if "trellis.frequencies" not in arrays:
        return None
    try:
        frequencies, reaches = (_integers(arrays, f"trellis.{name}", 1) for name in ("frequencies", "reaches"))
        shifts, step = arrays["trellis.shifts"], arrays["trellis.step"]
    except (KeyError, ValueError) as error:
        raise BitstreamError(f"weights: {error}; the file is damaged, fetch it again") from None
    tables, count = FrequencyTables(frequencies, reaches), 2 * integer.INDEX_COUNT
    if (
        len(tables) != count
        or (shifts.dtype, shifts.shape, step.dtype, step.shape) != (np.float32, (count,), np.float32, (1,))
        or not (np.abs(shifts) <= 1).all()
        or not 0.25 <= step[0] <= 4
    ):
        raise BitstreamError(
            f"weights: trellis of {len(tables)} tables, {shifts.shape} shifts and {step.tolist()} steps; expected "
            f"{count} tables, as many float32 shifts within 1 and one float32 step of 1/4 to 4; the file is damaged"
        )
    return Trellis(tables, shifts, float(step[0]))


def _worth(entry: Mapping[str, Any] | None) -> float:
    """Raises ValueError, KeyError or TypeError for what is none."""
    found = WORTH_UNTOLD if entry is None else float(entry["worth"])
    if not 0 < found < 100:
        raise ValueError(f"refinement {entry!r} has no worth between 0 and 100")
    return found


def _require_consistent(arrays: Mapping[str, np.ndarray], spec: dict[str, Any]) -> None:
    """Raises BitstreamError unless what symbols depend on is made of integers whose shapes fit one another."""
    hyper, latent = spec.get("hyper"), spec.get("latent")
    try:
        spec_of(KIND, spec)
        z, y = (_integers(arrays, name, 2).shape[1] for name in ("log2_sigma_z", "log2_base"))
        _integers(arrays, "tables.frequencies", 1), _integers(arrays, "tables.reaches", 1)
        _integers(arrays, "h_s.compression", 1)
        conv1, up1, conv2, up2, out = (_layer_sizes(arrays, name) for name in integer.LAYER_NAMES)
    except (KeyError, ValueError, ConfigError) as error:
        raise BitstreamError(f"weights: {error}; the file is damaged, fetch it again") from None
    wanted = (z, y, conv1[1], up1[1], 4 * conv2[1], up2[1], 4 * out[1], out[0])
    if wanted != (hyper, latent, z, conv1[0], up1[0], conv2[0], up2[0], 2 * y):
        raise BitstreamError(f"weights: found sizes {wanted} that do not fit one another; the file is damaged")


def _require_static(arrays: Mapping[str, np.ndarray], kind: str, spec: dict[str, Any]) -> None:
    """The same for a model with static tables: a scale for every channel, and every channel once in their order."""
    try:
        latent = _integers(arrays, "log2_base", 2).shape[1]
        _integers(arrays, "tables.frequencies", 1), _integers(arrays, "tables.reaches", 1)
        order = np.sort(_integers(arrays, "channels.order", 1))
        spec_of(kind, spec)
    except (KeyError, ValueError, TypeError, ConfigError) as error:
        raise BitstreamError(f"weights: {error}; the file is damaged, fetch it again") from None
    if latent != spec.get("latent") or not np.array_equal(order, np.arange(latent)):
        raise BitstreamError(f"weights: {latent} scales and {len(order)} channels do not fit; the file is damaged")


def _require_shifts(shifts: np.ndarray | None, tables: int) -> None:
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
        where = ".".join(map(str, ("run.model", *found["loc"])))
        raise ConfigError(f"{where} is {found['input']!r}; {found['msg']}") from None


def meta_of(data: bytes) -> dict[str, Any]:
    """What a model file says of itself: kind, spec, card. Raises KeyError, ValueError or TypeError for other files."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return dict(json.loads(header["shardpress"]))


def serialise(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """The file of a model; equal input gives equal bytes, so equal identity."""
    text = json.dumps({"kind": KIND, **meta}, sort_keys=True)
    return safetensors.numpy.save(dict(sorted(arrays.items())), metadata={"shardpress": text})


_opened: dict[str, Any] = {}  # model id -> file outside the package, known to this process


def packaged() -> dict[str, Any]:
    """model id -> file, for every model that comes with the package, and those opened since by their path."""
    files = {f.name.removesuffix(SUFFIX): f for f in FOLDER.iterdir() if f.name.endswith(SUFFIX)}
    return files | _opened


def default_model_id(codec: str = "cnn") -> str:
    """The model that a codec means when no other is named; written in `weights/DEFAULT`, or `weights/DEFAULT.<codec>`.

    Raises:
        ConfigError: this installation has no model of that codec.
    """
    file = FOLDER / ("DEFAULT" if codec == "cnn" else f"DEFAULT.{codec}")
    if not file.is_file():
        raise ConfigError(
            f"codec {codec}: this installation has no weights for it; train some with "
            f"`shardpress train --config configs/train/{codec}.yaml --data PHOTOS --out FOLDER`, "
            f"then name the file: codec.model=FOLDER/<id>{SUFFIX}"
        )
    return file.read_text().strip()


def open_model(model: str) -> str:
    """The id of a model named by its id, or by the path or URI of its file, which this process then knows by its id.

    Raises:
        ConfigError: there is no such file.
    """
    found = read_named(model)
    if found is None:
        return model
    _opened.setdefault(*found)
    return found[0]


def read_named(model: str) -> tuple[str, Any] | None:
    """(id, file) of a model named by the path or URI of its file; None for one named by its id. Raises ConfigError."""
    if not model.endswith(SUFFIX):
        return None
    try:
        data = storage.read_bytes(model)
    except StorageError as error:
        raise ConfigError(f"model: {error}; expected the id or the file of a model") from error
    return hashlib.sha256(data).hexdigest()[:16], _Bytes(model, data)


@dataclass(frozen=True)
class _Bytes:
    """A file that was read, under the one method of a path that is asked for."""

    name: str
    data: bytes

    def read_bytes(self) -> bytes:
        return self.data


@cache
def packaged_bytes(model_id: str) -> bytes:
    """The file of a packaged model, its hash checked.

    Raises:
        ConfigError: no such model here.
        BitstreamError: the file is not the one its name says.
    """
    return checked_bytes(packaged(), model_id)


def checked_bytes(files: Mapping[str, Any], model_id: str) -> bytes:
    """The content of one of `files`, by the id that is its name; raises as `packaged_bytes`."""
    if model_id not in files:
        known = ", ".join(sorted(files)) or "none"
        raise ConfigError(f"model {model_id!r}: not in this installation, which has {known}; give its weights file")
    data: bytes = files[model_id].read_bytes()
    found = hashlib.sha256(data).hexdigest()[:16]
    if found != model_id:
        raise BitstreamError(f"weights {files[model_id]}: SHA-256 starts with {found}; expected {model_id}; reinstall")
    return data


@cache
def packaged_model(model_id: str) -> FrozenModel:
    """A packaged model, parsed once a process."""
    return parse(packaged_bytes(model_id))

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
import safetensors.numpy

from pipeline import storage
from pipeline.codecs.learned import weights_checks as checks
from pipeline.codecs.learned.weights_checks import KIND, MALFORMED, Trellis, ZContext
from pipeline.entropy.tables import FrequencyTables
from pipeline.errors import BitstreamError, ConfigError, StorageError
from pipeline.nn import integer
from pipeline.nn.spec import CODECS

SUFFIX = ".safetensors"
FOLDER = resources.files("pipeline.codecs.learned") / "weights"


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
    z_context: ZContext | None = None

    @property
    def shifts(self) -> np.ndarray:
        """How far under each table symbols other than 0 are reconstructed towards zero, (tables,) float32."""
        found = self.arrays.get("tables.shifts")
        return np.zeros(len(self.tables), np.float32) if found is None else found

    @property
    def model_id(self) -> str:
        """First 16 hex digits of the SHA-256, as payload headers carry it."""
        return self.sha256[:16]

    def trellis_of(self, states: int) -> Trellis | None:
        """What symbols along a trellis of `states` go by, None for 0. Raises BitstreamError if there is none."""
        if states and self.trellis is None:
            raise BitstreamError(f"payload: trellis-coded, and model {self.model_id} has no trellis; it is damaged")
        return self.trellis if states else None


def parse(data: bytes) -> FrozenModel:
    """A model from the bytes of its file.

    Raises:
        BitstreamError: not a safetensors file of a known kind, or inconsistent.
    """
    try:
        meta = meta_of(data)
        arrays = safetensors.numpy.load(data)
        kind, spec, skip_below = meta.get("kind"), dict(meta.get("spec", {})), int(meta.get("skip_below", 0))
        worth = checks.worth_of(meta.get("refinement"))
    except MALFORMED as error:
        raise BitstreamError(f"weights: not a shardpress model file ({error}); fetch it again") from error
    if not 0 <= skip_below <= integer.INDEX_COUNT:
        raise BitstreamError(
            f"weights: scale indexes below {skip_below} are not coded; expected 0 to {integer.INDEX_COUNT}; "
            "fetch the file again"
        )
    if not isinstance(kind, str) or kind not in CODECS:
        raise BitstreamError(f"weights: found a model of kind {kind!r}; known are {', '.join(CODECS)}")
    wanted = {"log2_sigma_z"} if kind == KIND else {"channels.order", "log2_gain.table"}
    missing = (wanted | {"log2_base", "tables.frequencies", "tables.reaches"}) - arrays.keys()
    if missing:
        raise BitstreamError(f"weights: {', '.join(sorted(missing))} missing; the file is damaged, fetch it again")
    if kind == KIND:
        checks.require_consistent(arrays, spec)
    else:
        checks.require_static(arrays, kind, spec)
    tables = FrequencyTables(arrays["tables.frequencies"], arrays["tables.reaches"])
    expected = integer.INDEX_COUNT if spec.get("num_bits") is None else 1
    if len(tables) != expected:
        raise BitstreamError(f"weights: {len(tables)} frequency tables; expected {expected}")
    checks.require_shifts(arrays.get("tables.shifts"), expected)
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
        trellis=checks.trellis_in(arrays) if kind == KIND else None,
        z_context=checks.z_context_in(arrays, spec["hyper"]) if kind == KIND else None,
    )


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

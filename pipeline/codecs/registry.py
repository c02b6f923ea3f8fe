"""Codecs by name: from a config, from a stored spec, and from a row of an archive years later.

Classes are imported when they are first asked for, so that nobody pays for torch who only wants JPEG.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, cast

from pipeline.codecs.base import Codec, require_precision, validate_rate
from pipeline.errors import ConfigError
from pipeline.records import Rate

CODECS: dict[str, str] = {
    "cnn": "pipeline.codecs.learned.hyperprior:Hyperprior",
    "transfer": "pipeline.codecs.learned.static:Transfer",
    "tile-autoencoder": "pipeline.codecs.learned.static:TileAutoencoder",
    "conv": "pipeline.codecs.learned.static:Conv",
    "jpeg": "pipeline.codecs.pillow:JPEG",
    "webp": "pipeline.codecs.pillow:WebP",
    "avif": "pipeline.codecs.pillow:AVIF",
    "jpeg2000": "pipeline.codecs.pillow:JPEG2000",
    "jxl": "pipeline.codecs.jxl:JXL",
    "jxl-lossless": "pipeline.codecs.jxl:JXLLossless",
    "original": "pipeline.codecs.original:Original",
    "auto": "pipeline.codecs.auto:Auto",
}


def build(name: str, rate: Rate | None = None, **options: Any) -> Codec:
    """The codec `name` at `rate` (its own default when None); lossless codecs have no rate and ignore it.

    Raises:
        ConfigError: unknown name or option (names the nearest known one), or a value out of range.
    """
    cls = _class_of(name)
    known = [parameter for parameter in inspect.signature(cls).parameters if parameter != "rate"]
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "none"
            raise ConfigError(f"codec {name}: unknown option {option!r}{_nearest(option, known)}; it takes: {listed}")
    if rate is not None:
        options["rate"] = validate_rate(rate)
    codec: Codec = cls(**options)
    return codec


def from_spec(spec: Mapping[str, Any], weights: Callable[[str], bytes] | None = None) -> Codec:
    """The codec whose `spec()` this is: {"name": ..., "rate": {...}, and its options}.

    A model comes from `weights(model_id)`, the bytes of its file; without it, it must be a packaged one.
    """
    options = dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"codec spec {dict(spec)}: found no name; expected {{'name': 'jpeg', ...}}")
    rate = options.pop("rate", None)
    if weights is not None and "model" in options and hasattr(cls := _class_of(name), "from_weights"):
        codec = cls.from_weights(weights(options.pop("model")), **({"rate": rate_of(rate)} | options))
        codec.weights_of = weights
        return cast(Codec, codec)
    return build(name, None if rate is None else rate_of(rate), **options)


def rate_of(settings: Mapping[str, Any]) -> Rate:
    """{"quality": 60} -> Rate(quality=60.0); ConfigError for other keys or values that are not numbers."""
    known = [field.name for field in fields(Rate)]
    for key, value in settings.items():
        if key not in known:
            raise ConfigError(f"rate: unknown key {key!r}{_nearest(key, known)}; expected one of {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"rate: {key} is {value!r}; expected a number")
    return validate_rate(Rate(**{key: float(value) for key, value in settings.items()}))


def decoder_for(
    codec: str,
    model_id: str | None = None,
    weights: Callable[[str], bytes] | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> Codec:
    """A codec that decodes the payloads of rows with these `codec` and `model_id` columns.

    `weights(model_id)` gives the weights file, e.g. `archive.weights`; without it the model must be a packaged
    one. Building a learned decoder loads a network: keep it for all rows of one model. `precision`: see
    `base.PRECISIONS`.
    """
    cls = _class_of(codec)
    if model_id is None or not hasattr(cls, "from_weights"):
        return build(codec)
    decoder: Any
    if weights is None:
        decoder = build(codec, model=model_id, device=device)
    else:
        decoder = cls.from_weights(weights(model_id), device=device)
        decoder.weights_of = weights
    decoder.precision = require_precision(precision)
    if decoder.model_id != model_id:
        raise ConfigError(
            f"codec {codec}: the payload needs model {model_id}, found {decoder.model_id}; "
            "give the weights that rest in the archive's weights/ folder"
        )
    return cast(Codec, decoder)


def _class_of(name: str) -> Any:
    if name not in CODECS:
        raise ConfigError(
            f"codec: unknown name {name!r}{_nearest(name, CODECS)}; known are {', '.join(sorted(CODECS))}"
        )
    module, _, attribute = CODECS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""

"""Trial: one picture through one codec and back, timed and measured, as a row of the results table.

The payload is decoded from its bytes and measured; nothing is taken from the encoder's word. Like every stage this
never raises for an image: a codec that cannot is a row with status and reason.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.archive.results import Setting
from pipeline.codecs.base import Codec
from pipeline.errors import ConfigError, PipelineError, VerifyError
from pipeline.metrics.distortion import measure
from pipeline.metrics.rate import bpp
from pipeline.records import ENCODED, KEPT_ORIGINAL, REJECTED, Distortion, Picture, SourceImage
from pipeline.stages.decode import Decode
from pipeline.stages.work import Work

Row = dict[str, Any]
EXACT = Distortion(mse=0.0, psnr_db=float("inf"), ssim=1.0, ms_ssim=1.0)
Classify = Callable[[np.ndarray], int]
LabelOf = Callable[[SourceImage], int | None]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What a classifier says of pixels, and which class an image is known to be; see `Trial`."""

    classify: Classify
    label_of: LabelOf


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Measures images under settings; `codecs` are those of the settings, in their order."""

    settings: Sequence[Setting]
    codecs: Sequence[Codec]
    decode: Decode
    task: Task | None = None

    def __call__(self, source: SourceImage, wanted: frozenset[str]) -> list[Row]:
        """One row for each wanted setting of this trial."""
        pairs = [(s, c) for s, c in zip(self.settings, self.codecs, strict=True) if s.setting_id in wanted]
        work = self.decode(source)
        common = _common(work)
        if work.picture is None:
            reason = work.outcome.reason if work.outcome else "no picture"
            return [common | _setting_row(s, c) | {"status": REJECTED, "reason": reason} for s, c in pairs]
        common |= self._seen(work.picture.rgb, source) if pairs else {}
        return [common | _setting_row(s, c) | self._tried(c, work) for s, c in pairs]

    def crashed(self, source: SourceImage, wanted: frozenset[str]) -> list[Row]:
        """Rows of an image that killed the process that tried it."""
        reason = "measuring this image crashed the process"
        pairs = [(s, c) for s, c in zip(self.settings, self.codecs, strict=True) if s.setting_id in wanted]
        common = _common(Work(source))
        return [common | _setting_row(s, c) | {"status": REJECTED, "reason": reason} for s, c in pairs]

    def _seen(self, rgb: np.ndarray, source: SourceImage) -> Row:
        if self.task is None:
            return {}
        return {"label": self.task.label_of(source), "top1_source": self.task.classify(rgb)}

    def _tried(self, codec: Codec, work: Work) -> Row:
        picture, source = work.picture, work.source.data or b""
        if picture is None:
            return {}
        try:
            row, decoded = coded(codec, picture, source)
        except ConfigError:  # wrong for every image
            raise
        except Exception as error:  # any failure of a codec is a row, never the end of a job
            return {"status": KEPT_ORIGINAL, "reason": _reason(codec, error)}
        if self.task is not None:
            row["top1_decoded"] = self.task.classify(decoded)
        return row


def coded(codec: Codec, picture: Picture, source: bytes) -> tuple[Row, np.ndarray]:
    """(columns that depend on the codec, decoded pixels); raises whatever the codec raises.

    Encode time is from pixels to payload, decode time from payload to pixels, both without measuring.
    """
    started = time.perf_counter()
    payload = codec.encode(picture, source).payload
    encoded = time.perf_counter()
    decoded = codec.decode(payload)
    finished = time.perf_counter()
    distortion = _distortion(codec, payload, picture, source, decoded)
    kept = len(payload) >= len(source)
    found = {
        "status": KEPT_ORIGINAL if kept else ENCODED,
        "reason": f"{codec.name}: not smaller than the source" if kept else None,
        "payload_bytes": len(payload),
        "bpp": bpp(len(payload), picture.width_px, picture.height_px),
        "encode_ms": (encoded - started) * 1e3,
        "decode_ms": (finished - encoded) * 1e3,
    }
    return found | {name: getattr(distortion, name) for name in ("mse", "psnr_db", "ssim", "ms_ssim")}, decoded


def _distortion(codec: Codec, payload: bytes, picture: Picture, source: bytes, decoded: np.ndarray) -> Distortion:
    restored = codec.restore_source(payload)
    if restored is not None:
        if restored != source:
            raise VerifyError("the source does not come back byte for byte")
        return EXACT
    if decoded.shape == picture.rgb.shape and np.array_equal(decoded, picture.rgb):
        return EXACT
    if codec.lossless:
        raise VerifyError("lossless, yet its pixels differ from the source")
    return measure(picture.rgb, decoded)


def _common(work: Work) -> Row:
    source, picture = work.source, work.picture
    return {
        "image_id": source.image_id,
        "source_uri": source.source_uri,
        "source_version": source.source_version,
        "source_bytes": None if source.data is None else len(source.data),
        "source_format": picture.source_format if picture else None,
        "width": picture.width_px if picture else None,
        "height": picture.height_px if picture else None,
    }


def _setting_row(setting: Setting, codec: Codec) -> Row:
    return {
        "series": setting.series,
        "codec": codec.name,
        "model_id": codec.model_id,
        "quality": setting.quality,
        "effort": setting.effort,
        "setting_id": setting.setting_id,
    }


def _reason(codec: Codec, error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, PipelineError):
        text = f"{type(error).__name__}: {text}"
    return text if text.startswith(f"{codec.name}:") else f"{codec.name}: {text}"


def built(specs: Sequence[Mapping[str, Any]], device: str) -> list[Codec]:
    """The codecs of `specs`; learned ones that differ in rate alone share their networks."""
    from pipeline.codecs import registry

    make = functools.cache(lambda name, options: registry.from_spec(dict(options)))
    codecs: list[Codec] = []
    for spec in specs:
        if spec.get("model") is None:
            codecs.append(registry.from_spec(spec))
            continue
        shared = {key: value for key, value in spec.items() if key != "rate"} | {"device": device}
        base: Any = make(spec["name"], tuple(sorted(shared.items())))
        codecs.append(base.at(registry.rate_of(spec["rate"])))
    return codecs

"""From a checked evaluation config to the plain objects that a run takes."""

from __future__ import annotations

from typing import Any

from jobs.orders import resources_of, source_of
from pipeline import storage
from pipeline.archive.results import Setting
from pipeline.codecs import registry
from pipeline.config import EvaluateConfig, EvaluatedCodec
from pipeline.errors import ConfigError
from pipeline.execution.cluster import require_shared
from pipeline.execution.evaluation import EvaluationOrder
from pipeline.records import Rate
from pipeline.stages.decode import Decode
from pipeline.stages.fidelity import Fidelity


def order_of(config: EvaluateConfig, command: str = "") -> EvaluationOrder:
    """Raises ConfigError for what only shows when the parts are put together."""
    source_uri, results_uri = storage.absolute(config.source.uri), storage.absolute(config.results.uri)
    if f"{results_uri.rstrip('/')}/".startswith(f"{source_uri.rstrip('/')}/"):
        raise ConfigError(f"results {results_uri} lie inside the source {source_uri}; keep them apart")
    require_shared("source.uri", config.source.uri)
    require_shared("results.uri", config.results.uri)
    section, fidelity = config.resources, None
    if config.fidelity is not None:
        fidelity = Fidelity(**config.fidelity.model_dump())
    return EvaluationOrder(
        results_uri=results_uri,
        source=source_of(config.source),
        settings=settings_of(config.codecs, fidelity),
        decode=Decode(config.limits.pixels, config.limits.cmyk),
        resources=resources_of(section),
        sample=config.sample,
        seed=config.seed,
        device=section.device,
        fidelity=fidelity,
        command=command,
        config=config.model_dump(mode="json"),
    )


def settings_of(codecs: list[EvaluatedCodec], fidelity: Fidelity | None = None) -> tuple[Setting, ...]:
    """Every codec at every effort and quality; ConfigError for two that mean the same point of the same curve."""
    asked = None if fidelity is None else fidelity.spec()
    settings = [
        Setting(_series(entry, effort), _spec(entry, quality, effort), asked)
        for entry in codecs
        for effort, quality in _points(entry)
    ]
    names = [(setting.series, setting.quality) for setting in settings]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"codecs: {name[0]} at quality {name[1]} comes twice; give one of them another label")
    return tuple(settings)


def _points(entry: EvaluatedCodec) -> list[tuple[int | None, float | None]]:
    efforts: list[int | None] = [*entry.efforts] or [None]
    qualities: list[float | None] = [*entry.qualities] or [None]
    return [(effort, quality) for effort in efforts for quality in qualities]


def _series(entry: EvaluatedCodec, effort: int | None) -> str:
    name = entry.label or entry.name
    return f"{name} effort {effort}" if len(entry.efforts) > 1 else name


def _spec(entry: EvaluatedCodec, quality: float | None, effort: int | None) -> dict[str, Any]:
    options = dict(entry.options) | ({} if effort is None else {"effort": effort})
    codec = registry.build(entry.name, None if quality is None else Rate(quality=quality), **options)
    if quality is not None and codec.lossless:
        raise ConfigError(f"codecs: {entry.name} has one setting, found quality {quality:g}; leave its qualities out")
    return codec.spec()

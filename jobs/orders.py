"""From a checked config to the plain objects that a run takes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pipeline import storage
from pipeline.codecs import registry
from pipeline.codecs.base import Codec
from pipeline.config import CodecSection, RecompressConfig, ResourcesSection, SourceSection
from pipeline.errors import ConfigError
from pipeline.execution.cluster import Resources, require_shared
from pipeline.execution.limits import Limits
from pipeline.execution.recompression import Order
from pipeline.nn.spec import CODECS
from pipeline.sources import Source, open_source
from pipeline.stages.decode import Decode
from pipeline.stages.encode import ORIGINAL, Floor


def order_of(config: RecompressConfig, command: str = "") -> Order:
    """Raises ConfigError for what only shows when the parts are put together."""
    source_uri, archive_uri = storage.absolute(config.source.uri), storage.absolute(config.archive.uri)
    if f"{source_uri.rstrip('/')}/".startswith(f"{archive_uri.rstrip('/')}/"):
        raise ConfigError(f"source {source_uri} lies inside the archive {archive_uri}; keep them apart")
    if f"{archive_uri.rstrip('/')}/".startswith(f"{source_uri.rstrip('/')}/"):
        raise ConfigError(
            f"archive {archive_uri} lies inside the source {source_uri}, and its files would be taken for images; "
            "keep them apart"
        )
    require_shared("source.uri", config.source.uri)
    require_shared("archive.uri", config.archive.uri)
    return Order(
        archive_uri=archive_uri,
        source=source_of(config.source),
        chain=chain_of(config.codec, config.fallback, config.resources.device),
        floor=Floor(config.floor.psnr_db, config.floor.ms_ssim),
        decode=Decode(config.limits.pixels, config.limits.cmyk),
        resources=resources_of(config.resources),
        limits=Limits(config.limits.seconds, config.limits.memory_mb),
        retry=tuple(config.retry),
        batch_mpx=config.resources.batch_mpx,
        decode_apart=config.resources.decode == "tasks",
        log=config.log,
        command=command,
        config=config.model_dump(mode="json"),
    )


def resources_of(section: ResourcesSection) -> Resources:
    return Resources(**{field.name: getattr(section, field.name) for field in fields(Resources)})


def source_of(section: SourceSection) -> Source:
    columns = {"image_column": section.image_column, "id_column": section.id_column}
    return open_source(section.uri, section.kind, **{name: value for name, value in columns.items() if value})


def chain_of(section: CodecSection, fallback: list[str], device: str = "auto") -> list[Codec]:
    """The codec of the run, then its fallbacks; `original` comes last whatever was asked, so that nothing is lost."""
    codec = codec_of(section, device)
    names = [name for name in fallback if name not in (codec.name, ORIGINAL)]
    rate = section.rate if section.name != ORIGINAL else None
    rest = [registry.build(name, rate) for name in names]
    return [codec, *rest] if codec.name == ORIGINAL else [codec, *rest, registry.build(ORIGINAL)]


def codec_of(section: CodecSection, device: str = "auto") -> Codec:
    names = ("effort", "model", "keep", "reduced", "superres", "tune")
    options: dict[str, Any] = {name: getattr(section, name) for name in names}
    if section.candidates:
        options["candidates"] = section.candidates
    if section.name in CODECS.values():
        options["device"] = device
    given = {name: value for name, value in options.items() if value is not None}
    return registry.build(section.name, section.rate, **given)

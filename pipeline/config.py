"""YAML and dotted `key=value` overrides to one checked object per job; nothing else in the house reads YAML.

Unknown keys are errors that name the nearest known key, and every mistake is a ConfigError of one sentence
(exit code 2). Components never see these objects: jobs hand them plain arguments.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from pipeline.codecs.base import validate_rate
from pipeline.errors import ConfigError
from pipeline.keys import first_problem, refuse_unknown
from pipeline.nn.spec import SPECS, ConvSpec, HyperpriorSpec, SuperresSpec, TileSpec, TransferSpec
from pipeline.records import Rate
from pipeline.training.spec import TrainSpec


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSection(Section):
    uri: str = Field(min_length=1)
    kind: Literal["auto", "files", "webdataset", "parquet"] = "auto"
    image_column: str | None = None  # Parquet: the column that holds the images; found by its content when unset
    id_column: str | None = None  # Parquet: a column of unique, stable ids; the row number when unset


class ArchiveSection(Section):
    uri: str = Field(min_length=1)


class TargetSection(Section):
    psnr_db: float | None = None
    ms_ssim: float | None = None
    bpp: float | None = None


class CodecSection(Section):
    name: str = "cnn"
    quality: float | None = None
    target: TargetSection | None = None
    effort: int | None = None
    tune: Literal["psnr", "ms-ssim"] | None = None  # cnn: what bits are spent for; psnr when unset
    model: str | None = None
    keep: float | None = Field(default=None, gt=0, le=1)  # share of channels sent; codecs with static tables
    reduced: Literal["auto"] | None = (
        None  # cnn: auto codes at half size what a super-resolver restores better than bits
    )
    superres: str | None = None  # that super-resolver, by id or file; the packaged one when unset
    candidates: list[str] | None = None  # codec auto: the names it may choose from

    @model_validator(mode="after")
    def one_rate(self) -> Self:
        self.rate  # noqa: B018  raises when quality and target disagree
        return self

    @property
    def rate(self) -> Rate:
        if self.target is None:
            return validate_rate(Rate(quality=60.0 if self.quality is None else self.quality))
        return validate_rate(Rate(quality=self.quality, **self.target.model_dump()))


class FloorSection(Section):
    psnr_db: float | None = Field(default=30.0, ge=0)
    ms_ssim: float | None = Field(default=None, ge=0, le=1)


class ResourcesSection(Section):
    actors: int = Field(default=1, ge=1)
    num_gpus: float = Field(default=0, ge=0)
    device: str = "auto"
    cpus_per_actor: float = Field(default=1, gt=0)
    cpus: int | None = Field(default=None, ge=1)  # of this machine, when the job starts its own Ray; all when unset
    object_store_mb: int = Field(default=512, ge=80)
    batch_mpx: float = Field(default=2.0, gt=0)
    max_actors: int | None = Field(default=None, ge=1)  # the pool grows up to this while the cluster has room
    accelerator: str | None = None  # a custom Ray resource of which each actor takes one, such as TPU
    task_nodes: dict[str, str] = {}  # labels of the nodes for tasks, such as {pool: cpu}; anywhere when empty
    wait_s: float = Field(default=0, ge=0)  # for nodes that an autoscaler has to bring first


class RecompressResources(ResourcesSection):
    decode: Literal["actors", "tasks"] = "actors"  # tasks: on CPU nodes, and pixels travel to the accelerators


class LimitsSection(Section):
    pixels: int = Field(default=200_000_000, ge=1)
    cmyk: bool = False  # true: CMYK pictures may be stored as RGB by lossy codecs


class RecompressLimits(LimitsSection):
    seconds: float | None = Field(default=1800, gt=0)  # of one image in one step; its row says so when it takes longer
    memory_mb: int | None = Field(default=8192, ge=64)  # of one image, beyond what its process holds anyway


class PageSection(Section):
    out: str | None = None  # report.html beside what it reports on when unset
    price_per_gb_month: float | None = Field(default=None, ge=0)
    currency: str = "USD"
    worst: int = Field(default=12, ge=0, le=48)  # images in each gallery
    superres: int = Field(default=3, ge=0, le=24)  # images shown reduced and restored, on the page of an evaluation


# Statuses, first words of reasons, and names of parts as `jobs.verify` tells them.
RETRY = r"^(rejected|kept_original|encoded|unreadable|damaged|part-[0-9a-f]{32})$"


class RecompressConfig(Section):
    """Everything `jobs.recompress` can be told; see configs/recompress/ for examples."""

    source: SourceSection
    archive: ArchiveSection
    codec: CodecSection = CodecSection()
    floor: FloorSection = FloorSection()
    fallback: list[str] = ["jxl-lossless", "original"]
    error_budget: float = Field(default=1.0, ge=0, le=1)
    retry: list[Annotated[str, Field(pattern=RETRY)]] = []
    resources: RecompressResources = RecompressResources()
    limits: RecompressLimits = RecompressLimits()
    report: PageSection | None = None  # a page of the whole archive at the end of the run; none when unset
    log: Literal["off", "parts", "images"] = "off"  # lines of JSON on stderr, one per committed part or image


class DataSection(SourceSection):
    validation: str | None = None  # another source, of photos to validate on; some of the training photos when unset
    limit_mpx: float = Field(default=4000, gt=0)  # photos rest in memory, 3 MB a megapixel; what is beyond is left out


def _kind_of(model: Any) -> str:
    return str(model.get("kind", HyperpriorSpec.kind) if isinstance(model, dict) else model.kind)


_UNKNOWN_KIND = {
    "custom_error_type": "kind",
    "custom_error_message": f"its kind is unknown; expected {', '.join(SPECS)}",
}


@dataclasses.dataclass(frozen=True)
class Run(TrainSpec):
    """A `TrainSpec` whose model is of the kind that `model.kind` names."""

    model: Annotated[
        Annotated[HyperpriorSpec, Tag("mean-scale-hyperprior")]
        | Annotated[TransferSpec, Tag("transfer")]
        | Annotated[ConvSpec, Tag("conv")]
        | Annotated[TileSpec, Tag("tile-autoencoder")]
        | Annotated[SuperresSpec, Tag("superres")],
        Discriminator(_kind_of, **_UNKNOWN_KIND),
    ] = dataclasses.field(default_factory=HyperpriorSpec)


class TrainConfig(Section):
    """Everything `jobs.train` can be told; `run` holds the fields of `training.spec.TrainSpec`."""

    data: DataSection
    out: str = Field(min_length=1)  # a folder for checkpoint, log and the exported model
    name: str = "cnn"  # written into the model card
    task: Literal["codec", "superres"] = "codec"  # superres: a network that enlarges what codecs decoded
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    calibration_photos: int = Field(default=64, ge=1)  # the export fits its tables on this many
    run: Run = Run()
    workers: int = Field(default=1, ge=1)  # processes that share every batch, through Ray Train when more than one
    gpus_per_worker: float = Field(default=0, ge=0)
    max_failures: int = Field(default=3, ge=0)  # workers that may die; all start again at the last checkpoint
    sweep: dict[str, list[Any]] = {}  # key -> values: every combination is trained, such as run.model.width: [16, 32]

    @model_validator(mode="before")
    @classmethod
    def kind_of_task(cls, tree: Any) -> Any:
        """`task: superres` says what kind of model there is, so that `run.model` need not."""
        if isinstance(tree, dict) and tree.get("task") == SuperresSpec.kind:
            run = tree.get("run")
            if run is None or isinstance(run, dict):
                run = run or {}
                model = run.get("model") or {}
                if isinstance(model, dict):
                    return tree | {"run": run | {"model": {"kind": SuperresSpec.kind} | model}}
        return tree

    @model_validator(mode="after")
    def one_task(self) -> Self:
        if (self.task == SuperresSpec.kind) != isinstance(self.run.model, SuperresSpec):
            raise ValueError(f"task is {self.task} and run.model.kind {self.run.model.kind}; they do not go together")
        if not self.run.steps and (self.sweep or self.workers > 1):
            raise ValueError("run.steps is 0, a model is only taught; expected no sweep, and workers of 1")
        return self


class EvaluatedCodec(Section):
    """A codec and the settings it is measured at: one curve per effort."""

    name: str
    qualities: list[float] = []  # in [0, 100]; none for lossless codecs
    efforts: list[int] = []
    options: dict[str, Any] = {}  # of the codec itself, such as {speed: 4} for avif
    label: str | None = None  # what its curve is called; its name when unset


class FidelitySection(Section):
    network: str  # any classifier of torchvision.models
    weights: str = "default"  # torchvision's own, or the URI of a state dict
    classes: str | None = None  # a file with one class name a line, or imagenet
    label_pattern: str | None = None  # regular expression over file names; its first group is the class name
    label_column: str | None = None  # or the column, or tar sibling, that holds it

    @model_validator(mode="after")
    def pattern_compiles(self) -> Self:
        try:
            re.compile(self.label_pattern or "")
        except re.error as error:
            raise ConfigError(
                f"fidelity.label_pattern is {self.label_pattern!r}: {error}; expected a regular expression, such as "
                "'n[0-9]{8}'"
            ) from None
        return self


class ReportSection(PageSection):
    anchor: str | None = None  # the curve BD-rates are against; jpeg, else the first lossy one, when unset
    focus: str | None = None  # the curve that galleries are about; the learned one, else the best, when unset
    psnr_db: float | None = None  # sizes are compared at this quality; that of the focus when unset
    published: list[str] = []  # names of published curves to draw, or [all]; they are of Kodak


class EvaluateConfig(Section):
    """Everything `jobs.evaluate` can be told; see configs/evaluate/ for examples."""

    source: SourceSection
    results: ArchiveSection
    codecs: list[EvaluatedCodec] = Field(min_length=1)
    sample: int | None = Field(default=None, ge=1)  # images; all when unset
    seed: int = 0
    fidelity: FidelitySection | None = None
    report: ReportSection = ReportSection()
    error_budget: float = Field(default=1.0, ge=0, le=1)
    resources: ResourcesSection = ResourcesSection()
    limits: LimitsSection = LimitsSection()


M = TypeVar("M", bound=Section)


def load(model: type[M], path: str | None, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> M:
    """The config at `path` (or an empty one) with `flags` (by dotted key), then `key=value` overrides applied, checked.

    Raises:
        ConfigError: unreadable file, bad YAML, unknown key, or a value out of range; one sentence.
    """
    tree = _read_yaml(path) if path else {}
    given = dict(flags or {}) | dict(_split_override(text) for text in overrides)
    return load_tree(model, tree, given, path or "command line")


def load_tree(model: type[M], tree: dict[str, Any], given: Mapping[str, Any], origin: str) -> M:
    """`tree`, as YAML gives it, with what is `given` by dotted key put in its place, checked; raises as `load`."""
    _drop_replaced_rate(tree, given)
    for key, value in given.items():
        _put(tree, key, value)
    refuse_unknown(model, tree, origin)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {first_problem(error)}") from None


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or error}; expected a YAML config, such as those in configs/ of a checkout"
        ) from None
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark
        where = path if at is None else f"{path}, line {at.line + 1}, column {at.column + 1}"
        raise ConfigError(f"{where}: not valid YAML, {error.problem}; check brackets, quotes and indentation") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: not valid YAML, {' '.join(str(error).split())}; expected plain text in UTF-8"
        ) from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: found {type(tree).__name__}; expected sections such as `source: {{uri: ...}}`")
    return tree


def _split_override(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(
            f"override {text!r}: expected key=value, such as codec.quality=60; places have flags of their own, see "
            "--help, and globs want quotes"
        )
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        return key.strip(), value


def _drop_replaced_rate(tree: dict[str, Any], given: Mapping[str, Any]) -> None:
    """An override of quality replaces a target in the file, and the other way round."""
    codec = tree.get("codec")
    if not isinstance(codec, dict):
        return
    if any(key.startswith("codec.target") for key in given):
        codec.pop("quality", None)
        codec.pop("target", None)
    if "codec.quality" in given:
        codec.pop("target", None)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        child = tree.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {key}: {section} is {child!r}, not a section, so nothing can be set inside it")
        tree = child
    tree[last] = value

"""What `jobs.encode` does with each file: a codec by suffix, one payload, and the line that tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs import files
from pipeline.errors import CodecError, ConfigError
from pipeline.nn.spec import CODECS

if TYPE_CHECKING:
    from pipeline.codecs.base import Codec

SUFFIXES = {
    ".spx": "cnn",
    ".jxl": "jxl",
    ".webp": "webp",
    ".avif": "avif",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jp2": "jpeg2000",
}
LEARNED = tuple(CODECS.values())
OWN_SUFFIX = {codec: suffix for suffix, codec in reversed(SUFFIXES.items())} | {"jxl-lossless": ".jxl"}
OWN_SUFFIX |= dict.fromkeys(LEARNED, ".spx")


def codec_of_model(model: str) -> str:
    """The codec that codes with a model, by its id or file."""
    from pipeline.codecs.learned import weights

    return CODECS[weights.packaged_model(weights.open_model(model)).kind]


def coders(
    outs: Sequence[str],
    codec: str | None,
    rate: dict[str, float | None],
    model: str | None = None,
    effort: int | None = None,
    tune: str | None = None,
) -> dict[str, Codec]:
    """OUT -> codec; built once for each name, before the first picture is read."""
    from pipeline.codecs import registry
    from pipeline.codecs.base import validate_rate
    from pipeline.records import Rate

    names = {out: codec or ("cnn" if out == files.STREAM else codec_of_suffix(out)) for out in outs}
    given: dict[str, Any] = {"effort": effort, "tune": tune}
    asked = {name: value for name, value in given.items() if value is not None}
    options = {name: asked | ({"model": model} if model and name in LEARNED else {}) for name in names.values()}
    built = {name: registry.build(name, validate_rate(Rate(**rate)), **options[name]) for name in options}
    return {out: built[name] for out, name in names.items()}


def encode_one(source: str, out: str, coder: Codec, overwrite: bool) -> dict[str, Any]:
    """Encodes one file, writes its payload, and returns sizes and quality under their column names."""
    from pipeline import single
    from pipeline.imaging.decode import decode
    from pipeline.metrics.distortion import measure

    data = files.read(source)
    with files.named(source):
        picture = decode(data)
        if picture.obstacle is not None and coder.name not in ("jxl-lossless", "original"):
            raise CodecError(
                f"found {picture.obstacle}, expected one picture of 8-bit gray or RGB (+ alpha), "
                "convert it first, or archive it whole with `shardpress recompress`"
            )
        encoded = coder.encode(picture, data)
    found = measure(picture.rgb, coder.decode(encoded.payload))
    payload = single.with_sections(encoded.payload, picture) if coder.name in LEARNED else encoded.payload
    files.write(out, payload, source, overwrite)
    size = {"width": picture.width_px, "height": picture.height_px}
    bytes_ = {"source_bytes": len(data), "payload_bytes": len(payload)}
    psnr_db = None if found.mse == 0 else found.psnr_db
    numbers = {"psnr_db": psnr_db, "ms_ssim": found.ms_ssim, "quality": encoded.quality}
    return {"out": out, "codec": coder.name, **size, **bytes_, **numbers}


def line(done: dict[str, Any]) -> str:
    """What a person is told about one encoded file."""
    saved = f"{100 * (1 - done['payload_bytes'] / done['source_bytes']):.1f} % saved"
    level = "exact" if done["psnr_db"] is None else f"{done['psnr_db']:.2f} dB"
    size = f"{done['width']}x{done['height']} px, {done['payload_bytes']:,} bytes"
    return f"{done['out']}: {done['codec']}, {size}, {saved}, {level}"


def codec_of_suffix(path: str) -> str:
    """Raises ConfigError for a suffix that no codec has."""
    suffix = "." + path.rpartition(".")[2].lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{path}: found no suffix of a codec, expected {', '.join(SUFFIXES)}; or give --codec")
    return SUFFIXES[suffix]

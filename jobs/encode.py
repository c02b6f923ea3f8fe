"""Picture files to payload files, for trying things out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import cli, files
from pipeline.errors import ConfigError, ImageError, PipelineError

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
_OWN_SUFFIX = {codec: suffix for suffix, codec in reversed(SUFFIXES.items())} | {"jxl-lossless": ".jxl"}


def encode(
    names: Annotated[
        list[str], typer.Argument(metavar="IN... [OUT]", help="Files, globs, s3:// or - ; OUT or a folder.")
    ],
    quality: Annotated[float | None, typer.Option(help="0 to 100; 60 when nothing is asked.")] = None,
    psnr_db: Annotated[float | None, typer.Option(help="Target instead of a quality.")] = None,
    ms_ssim: Annotated[float | None, typer.Option(help="Target instead of a quality.")] = None,
    bpp: Annotated[float | None, typer.Option(help="Target instead of a quality.")] = None,
    codec: Annotated[str | None, typer.Option(help="Overrules the suffix: cnn, jxl, jxl-lossless, ...")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that differ.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> int:
    """Encode picture files. Suffixes of OUT: .spx (learned codec), .jxl, .webp, .avif, .jpg, .jp2.

    Without OUT, photo.jpg becomes photo.spx beside it. An .spx file carries EXIF, ICC, XMP and alpha; the others
    carry pixels only.
    """
    asked = any(value is not None for value in (quality, psnr_db, ms_ssim, bpp))
    rate = {"quality": quality if asked else 60.0, "psnr_db": psnr_db, "ms_ssim": ms_ssim, "bpp": bpp}
    jobs = files.pairs(names, _OWN_SUFFIX.get(codec or "cnn", ".spx"))
    to_stdout = any(out == files.STREAM for _, out in jobs)
    if to_stdout and json:
        raise ConfigError("--json: stdout is where the payload goes; name an OUT")
    coders = _coders([out for _, out in jobs], codec, rate)
    done: list[dict[str, Any]] = []
    problems = 0
    for source, out in jobs:
        try:
            done.append(_encode(source, out, coders[out], overwrite))
        except PipelineError as error:
            if len(jobs) == 1:
                raise
            problems += 1
            cli.warn(str(error))
        else:
            if not json:
                print(_line(done[-1]), file=sys.stderr if to_stdout else sys.stdout)
    if json:
        cli.print_json(done[0] if len(jobs) == 1 else done)
    return cli.FAILED if problems else cli.OK


def _coders(outs: Sequence[str], codec: str | None, rate: dict[str, float | None]) -> dict[str, Codec]:
    """OUT -> codec; built once for each name, before the first picture is read."""
    from pipeline.codecs import registry
    from pipeline.codecs.base import validate_rate
    from pipeline.records import Rate

    names = {out: codec or ("cnn" if out == files.STREAM else codec_of_suffix(out)) for out in outs}
    built = {name: registry.build(name, validate_rate(Rate(**rate))) for name in set(names.values())}
    return {out: built[name] for out, name in names.items()}


def _encode(source: str, out: str, coder: Codec, overwrite: bool) -> dict[str, Any]:
    from pipeline import single
    from pipeline.imaging.decode import decode
    from pipeline.metrics.distortion import measure

    data = files.read(source)
    try:
        picture = decode(data)
    except ImageError as error:
        raise ImageError(f"{source}: {error}") from error
    encoded = coder.encode(picture, data)
    found = measure(picture.rgb, coder.decode(encoded.payload))
    payload = single.with_sections(encoded.payload, picture) if coder.name == "cnn" else encoded.payload
    files.write(out, payload, source, overwrite)
    size = {"width": picture.width_px, "height": picture.height_px}
    bytes_ = {"source_bytes": len(data), "payload_bytes": len(payload)}
    psnr_db = None if found.mse == 0 else found.psnr_db
    numbers = {"psnr_db": psnr_db, "ms_ssim": found.ms_ssim, "quality": encoded.quality}
    return {"out": out, "codec": coder.name, **size, **bytes_, **numbers}


def _line(done: dict[str, Any]) -> str:
    saved = f"{100 * (1 - done['payload_bytes'] / done['source_bytes']):.1f} % saved"
    level = "exact" if done["psnr_db"] is None else f"{done['psnr_db']:.2f} dB"
    size = f"{done['width']}x{done['height']} px, {done['payload_bytes']:,} bytes"
    return f"{done['out']}: {done['codec']}, {size}, {saved}, {level}"


def codec_of_suffix(path: str) -> str:
    suffix = "." + path.rpartition(".")[2].lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{path}: found no suffix of a codec, expected {', '.join(SUFFIXES)}; or give --codec")
    return SUFFIXES[suffix]


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(encode, argv, "python -m jobs.encode")


if __name__ == "__main__":
    raise SystemExit(main())

"""Payload files to picture files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import cli, files
from pipeline.errors import ConfigError, PipelineError

if TYPE_CHECKING:
    from PIL import Image


def decode(
    names: Annotated[
        list[str], typer.Argument(metavar="IN... [OUT]", help="Payloads, globs, s3:// or - ; OUT or a folder.")
    ],
    format: Annotated[str, typer.Option(help="Without OUT: png, jpeg, webp, avif, tiff, jpeg2000.")] = "png",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that differ.")] = False,
) -> int:
    """Decode payloads, as `encode` writes them, to picture files: .png, .jpg, .webp, .avif, .tif, .jp2.

    Without OUT, photo.spx becomes photo.png beside it. Any picture file can be read, too.
    """
    from pipeline.imaging import export

    if format not in export.SUFFIXES:
        raise ConfigError(f"--format {format}: expected one of {', '.join(export.SUFFIXES)}")
    problems, jobs = 0, files.pairs(names, export.SUFFIXES[format])
    to_stdout = any(out == files.STREAM for _, out in jobs)
    formats = {out: format if out == files.STREAM else _format_of(out) for _, out in jobs}
    for source, out in jobs:
        try:
            data = files.read(source)
            with files.named(source):
                image = _decoded(data)
            files.write(out, export.save(image, formats[out]), source, overwrite)
        except PipelineError as error:
            if len(jobs) == 1:
                raise
            problems += 1
            cli.warn(str(error))
        else:
            print(f"{out}: {image.width}x{image.height} px", file=sys.stderr if to_stdout else sys.stdout)
    return cli.FAILED if problems else cli.OK


def _format_of(out: str) -> str:
    from pipeline.imaging import export

    formats = {suffix: name for name, suffix in export.SUFFIXES.items()} | {".jpeg": "jpeg", ".tiff": "tiff"}
    suffix = "." + out.rpartition(".")[2].lower()
    if suffix not in formats:
        raise ConfigError(f"{out}: found no suffix of a picture format, expected {', '.join(formats)}")
    return formats[suffix]


def _decoded(data: bytes) -> Image.Image:
    """By what the bytes are, whatever the file is called."""
    from pipeline import single
    from pipeline.bitstream import container
    from pipeline.codecs import registry
    from pipeline.imaging import decode as imaging
    from pipeline.imaging import export

    if data[: len(container.MAGIC)] == container.MAGIC:
        return single.decode(data)
    if data.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")):
        return export.to_pil(registry.build("jxl-lossless").decode(data))
    picture = imaging.decode(data)
    sides = {"alpha": picture.alpha, "exif": picture.exif, "icc": picture.icc, "xmp": picture.xmp}
    return export.to_pil(picture.rgb, gray=picture.gray, **sides)  # type: ignore[arg-type]


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(decode, argv, "python -m jobs.decode")


if __name__ == "__main__":
    raise SystemExit(main())

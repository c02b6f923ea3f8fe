"""Payload files to picture files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import cli, files
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image


def decode(
    names: Annotated[
        list[str], typer.Argument(metavar="IN [OUT]", help="Payloads, globs, s3:// or - ; OUT or a folder.")
    ],
    format: Annotated[str, typer.Option(help="Without OUT: png, jpeg, webp, avif, tiff, jpeg2000.")] = "png",
    model: Annotated[str | None, typer.Option(help="The file of a model that does not come with the package.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that differ.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> int:
    """Decode payloads, as `encode` writes them, to picture files: .png, .jpg, .webp, .avif, .tif, .jp2.

    Without OUT, photo.spx becomes photo.png beside it. Any picture file can be read, too.
    """
    from pipeline.imaging import export

    if model is not None:
        from pipeline.codecs.learned import weights

        weights.open_model(model)
    if format not in export.SUFFIXES:
        raise ConfigError(f"--format {format}: expected one of {', '.join(export.SUFFIXES)}")
    jobs = files.pairs(names, export.SUFFIXES[format])
    formats = {out: format if out == files.STREAM else _format_of(out) for _, out in jobs}
    return files.each(jobs, lambda source, out: _decode_one(source, out, formats[out], overwrite), _line, json)


def _decode_one(source: str, out: str, file_format: str, overwrite: bool) -> dict[str, Any]:
    from pipeline.imaging import export

    data = files.read(source)
    with files.named(source):
        image = _decoded(data)
    files.write(out, export.save(image, file_format), source, overwrite)
    return {"out": out, "width": image.width, "height": image.height}


def _line(done: dict[str, Any]) -> str:
    return f"{done['out']}: {done['width']}x{done['height']} px"


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

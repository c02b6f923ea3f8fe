"""One payload to one picture file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import cli
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image


def decode(
    source: Annotated[str, typer.Argument(metavar="IN", help="Payload (.spx, .jxl) or any picture file.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Picture file: .png, .jpg, .webp, .avif, .tif, .jp2.")],
) -> int:
    """Decode one payload, as `encode` writes them, to a picture file."""
    from pipeline import storage
    from pipeline.imaging import export

    formats = {suffix: name for name, suffix in export.SUFFIXES.items()} | {".jpeg": "jpeg", ".tiff": "tiff"}
    suffix = "." + out.rpartition(".")[2].lower()
    if suffix not in formats:
        raise ConfigError(f"{out}: found no suffix of a picture format, expected {', '.join(formats)}")
    image = _decoded(storage.read_bytes(source))
    storage.write_atomic(out, export.save(image, formats[suffix]))
    print(f"{out}: {image.width}x{image.height} px")
    return cli.OK


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

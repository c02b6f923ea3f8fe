"""One picture file to one payload, for trying things out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from jobs import cli
from pipeline.errors import ConfigError, ImageError

SUFFIXES = {
    ".spx": "cnn",
    ".jxl": "jxl",
    ".webp": "webp",
    ".avif": "avif",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jp2": "jpeg2000",
}


def encode(
    source: Annotated[str, typer.Argument(metavar="IN", help="Picture file; local or s3://.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Payload file; its suffix says which codec.")],
    quality: Annotated[float | None, typer.Option(help="0 to 100; 60 when nothing is asked.")] = None,
    psnr_db: Annotated[float | None, typer.Option(help="Target instead of a quality.")] = None,
    ms_ssim: Annotated[float | None, typer.Option(help="Target instead of a quality.")] = None,
    bpp: Annotated[float | None, typer.Option(help="Target instead of a quality.")] = None,
    codec: Annotated[str | None, typer.Option(help="Overrules the suffix: cnn, jxl, jxl-lossless, ...")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> int:
    """Encode one picture file. Suffixes: .spx (learned codec), .jxl, .webp, .avif, .jpg, .jp2.

    An .spx file carries EXIF, ICC, XMP and alpha; the others carry pixels only.
    """
    from pipeline import single, storage
    from pipeline.codecs import registry
    from pipeline.codecs.base import validate_rate
    from pipeline.imaging.decode import decode
    from pipeline.metrics.distortion import measure
    from pipeline.records import Rate

    name = codec or codec_of_suffix(out)
    asked = any(value is not None for value in (quality, psnr_db, ms_ssim, bpp))
    coder = registry.build(name, validate_rate(Rate(quality if asked else 60.0, psnr_db, ms_ssim, bpp)))
    data = storage.read_bytes(source)
    try:
        picture = decode(data)
    except ImageError as error:
        raise ImageError(f"{source}: {error}") from error
    encoded = coder.encode(picture, data)
    found = measure(picture.rgb, coder.decode(encoded.payload))
    payload = single.with_sections(encoded.payload, picture) if name == "cnn" else encoded.payload
    storage.write_atomic(out, payload)
    size = {"width": picture.width_px, "height": picture.height_px}
    bytes_ = {"source_bytes": len(data), "payload_bytes": len(payload)}
    exact = found.mse == 0
    numbers = {"psnr_db": None if exact else found.psnr_db, "ms_ssim": found.ms_ssim, "quality": encoded.quality}
    if json:
        cli.print_json({"out": out, "codec": name, **size, **bytes_, **numbers})
        return cli.OK
    saved = f"{100 * (1 - len(payload) / len(data)):.1f} % saved" if data else ""
    level = "exact" if exact else f"{found.psnr_db:.2f} dB"
    print(f"{out}: {name}, {picture.width_px}x{picture.height_px} px, {len(payload):,} bytes, {saved}, {level}")
    return cli.OK


def codec_of_suffix(path: str) -> str:
    suffix = "." + path.rpartition(".")[2].lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{path}: found no suffix of a codec, expected {', '.join(SUFFIXES)}; or give --codec")
    return SUFFIXES[suffix]


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(encode, argv, "python -m jobs.encode")


if __name__ == "__main__":
    raise SystemExit(main())

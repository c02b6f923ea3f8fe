"""Picture files to payload files, for trying things out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from jobs import cli, encoding, files


def encode(
    names: Annotated[list[str], typer.Argument(metavar="IN [OUT]", help="Files, globs, s3:// or - ; OUT or a folder.")],
    quality: Annotated[float | None, typer.Option(help="0 to 100; 60 when nothing is asked.")] = None,
    psnr_db: Annotated[float | None, typer.Option(help="Target instead of a quality.")] = None,
    ms_ssim: Annotated[float | None, typer.Option(help="Target instead of a quality.")] = None,
    bpp: Annotated[float | None, typer.Option(help="Target instead of a quality.")] = None,
    codec: Annotated[str | None, typer.Option(help="Overrules the suffix: cnn, jxl, jxl-lossless, ...")] = None,
    model: Annotated[str | None, typer.Option(help="Id or file of a model; its codec unless --codec says.")] = None,
    effort: Annotated[int | None, typer.Option(help="What the encoder spends: cnn 0 to 9, jxl 1 to 9.")] = None,
    tune: Annotated[str | None, typer.Option(help="Where cnn spends bits: psnr or ms-ssim.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that differ.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> int:
    """Encode picture files. Suffixes of OUT: .spx (learned codec), .jxl, .webp, .avif, .jpg, .jp2.

    Without OUT, photo.jpg becomes photo.spx beside it. An .spx file carries EXIF, ICC, XMP and alpha; the others
    carry pixels only.
    """
    asked = any(value is not None for value in (quality, psnr_db, ms_ssim, bpp))
    rate = {"quality": quality if asked else 60.0, "psnr_db": psnr_db, "ms_ssim": ms_ssim, "bpp": bpp}
    codec = encoding.codec_of_model(model) if model and codec is None else codec
    jobs = files.pairs(names, encoding.OWN_SUFFIX.get(codec or "cnn", ".spx"))
    coders = encoding.coders([out for _, out in jobs], codec, rate, model, effort, tune)
    return files.each(
        jobs, lambda source, out: encoding.encode_one(source, out, coders[out], overwrite), encoding.line, json
    )


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(encode, argv, "python -m jobs.encode")


if __name__ == "__main__":
    raise SystemExit(main())

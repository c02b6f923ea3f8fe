"""One picture in, one payload out: the public API for a single image, metadata and alpha in the payload.

In an archive, metadata and alpha have columns of their own; a payload that lives alone (`.spx`) carries them in
sections of its container.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from pipeline.bitstream import container
from pipeline.errors import BitstreamError, CodecError, ConfigError
from pipeline.records import Picture, Rate

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.codecs.learned.hyperprior import Hyperprior


def encode(
    image: Image.Image,
    quality: float | None = None,
    *,
    target: Mapping[str, float] | None = None,
    model: str | None = None,
    device: str = "auto",
    effort: int | None = None,
    tune: str | None = None,
) -> bytes:
    """The payload of a picture, at `quality` in [0, 100] (60 if nothing is asked) or at a target.

    Args:
        image: mode 1, L, LA, P, PA, RGB or RGBA; EXIF orientation is applied, ICC, EXIF and XMP are kept.
        target: one of {"psnr_db": 34}, {"ms_ssim": 0.97}, {"bpp": 0.5}.
        model: id of a packaged model of any kind, or the path or URI of a model file.
        effort: 0 to 9, what the encoder spends; models with static tables take none.
        tune: "psnr" or "ms-ssim", where bits go; models with static tables take none.

    Raises:
        ConfigError: quality and target both given, or an option out of range or not one of this model.
        CodecError: a picture that 8 bits a channel cannot hold, or a target out of reach.
    """
    from pipeline.codecs.registry import rate_of

    if quality is not None and target is not None:
        raise ConfigError(f"encode: found quality {quality} and target {dict(target)}; give one of them")
    rate = rate_of(target) if target is not None else rate_of({"quality": 60.0 if quality is None else quality})
    picture = picture_of(image)
    options = {name: value for name, value in (("effort", effort), ("tune", tune)) if value is not None}
    codec = _codec(model, device, rate, **options)
    return with_sections(codec.encode(picture).payload, picture)


def decode(payload: bytes, *, device: str = "auto") -> Image.Image:
    """The picture of a payload, mode L, LA, RGB or RGBA, with its metadata in `info`.

    Raises:
        BitstreamError: not a shardpress payload, damaged, or of a model that this installation does not have.
    """
    from pipeline.codecs.learned import weights
    from pipeline.imaging import export
    from pipeline.imaging.decode import decode as decode_file

    box = container.unpack(payload)
    if box.model_id not in weights.packaged():
        raise BitstreamError(
            f"payload: it needs model {box.model_id}, and this installation has {', '.join(weights.packaged())}; "
            "install the release that made it, or restore it from its archive, which carries the weights"
        )
    codec = _codec(box.model_id, device, Rate(quality=60.0))
    alpha = box.sections.get(container.ALPHA)
    return export.to_pil(
        codec.decode(payload),
        gray=box.gray,
        alpha=decode_file(alpha).rgb[:, :, 0] if alpha else None,
        exif=box.sections.get(container.EXIF),
        icc=box.sections.get(container.ICC),
        xmp=box.sections.get(container.XMP),
    )


def restore(
    image: Image.Image, scale: int = 2, *, quality: float = 100.0, model: str | None = None, device: str = "auto"
) -> Image.Image:
    """A picture at `scale` times its size, by super-resolution; metadata comes along, alpha grows by bicubic.

    Args:
        quality: how good it is: 100 for a clean picture, the quality it was coded at for a decoded one. Artefacts of
            coding are smoothed the more, the lower.
        model: id of a packaged super-resolver, or the path or URI of its file.

    Raises:
        ConfigError: no super-resolver was trained for this scale.
        CodecError: a picture that 8 bits a channel cannot hold.
    """
    from pipeline.codecs.learned import superres
    from pipeline.imaging import export
    from pipeline.imaging.resize import resized

    picture = picture_of(image)
    rgb = superres.restore(picture.rgb, scale, quality, model, device)
    alpha = picture.alpha
    return export.to_pil(
        rgb,
        gray=picture.gray,
        alpha=None if alpha is None else resized(alpha[:, :, None], *rgb.shape[:2])[:, :, 0],
        exif=picture.exif,
        icc=picture.icc,
        xmp=picture.xmp,
    )


def verify(payload: bytes) -> None:
    """Reads every coded symbol, which takes no network; raises BitstreamError or ConfigError as `decode` does."""
    _codec(container.unpack(payload).model_id, "cpu", None).entropy_decode(payload)


def picture_of(image: Image.Image) -> Picture:
    """The picture in a PIL image, by way of a PNG in memory, so that one decoder has all the rules."""
    from pipeline.imaging import export
    from pipeline.imaging.decode import decode as decode_file

    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise CodecError(
            f"encode: found a picture of mode {image.mode}; expected 8 bits; call image.convert('RGB') first"
        )
    return decode_file(export.save(image, "png"))


def with_sections(payload: bytes, picture: Picture) -> bytes:
    """`payload` with the metadata and alpha of `picture` in sections of its container."""
    from PIL import Image

    box = container.unpack(payload)
    alpha = io.BytesIO()
    if picture.alpha is not None:
        Image.fromarray(picture.alpha).save(alpha, "PNG", optimize=True)
    extra = {
        container.EXIF: picture.exif or b"",
        container.ICC: picture.icc or b"",
        container.XMP: picture.xmp or b"",
        container.ALPHA: alpha.getvalue(),
    }
    return container.pack(replace(box, sections={**box.sections, **extra}))


@lru_cache(maxsize=4)
def _networks_of(model: str | None, device: str) -> Hyperprior:
    from pipeline.codecs import registry
    from pipeline.codecs.learned import weights
    from pipeline.nn.spec import CODECS

    found = weights.packaged_model(weights.open_model(model) if model else weights.default_model_id())
    codec = registry.build(CODECS[found.kind], Rate(quality=60.0), model=found.model_id, device=device)
    return cast("Hyperprior", codec)


def _codec(model: str | None, device: str, rate: Rate | None, **options: Any) -> Hyperprior:
    """A codec that shares its networks with others of the same model and device; without a rate it builds none."""
    from pipeline.codecs import registry

    codec = _networks_of(model, device)
    if rate is None or not options:
        return codec if rate is None else codec.at(rate)
    asked = registry.build(codec.name, rate, model=codec.model_id, device=device, **options)
    asked.__dict__["networks"] = codec.networks
    return cast("Hyperprior", asked)

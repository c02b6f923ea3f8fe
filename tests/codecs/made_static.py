"""Small models with static tables, started from photos and not trained: enough to code with, made in seconds."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.codecs.learned import weights
from pipeline.nn import models
from pipeline.nn.spec import ConvSpec, StaticSpec, TileSpec, TransferSpec
from pipeline.training import export
from pipeline.training.data import Crops

PHOTOS = sorted((Path(__file__).parents[1] / "data" / "photos").glob("*.jpg"))
SPECS: dict[str, StaticSpec] = {
    "transfer": TransferSpec(backbone="squeezenet1_1", layer="features.2", latent=96, width=16, blocks=1),
    "conv": ConvSpec(levels=3, width=32, latent=96),
    "tile-autoencoder": TileSpec(levels=2, tile_px=16, width=16, latent=96),
    "num-bits": TileSpec(levels=2, tile_px=16, width=16, latent=96, num_bits=7),
}


def photos() -> list[np.ndarray]:
    """The middle of six photos, (320, 400, 3)."""
    found = []
    for path in PHOTOS[:6]:
        with Image.open(path) as image:
            found.append(np.asarray(image.convert("RGB"))[200:520, 300:700].copy())
    return found


@cache
def model_of(name: str) -> bytes:
    """The model file of one of `SPECS`; its backbone, where it has one, is random."""
    spec = SPECS[name]
    torch.manual_seed(0)
    model = models.build(spec)  # type: ignore[arg-type]
    model.start(Crops(photos(), 0).batch, 6000)
    return export.export(spec, model.state_dict(), photos()[:4], {"name": name})  # type: ignore[arg-type]


def opened(name: str, folder: Path) -> str:
    """The id of such a model, its file opened in this process."""
    path = folder / f"{name}.safetensors"
    path.write_bytes(model_of(name))
    return weights.open_model(str(path))

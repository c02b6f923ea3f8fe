"""A model of a few channels with random weights, so that one round of fuzzing takes a millisecond and no torch."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import safetensors.numpy

from pipeline.bitstream import container
from pipeline.bitstream.container import Reduced
from pipeline.codecs.base import Symbols
from pipeline.codecs.learned import dequantise, symbols, weights
from pipeline.codecs.learned.wiener import Wiener
from pipeline.entropy.tables import freeze, logistic_pmf
from pipeline.nn import context, integer
from pipeline.nn.spec import SuperresSpec

HYPER, LATENT, WIDTH = 2, 3, 4


@functools.cache
def file() -> bytes:
    """Its weights file."""
    random = np.random.default_rng(0)
    tables = freeze([logistic_pmf(integer.sigma_of_index(i), min(3 + i, 20)) for i in range(integer.INDEX_COUNT)])
    arrays = {
        "log2_base": random.integers(-500, 2000, (5, LATENT)).astype(np.int32),
        "log2_sigma_z": random.integers(-500, 2000, (5, HYPER)).astype(np.int32),
        "tables.frequencies": tables.frequencies.astype(np.int32),
        "tables.reaches": tables.reaches,
        "h_s.compression": np.arange(256, dtype=np.int32),
    }
    both = freeze([_trellis_pmf(i, offset) for offset in (0.0, 0.5) for i in range(integer.INDEX_COUNT)])
    arrays |= {
        "trellis.frequencies": both.frequencies.astype(np.int32),
        "trellis.reaches": both.reaches,
        "trellis.shifts": np.zeros(len(both), np.float32),
        "trellis.step": np.array([1.25], np.float32),
    }
    shapes = {"conv1": (9, WIDTH, HYPER), "up1": (1, 4 * WIDTH, WIDTH), "conv2": (9, WIDTH, WIDTH)}
    shapes |= {"up2": (1, 4 * WIDTH, WIDTH), "out": (1, 2 * LATENT, WIDTH)}
    for name, shape in shapes.items():
        arrays[f"h_s.{name}.weight"] = random.integers(-30, 30, shape).astype(np.int16)
        arrays[f"h_s.{name}.bias"] = random.integers(-99, 99, shape[1]).astype(np.int32)
        arrays[f"h_s.{name}.shift"] = np.array(4, dtype=np.int32)
    return weights.serialise(arrays, {"spec": {"hyper": HYPER, "latent": LATENT}, "skip_below": 2})


def _trellis_pmf(index: int, offset: float) -> np.ndarray:
    return logistic_pmf(integer.sigma_of_index(index), min(3 + index, 20), 1.25, offset)


@functools.cache
def file_in_turns() -> bytes:
    """The same with a context for z."""
    random, arrays = np.random.default_rng(1), safetensors.numpy.load(file())
    for k in range(len(context.NEIGHBOURS)):
        widths = context.inputs(k, HYPER), WIDTH, WIDTH, 2 * HYPER
        for name, before, after in zip(context.LAYER_NAMES, widths, widths[1:], strict=False):
            arrays[f"z_context.{k}.{name}.weight"] = random.integers(-30, 30, (1, after, before)).astype(np.int16)
            arrays[f"z_context.{k}.{name}.bias"] = random.integers(-99, 99, after).astype(np.int32)
            arrays[f"z_context.{k}.{name}.shift"] = np.array(5, dtype=np.int32)
    arrays["z_context.sigmas"] = np.arange((integer.INDEX_COUNT - 1 << integer.SCALE_BITS) + 1, dtype=np.int32) * 9
    tables = freeze([logistic_pmf(1 + i / 9, 3 + i % 20) for i in range(context.TABLE_COUNT)])
    arrays |= {
        "z_context.frequencies": tables.frequencies.astype(np.int32),
        "z_context.reaches": tables.reaches,
    }
    return weights.serialise(arrays, weights.meta_of(file()))


@functools.cache
def model(in_turns: bool = False) -> weights.FrozenModel:
    return weights.parse(file_in_turns() if in_turns else file())


def payload(
    height_px: int = 70,
    width_px: int = 90,
    quality_centi: int = 6000,
    reach: int = 60,
    trellis: int = 0,
    adaptive: int = 0,
    in_turns: bool = False,
) -> bytes:
    """Random symbols under it, escapes among them."""
    random, grid = np.random.default_rng(reach), symbols.Grid.of(height_px, width_px)
    z = random.integers(-3, 3, (HYPER, grid.z_height, grid.z_width)).astype(np.int16)
    y = random.integers(-reach, reach, (LATENT, grid.height, grid.width)).astype(np.int16)
    y = _skipped(y, z, quality_centi, adaptive)
    of = model(in_turns)
    made = Symbols(of.model_id, height_px, width_px, False, quality_centi, y, z, trellis=trellis, adaptive=adaptive)
    return symbols.entropy_encode(of, made)


def filtered() -> bytes:
    """A payload with a filter of its own."""
    taps = np.random.default_rng(1).integers(-9, 9, (3, 38 + 24)).astype(np.int16)
    box, how = container.unpack(payload(trellis=128)), Wiener(7, taps, (30, 120))
    return container.pack(replace(box, sections={**box.sections, container.FILTER: how.to_bytes(model().tables)}))


def reduced() -> bytes:
    """A payload of a picture that was coded at half its size."""
    box, how = container.unpack(payload()), Reduced(2, "ab" * 8, 179, 140)
    return container.pack(replace(box, sections={**box.sections, container.REDUCED: how.to_bytes()}))


@functools.cache
def superres_file() -> bytes:
    """The file of a super-resolver of two channels."""
    from pipeline.nn import superres  # the other targets need no torch

    spec = SuperresSpec(width=2, blocks=1, anchors=2)
    return weights.serialise(
        superres.freeze(superres.SuperResolver(spec)), {"kind": spec.kind, "spec": spec.to_json(), "card": {}}
    )


def _skipped(y: np.ndarray, z: np.ndarray, quality_centi: int, adaptive: int) -> np.ndarray:
    """y as it is coded: zero where the scale index says that nothing is."""
    grid = symbols.Grid(y.shape[1], y.shape[2], z.shape[1], z.shape[2])
    for band in grid.bands():
        offset = band.scales(model().h_s, z.astype(np.float64))
        index = dequantise.placed(model(), quality_centi, adaptive, offset).index
        y[:, band.rows][index < model().skip_below] = 0
    return y

"""g_a by rows, from bytes: what the network is in float32, but for rounding to bf16 or to bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.codecs.learned import networks, tiles, weights
from pipeline.codecs.learned.analysis import AnalysisByHand, padded
from pipeline.codecs.learned.byte_rows import compiled_rows
from pipeline.codecs.learned.networks import Networks
from pipeline.imaging.decode import decode
from pipeline.nn.freeze import FrozenTransforms
from pipeline.nn.hyperprior import pad_to
from pipeline.nn.spec import HyperpriorSpec
from pipeline.nn.transforms import AnalysisTransform
from tests.codecs.test_tiles import HAS_BF16
from tests.golden.add import FOLDER as GOLDEN

needs_onednn = pytest.mark.skipif(not tiles.multiplies_rows(), reason="oneDNN is not at home here, modules are used")


@pytest.fixture(params=["fp32", "bf16", "bytes"])
def way(request: pytest.FixtureRequest) -> str:
    """All the ways there are, whichever is the fastest here."""
    if request.param == "bytes" and compiled_rows() is None:
        pytest.skip("this CPU does not multiply bytes; in fp32 the same is looked at")
    if request.param == "bf16" and not HAS_BF16:
        pytest.skip("this CPU has no instruction for bf16; in fp32 the same is looked at")
    found: str = request.param
    return found


def by_hand(g_a: AnalysisTransform, way: str) -> AnalysisByHand:
    made = compiled_rows() if way == "bytes" else None
    return AnalysisByHand(g_a, torch.bfloat16 if way == "bf16" else torch.float32, made)


FORMER = GOLDEN.parent / "weights" / "76a6df8d2f3d9f11.safetensors"  # without limits between blocks


def transforms_of(data: bytes) -> FrozenTransforms:
    model = weights.parse(data)
    return FrozenTransforms(HyperpriorSpec(**model.spec), dict(model.arrays))


@pytest.fixture(scope="module", params=["default", "former"])
def transforms(request) -> FrozenTransforms:
    former = request.param == "former"
    return transforms_of(FORMER.read_bytes() if former else weights.packaged_bytes(weights.default_model_id("cnn")))


@pytest.fixture(scope="module")
def rgb(photos) -> torch.Tensor:
    return torch.from_numpy(decode(photos[0].read_bytes()).rgb[:192, :320].copy())


def qualities() -> list[torch.Tensor]:
    """Low and high, and one for each position."""
    by_place = torch.rand(1, 12, 20, generator=torch.Generator().manual_seed(0))
    return [torch.tensor([0.1]), torch.tensor([0.95]), by_place]


@needs_onednn
@pytest.mark.parametrize("quality", qualities(), ids=["low", "high", "by place"])
def test_latents_are_those_of_the_network(transforms, rgb, quality, way):
    """Within a fiftieth of a quantiser step on average, which autocast is as well; twice that in bytes."""
    x = (rgb.permute(2, 0, 1)[None].float() / 255).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        gain = transforms.gain(quality)
        exact = transforms.g_a(x, quality) * gain
        with torch.autocast("cpu", torch.bfloat16):
            cast = transforms.g_a(x, quality) * gain
        found = by_hand(transforms.g_a, way)(rgb, quality) * gain
    assert found.shape == exact.shape
    error, of_autocast = ((each - exact).square().mean().sqrt().item() for each in (found, cast))
    assert error < {"fp32": 0.001, "bf16": 0.02, "bytes": 0.04}[way]
    assert error < {"fp32": 0.01, "bf16": 1.5, "bytes": 4}[way] * of_autocast


@needs_onednn
def test_the_one_that_encoders_use_has_weights_that_were_rounded_once(rgb):
    model = weights.packaged_model(weights.default_model_id("cnn"))
    transforms = transforms_of(weights.packaged_bytes(model.model_id))
    with torch.inference_mode():
        quality = torch.tensor([0.5])
        used = Networks(model, "cpu").g_a
        assert used is not None
        made = AnalysisByHand(transforms.g_a, used.dtype, used.made)
        assert torch.equal(used(rgb, quality), made(rgb, quality))


@needs_onednn
def test_black_and_white_are_bytes_like_any_other(transforms, way):
    for level in (0, 255):
        rgb = torch.full((64, 64, 3), level, dtype=torch.uint8)
        x = (rgb.permute(2, 0, 1)[None].float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            quality = torch.tensor([0.5])
            expected = transforms.g_a(x, quality)
            found = by_hand(transforms.g_a, way)(rgb, quality)
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0.002)


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (65, 64), (64, 63), (130, 5)])
def test_padding_repeats_the_last_row_and_column(size):
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    expected = pad_to(rgb.permute(2, 0, 1)[None].float(), 64)[0].permute(1, 2, 0)
    assert torch.equal(padded(rgb, 64), expected.byte())


@pytest.mark.parametrize("blocks", [8, 12])
def test_tiles_leave_no_seams(blocks, photos, monkeypatch):
    """Not even where an encoder looks further than others."""
    data = weights.packaged_bytes(weights.default_model_id("cnn"))
    arrays, meta = dict(weights.parse(data).arrays), weights.meta_of(data)
    had = meta["spec"]["encoder_blocks"]
    again = {
        name.replace(f".{k - 4}.", f".{k}."): part
        for k in range(had, blocks)
        for name, part in arrays.items()
        if name.startswith(f"g_a.blocks.{k - 4}.")
    }
    arrays |= again
    for name in [name for name in arrays if name.startswith("g_a.blocks.") and name.endswith("spatial.weight")]:
        arrays[name] = 3 * np.abs(arrays[name])  # trained ones look far, but see little there
    limits = arrays["g_a.blocks.limits"]
    limits = np.concatenate([limits, limits[-1:].repeat(blocks - had, 0)])
    meta["spec"] |= {"encoder_blocks": blocks}
    deep = weights.parse(weights.serialise(arrays | {"g_a.blocks.limits": limits}, meta))
    monkeypatch.setattr(networks, "multiplies_rows", lambda: False)
    monkeypatch.setattr(networks, "has_fast_bf16", lambda: False)
    own = Networks(deep, "cpu")
    picture = decode(photos[0].read_bytes()).rgb[:64, :704].copy()
    with torch.no_grad():
        whole = own._latents(picture, own._steps(6000))
        monkeypatch.setattr(tiles, "TILE_PX", 128)
        parted = own._latents(picture, own._steps(6000))
    assert (parted - whole).abs().max() < 1e-3

"""Codecs with static tables: the codec contract, pruning, uniform codes, normalisation, and exactness."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from pipeline.codecs import registry
from pipeline.codecs.learned import static_symbols, weights
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.codecs.learned.static import Conv, TileAutoencoder, Transfer
from pipeline.codecs.learned.static_networks import StaticNetworks
from pipeline.errors import BitstreamError, ConfigError
from pipeline.metrics.distortion import mse, psnr_db
from pipeline.records import Picture, Rate
from tests.codecs import made_static
from tests.contracts.codec import CodecContract, colour_picture, photo

QUALITY = Rate(quality=60.0)
CODECS = {"transfer": Transfer, "conv": Conv, "tile-autoencoder": TileAutoencoder}


class _Made(CodecContract):
    """The contract, for a model that is made before the first test."""

    made: ClassVar[str]
    recognisable_db = 18.0  # models here are started and not trained

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _model(cls, tmp_path_factory):
        model_id = made_static.opened(cls.made, tmp_path_factory.mktemp("model"))
        cls.codec = CODECS[cls.made](QUALITY, model_id)

    def test_more_quality_is_more_bytes(self):
        picture = colour_picture()
        payloads = [self.codec.at(Rate(quality=q)).encode(picture).payload for q in (10, 35, 60, 85)]
        sizes = [len(payload) for payload in payloads]
        assert sizes == sorted(set(sizes))

    def test_a_size_target_is_kept_and_used(self):
        picture = colour_picture()
        low, high = (len(self.codec.at(Rate(quality=q)).encode(picture).payload) for q in (20, 80))
        budget = 4 * (low + high) / (192 * 256)
        bpp = 8 * len(self.codec.at(Rate(bpp=budget)).encode(picture).payload) / (192 * 256)
        assert 0.9 * budget < bpp <= budget


class TestTransfer(_Made):
    made = "transfer"


class TestConv(_Made):
    made = "conv"


class TestTileAutoencoder(_Made):
    made = "tile-autoencoder"


def codec_of(name: str, rate: Rate = QUALITY, **options):
    kind = CODECS.get(name, TileAutoencoder)
    return kind.from_weights(made_static.model_of(name), rate, **options)


@pytest.mark.parametrize("name", made_static.SPECS)
def test_symbols_survive_entropy_coding_and_every_changed_byte_is_found(name):
    codec = codec_of(name)
    (analysis,) = codec.analyse([colour_picture(70, 90)])
    payload = codec.entropy_encode(analysis.symbols)
    read = codec.entropy_decode(payload)
    assert np.array_equal(read.y, analysis.symbols.y)
    assert np.array_equal(read.z, analysis.symbols.z)
    assert mse(colour_picture(70, 90).rgb, codec.decode(payload)) == pytest.approx(analysis.distortion.mse, abs=0.1)
    for at in range(len(payload)):
        with pytest.raises(BitstreamError):
            codec.entropy_decode(payload[:at] + bytes([payload[at] ^ 0x40]) + payload[at + 1 :])


@pytest.mark.parametrize("name", ["transfer", "tile-autoencoder"])
def test_dropping_the_least_important_channels_first_costs_least(name):
    picture = colour_picture()
    whole, half = (codec_of(name, keep=keep).encode(picture).payload for keep in (1.0, 0.5))
    assert len(half) < len(whole)
    decoder = codec_of(name)
    harm = mse(picture.rgb, decoder.decode(half))
    model = weights.parse(made_static.model_of(name))
    worst = replace(model, arrays=dict(model.arrays) | {"channels.order": model.arrays["channels.order"][::-1].copy()})
    networks = StaticNetworks(worst, "cpu", keep=0.5)
    _, decoded = networks.analyse(picture.rgb, 6000, False)
    assert harm < mse(picture.rgb, decoded)


def test_uniform_codes_cost_what_they_say():
    picture = colour_picture()
    for quality in (25.0, 50.0, 100.0):
        payload = codec_of("num-bits", Rate(quality=quality)).encode(picture).payload
        channels, positions = 96 * quality / 100, 192 * 256 / 16**2
        bits = channels * positions * 7
        assert bits <= 8 * len(payload) <= bits + 8 * 64
    assert psnr_db(mse(picture.rgb, codec_of("num-bits").decode(payload))) > 18


def test_normalisation_is_undone():
    """A dim, tinted picture of low contrast comes back dim, tinted and of low contrast."""
    rgb = (photo() * 0.2 + np.array([10, 40, 80])).astype(np.uint8)
    codec = codec_of("conv")
    (analysis,) = codec.analyse([Picture(rgb)])
    assert analysis.symbols.z.size == 7
    decoded = codec.decode(codec.entropy_encode(analysis.symbols)).astype(float)
    assert np.abs(decoded.mean(axis=(0, 1)) - rgb.mean(axis=(0, 1))).max() < 2
    assert decoded.std() == pytest.approx(rgb.std(), rel=0.15)


def test_normalisation_moves_quantiser_and_tables_alike():
    """A picture at a quarter of the contrast needs about the bits it needs unnormalised: fewer, not the same."""
    codec = codec_of("conv")
    dim = (128 + (photo().astype(float) - 128) / 4).round().astype(np.uint8)
    bright, faint = (len(codec.encode(Picture(rgb)).payload) for rgb in (photo(), dim))
    assert faint < 0.6 * bright


def test_tiles_know_nothing_of_each_other():
    codec = codec_of("tile-autoencoder")
    one, other = photo(32, 32), photo(32, 32)
    other[:, 16:] = 0
    (a,), (b,) = codec.analyse([Picture(one)]), codec.analyse([Picture(other)])
    assert np.array_equal(a.symbols.y[:, :, 0], b.symbols.y[:, :, 0])
    assert not np.array_equal(a.symbols.y[:, :, 1], b.symbols.y[:, :, 1])


@pytest.mark.parametrize("name", ["transfer", "conv"])
def test_large_pictures_have_no_seams(name, monkeypatch):
    from pipeline.codecs.learned import tiles

    codec = codec_of(name, Rate(quality=90.0))
    picture = colour_picture(192, 512)
    payload = codec.encode(picture).payload
    whole = codec.decode(payload).astype(int)
    monkeypatch.setattr(tiles, "TILE_PX", 128)
    assert np.abs(codec.decode(payload) - whole).max() <= 1


def test_threads_do_not_change_symbols():
    codec = codec_of("conv")
    payload = codec.encode(colour_picture(130, 70)).payload
    expected = codec.decode(payload)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert np.abs(codec.decode(payload).astype(int) - expected).max() <= 1
        assert np.array_equal(codec.entropy_decode(payload).y, codec_of("conv").entropy_decode(payload).y)
    finally:
        torch.set_num_threads(threads)


def test_a_payload_is_decoded_without_torchvision_and_read_without_torch(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(made_static.model_of("transfer"))
    (tmp_path / "p.spx").write_bytes(codec_of("transfer").encode(colour_picture(64, 64)).payload)
    script = (
        "import sys\n"
        "sys.modules['torchvision'] = None\n"
        "from pipeline.codecs.learned.static import Transfer\n"
        "codec = Transfer(model=sys.argv[1])\n"
        "payload = open(sys.argv[2], 'rb').read()\n"
        "codec.entropy_decode(payload); print('torch' in sys.modules)\n"
        "print(codec.decode(payload).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m.safetensors"), str(tmp_path / "p.spx")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["False", "(64, 64, 3)"], done.stderr


def test_models_and_codecs_must_fit(tmp_path):
    with pytest.raises(ConfigError, match=r"codec conv: model \w+ is of kind transfer; use codec transfer"):
        Conv.from_weights(made_static.model_of("transfer"))
    with pytest.raises(ConfigError, match="codec transfer: model"):
        Transfer(model=Hyperprior().model_id)
    with pytest.raises(ConfigError, match="keep is 0"):
        registry.build("conv", QUALITY, keep=0, model=made_static.opened("conv", tmp_path))
    with pytest.raises(ConfigError, match=r"nowhere\.safetensors"):
        Conv(model=str(tmp_path / "nowhere.safetensors"))


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_without_weights_says_how_to_train_some(name):
    if (weights.FOLDER / f"DEFAULT.{name}").is_file():
        assert registry.build(name).model_id
        return
    with pytest.raises(ConfigError, match=rf"shardpress train --config configs/train/{name}.yaml"):
        registry.build(name)
    assert (Path(__file__).parents[2] / "configs" / "train" / f"{name}.yaml").is_file()


def test_a_damaged_side_is_a_bitstream_error():
    from pipeline.bitstream import container

    codec = codec_of("conv")
    box = container.unpack(codec.encode(colour_picture(32, 32)).payload)
    for side in (b"", b"\0\0" * 7, b"\x01\0" * 6, b"\x01\0\0\0\0\0\0\0\xff\x7f\0\0\0\0"):
        sections = {**box.sections, container.Z: side}
        with pytest.raises(BitstreamError, match="side information"):
            static_symbols.entropy_decode(codec.frozen, container.pack(replace(box, sections=sections)))

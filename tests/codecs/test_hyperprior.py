"""The learned codec: the codec contract, and exactness whatever runs it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.codecs import registry
from pipeline.codecs.learned import adaptive, networks, quantise, symbols, tiles, weights
from pipeline.codecs.learned.byte_slopes import InBytes
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.codecs.learned.symbols import Grid
from pipeline.errors import BitstreamError, CodecError, ConfigError, VerifyError
from pipeline.metrics.bd import RDCurve, bd_rate
from pipeline.metrics.distortion import ms_ssim, mse, psnr_db
from pipeline.nn import codes
from pipeline.records import Picture, Rate
from pipeline.stages.encode import require_equal
from tests.codecs import made_static
from tests.contracts.codec import LossyContract, colour_picture, photo

QUALITY = Rate(quality=60.0)
FLOATS = Path(__file__).parents[1] / "golden" / "weights" / "bf034c42ed3da6ac.safetensors"
"""A model from before decoders were of integers."""


def same_symbols(left, right) -> bool:
    return np.array_equal(left.y, right.y) and np.array_equal(left.z, right.z) and left.trellis == right.trellis


class TestHyperprior(LossyContract):
    codec = Hyperprior(QUALITY)


@pytest.fixture(scope="module")
def codec() -> Hyperprior:
    return Hyperprior(QUALITY)


def test_every_changed_byte_of_a_payload_is_found(codec):
    payload = codec.encode(colour_picture(64, 64)).payload
    for at in range(len(payload)):
        with pytest.raises(BitstreamError):
            codec.entropy_decode(payload[:at] + bytes([payload[at] ^ 0x40]) + payload[at + 1 :])


def test_symbols_are_read_without_torch(codec, tmp_path):
    payload = codec.encode(colour_picture(130, 70)).payload
    (tmp_path / "p.spx").write_bytes(payload)
    script = (
        "import sys, hashlib\n"
        "from pipeline.codecs.learned.hyperprior import Hyperprior\n"
        "s = Hyperprior().entropy_decode(open(sys.argv[1], 'rb').read())\n"
        "print(hashlib.sha256(s.y.tobytes() + s.z.tobytes()).hexdigest(), 'torch' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "p.spx")], capture_output=True, text=True, check=True
    )
    found = codec.entropy_decode(payload)
    expected = hashlib.sha256(found.y.tobytes() + found.z.tobytes()).hexdigest()
    assert out.stdout.split() == [expected, "False"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mkldnn", [True, False])
@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("effort", [1, 2])
def test_what_any_analysis_wrote_is_read_to_the_same_symbols(codec, threads, mkldnn, bf16, effort, monkeypatch):
    picture = colour_picture(130, 200)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    monkeypatch.setattr(networks, "has_fast_bf16", lambda: bf16)
    try:
        with torch.backends.mkldnn.flags(enabled=mkldnn):
            (analysis,) = Hyperprior(QUALITY, effort=effort).analyse([picture])
    finally:
        torch.set_num_threads(before)
    read = codec.entropy_decode(codec.entropy_encode(analysis.symbols))
    assert same_symbols(analysis.symbols, read)


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("tune", ["psnr", "ms-ssim"])
def test_what_is_read_has_the_same_pixels_whatever_runs_it(tune, gray, monkeypatch):
    """The encoder's picture is every decoder's: threads, oneDNN, bytes or floats, tiles, and the caller's autocast."""
    coding, strength = Hyperprior(QUALITY, tune=tune), adaptive.STRENGTHS[tune]
    rgb = photo(330, 420)
    rgb = np.repeat(rgb[..., 1:2], 3, axis=2) if gray else rgb
    found, x_hat = coding.networks.analyse(rgb, 6000, gray, effort=2, strength=strength)
    payload, before = coding.entropy_encode(found), torch.get_num_threads()
    for threads, mkldnn, in_bytes, tile_px in ((1, True, True, 1024), (2, True, True, 128), (2, False, False, 1024)):
        if not in_bytes:
            monkeypatch.setattr(codes, "multiplies_bytes", lambda: False)
        monkeypatch.setattr(tiles, "TILE_PX", tile_px)
        torch.set_num_threads(threads)
        try:
            with torch.backends.mkldnn.flags(enabled=mkldnn), torch.autocast("cpu", torch.bfloat16, enabled=not mkldnn):
                decoder = registry.decoder_for("cnn", coding.model_id)
                assert np.array_equal(decoder.decode(payload), x_hat)
                assert np.array_equal(decoder.networks.synthesise(found), x_hat)
                again = coding.networks.symbols_of(rgb, 6000, gray, effort=2, strength=strength)
                assert (again.y != found.y).mean() < 0.06  # tiles see other edges, and a symbol moves those after it
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize(
    "lacking",
    [
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
    ],
    ids=lambda lacking: lacking["ONEDNN_MAX_CPU_ISA"],
)
def test_a_cpu_that_has_less_shows_the_same_pixels(codec, tmp_path, lacking):
    """What this CPU lacks, no library uses: other kernels, other sigmoids, sums of bytes that are cut off."""
    payload = codec.encode(Picture(photo(75, 133))).payload
    (tmp_path / "p.spx").write_bytes(payload)
    script = (
        "import sys, hashlib\n"
        "from pipeline.codecs.learned.hyperprior import Hyperprior\n"
        "decoded = Hyperprior(device='cpu').decode(open(sys.argv[1], 'rb').read())\n"
        "print(hashlib.sha256(decoded.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "p.spx")]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **lacking})
    assert out.stdout.strip() == hashlib.sha256(codec.decode(payload).tobytes()).hexdigest()


def test_tables_that_analysis_knows_already_are_those_the_entropy_coder_asks_for(codec, monkeypatch):
    for effort, limit_px in ((0, 1 << 20), (1, 1 << 20), (1, 100)):
        monkeypatch.setattr(networks, "INDEX_LIMIT_PX", limit_px)
        found = codec.networks.symbols_of(photo(130, 200), 6000, False, effort)
        assert (found.index is None) == (limit_px == 100)
        assert codec.entropy_encode(found) == codec.entropy_encode(replace(found, index=None))


def test_tables_of_another_picture_do_not_get_past_verification(codec):
    (analysis,) = codec.analyse([colour_picture(130, 200)])
    wrong = replace(analysis.symbols, index=np.roll(analysis.symbols.index, 1, axis=0))
    with pytest.raises((BitstreamError, VerifyError)):
        require_equal(wrong, codec.entropy_decode(codec.entropy_encode(wrong)))


def test_a_batch_gives_the_symbols_of_its_pictures_one_by_one(codec):
    pictures = [colour_picture(64, 64), colour_picture(40, 90), colour_picture(64, 64)]
    together = codec.analyse(pictures)
    for picture, analysis in zip(pictures, together, strict=True):
        (alone,) = codec.analyse([picture])
        assert same_symbols(alone.symbols, analysis.symbols)


def test_the_metrics_of_analysis_are_those_of_the_decoded_payload(codec):
    picture = colour_picture(200, 180)
    (analysis,) = codec.analyse([picture])
    decoded = codec.decode(codec.entropy_encode(analysis.symbols))
    assert mse(picture.rgb, decoded) == analysis.distortion.mse
    assert ms_ssim(picture.rgb, decoded) == analysis.distortion.ms_ssim


@pytest.fixture
def mindless(monkeypatch):
    """Passes mind no filter: the one that a tile asks for is that of what was seen of the picture so far."""
    monkeypatch.setattr(networks, "expected", lambda x_hat, wiener: x_hat)


@pytest.fixture(scope="module")
def in_floats() -> Hyperprior:
    """What every tile rounds to bytes for itself, differs as far as a tile sees: here nothing is rounded so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "compiled_rows", lambda: None)
        found = Hyperprior(QUALITY)
        assert not isinstance(found.networks.by_hand, InBytes)
    return found


@pytest.mark.parametrize("linear_passes", [0, 1])
def test_tiles_leave_no_seam(in_floats, monkeypatch, mindless, linear_passes):
    """Tiled and whole, the picture is the same, and so are symbols but for a rare tie along the trellis."""
    monkeypatch.setattr(quantise, "LINEAR_PASSES", linear_passes)
    rgb = np.concatenate([photo(400, 400), photo(400, 400)[:, ::-1]], axis=1)
    whole, x_hat = in_floats.networks.analyse(rgb, 6000, gray=False)
    monkeypatch.setattr(tiles, "TILE_PX", 256)
    tiled, _ = in_floats.networks.analyse(rgb, 6000, gray=False)
    apart = np.abs(whole.y - tiled.y)
    assert apart.max() <= 2  # of the other parity, and the next of the other quantiser
    assert (apart > 0).mean() < 3e-4
    assert (apart > 1).mean() < 1e-5
    assert np.array_equal(in_floats.networks.synthesise(whole), x_hat)


@pytest.mark.parametrize("effort", [1, 4])
def test_tiles_and_regions_that_mind_a_filter_are_as_good(codec, monkeypatch, effort):
    """Each goes by the filter of what has been seen so far, and rounds rows for itself where they are bytes, so that
    some symbols differ; what they cost does not.
    """
    lmbda = codec.networks.spec.lmbda(torch.tensor(0.6)).item()

    def found() -> tuple[np.ndarray, float, float]:
        """Symbols, bits, and what errors are worth in bits."""
        symbols_, x_hat = codec.networks.analyse(rgb, 6000, gray=False, effort=effort)
        return symbols_.y, 8 * len(codec.entropy_encode(symbols_)), lmbda * mse(rgb, x_hat) * rgb[..., 0].size

    rgb = made_static.photos()[0][:800, :640].copy()
    whole, bits, errors = found()
    monkeypatch.setattr(tiles, "TILE_PX", 256)
    for region in (networks.REGION_POSITIONS, 16 * 40):
        monkeypatch.setattr(networks, "REGION_POSITIONS", region)
        monkeypatch.setattr(symbols, "BAND_POSITIONS", 40)
        parts, of_parts, wrong = found()
        assert 0 < (parts != whole).mean() < 0.06
        assert abs(of_parts + wrong - bits - errors) < 0.005 * bits


def test_bands_do_not_change_what_the_hyper_decoder_says(codec, monkeypatch):
    grid = Grid.of(900, 200)
    z = np.random.default_rng(0).normal(0, 3, (codec.frozen.spec["hyper"], grid.z_height, grid.z_width)).round()
    whole, _ = next(grid.bands()).hyper(codec.frozen.h_s, z)
    monkeypatch.setattr(symbols, "BAND_POSITIONS", 8)
    parts = [band.hyper(codec.frozen.h_s, z)[0] for band in grid.bands()]
    assert len(parts) > 4
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_a_picture_of_many_bands_comes_back(codec, monkeypatch):
    monkeypatch.setattr(symbols, "BAND_POSITIONS", 4)
    (analysis,) = codec.analyse([colour_picture(330, 140)])
    assert same_symbols(analysis.symbols, codec.entropy_decode(codec.entropy_encode(analysis.symbols)))


def curve(effort: int, rgb: np.ndarray) -> RDCurve:
    """Bits per pixel of payloads and PSNR of what they decode to, at four qualities."""
    bpp, decibels = [], []
    for quality in (20.0, 40.0, 60.0, 80.0):
        codec = Hyperprior(Rate(quality=quality), effort=effort)
        payload = codec.encode(Picture(rgb)).payload
        bpp.append(8 * len(payload) / (rgb.size / 3))
        decibels.append(psnr_db(mse(rgb, codec.decode(payload))))
    return RDCurve(tuple(bpp), tuple(decibels))


def test_effort_saves_bytes_at_equal_quality():
    rgb = photo(250, 330)
    rounded = curve(0, rgb)
    saved = [bd_rate(rounded, curve(effort, rgb)) for effort in (1, 2, 4)]
    assert saved == sorted(saved, reverse=True)
    assert saved[0] < -0.5
    assert saved[-1] < -3


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (130, 70)])
def test_effort_fits_any_size_and_gray(size):
    rgb = np.repeat(photo(*size)[..., :1], 3, axis=2)
    picture, codec = Picture(rgb, gray=True), Hyperprior(Rate(quality=50.0), effort=4)
    (analysis,) = codec.analyse([picture])
    decoded = codec.decode(codec.entropy_encode(analysis.symbols))
    assert decoded.shape == rgb.shape
    assert (decoded == decoded[..., :1]).all()
    assert mse(rgb, decoded) == pytest.approx(analysis.distortion.mse, rel=1e-3, abs=0.05)


def test_the_slope_of_tiles_is_that_of_the_whole(in_floats, monkeypatch, mindless):
    """Refinement of a picture in tiles finds nearly the symbols of the whole, and a picture that is as good."""
    rgb = photo(400, 800)
    effort4 = in_floats.networks
    whole, x_hat = effort4.analyse(rgb, 6000, gray=False, effort=4)
    monkeypatch.setattr(tiles, "TILE_PX", 256)
    assert len(list(tiles._windows(800, tiles.HALO_PX, tiles.TILE_PX))) > 1
    tiled, of_tiles = effort4.analyse(rgb, 6000, gray=False, effort=4)
    assert (whole.y != tiled.y).mean() < 0.02  # one other choice, and the symbols after it in its lane may differ
    assert psnr_db(mse(rgb, of_tiles)) == pytest.approx(psnr_db(mse(rgb, x_hat)), abs=0.01)


def test_a_large_picture_is_refined_region_by_region(in_floats, monkeypatch, mindless):
    """With hardly another symbol, whatever the regions' size; each ends at a band, and no row is left out."""
    codec, lost = in_floats, []
    monkeypatch.setattr(symbols, "BAND_POSITIONS", 1)
    at_once = networks.REGION_POSITIONS
    for rgb in (photo(500, 300), photo(500, 300)[:, ::-1].copy(), photo(500, 300)[::-1].copy(), photo(450, 300)):
        monkeypatch.setattr(networks, "REGION_POSITIONS", at_once)
        whole, x_hat = codec.networks.analyse(rgb, 6000, gray=False, effort=3)
        monkeypatch.setattr(networks, "REGION_POSITIONS", 8 * 19)
        parts, y_hat = codec.networks.analyse(rgb, 6000, gray=False, effort=3)
        assert (whole.y != parts.y).mean() < 0.02
        lost.append(psnr_db(mse(rgb, x_hat)) - psnr_db(mse(rgb, y_hat)))
        assert len(codec.entropy_encode(parts)) < 1.01 * len(codec.entropy_encode(whole))
        assert same_symbols(parts, codec.entropy_decode(codec.entropy_encode(parts)))
    assert np.mean(lost) < 0.02


@pytest.mark.parametrize(
    ("rate", "measure", "tolerance"),
    [
        (Rate(psnr_db=33.0), lambda p, x: psnr_db(mse(p.rgb, x)), 0.05),
        (Rate(ms_ssim=0.97), lambda p, x: ms_ssim(p.rgb, x), 0.001),
    ],
)
def test_quality_targets_are_reached_and_not_overshot(rate, measure, tolerance):
    codec, picture = Hyperprior(rate), colour_picture(256, 320)
    found = measure(picture, codec.decode(codec.encode(picture).payload))
    target = rate.psnr_db or rate.ms_ssim
    assert 0 <= found - target <= tolerance


def test_size_targets_are_kept():
    codec, picture = Hyperprior(Rate(bpp=0.8)), colour_picture(256, 320)
    bpp = 8 * len(codec.encode(picture).payload) / (256 * 320)
    assert 0.8 * 0.98 <= bpp <= 0.8


def test_an_impossible_target_says_what_was_reached():
    with pytest.raises(CodecError, match=r"cannot be reached: .* at quality 100"):
        Hyperprior(Rate(psnr_db=99.0)).encode(colour_picture(64, 64))


def test_noise_and_flat_colour_survive(codec):
    noise = np.random.default_rng(0).integers(0, 256, (100, 90, 3), dtype=np.uint8)
    for rgb in (noise, np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)):
        (analysis,) = codec.analyse([Picture(rgb)])
        assert same_symbols(analysis.symbols, codec.entropy_decode(codec.entropy_encode(analysis.symbols)))


@pytest.mark.parametrize("model", [None, FLOATS])
def test_a_decoder_in_bf16_shows_the_same_photo_and_what_is_measured_stays_exact(model):
    """Floats are rounded where the hardware has bf16; integers of a CPU are faster than that, and stay."""
    rgb, codec = photo(200, 300), Hyperprior(QUALITY, model=str(model) if model else None)
    fast = registry.decoder_for("cnn", codec.model_id, precision="bf16")
    (analysis,) = codec.analyse([Picture(rgb)])
    payload = codec.entropy_encode(analysis.symbols)
    right, found = codec.decode(payload), fast.decode(payload)
    assert np.abs(right.astype(int) - found).mean() < 0.5
    assert psnr_db(mse(rgb, found)) == pytest.approx(analysis.distortion.psnr_db, abs=0.05)
    changes = fast.networks.bf16 and (model is not None or fast.networks.device.type != "cpu")
    assert changes == (not np.array_equal(right, found))
    assert next(fast.analyse([Picture(rgb)])).distortion.mse == pytest.approx(mse(rgb, right), abs=0.05)
    with pytest.raises(ConfigError, match="precision 'fp16': expected one of fp32, bf16"):
        registry.decoder_for("cnn", codec.model_id, precision="fp16")


def test_an_archived_weights_file_decodes_like_the_packaged_one(codec):
    payload = codec.encode(colour_picture(64, 96)).payload
    sha256, data = codec.weights_bytes()
    assert sha256.startswith(codec.model_id)
    assert np.array_equal(Hyperprior.from_weights(data).decode(payload), codec.decode(payload))


def test_weights_are_bounded_and_named_by_their_hash():
    assert weights.default_model_id() in weights.packaged()
    for model_id in weights.packaged():
        data = weights.packaged_bytes(model_id)
        assert len(data) <= 16 << 20
        assert json.dumps(weights.parse(data).card)


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_weights_file_is_refused(data):
    with pytest.raises(BitstreamError, match="weights"):
        Hyperprior.from_weights(data)


def test_a_payload_of_another_model_says_which(codec):
    from pipeline.bitstream import container

    box = container.unpack(codec.encode(colour_picture(16, 16)).payload)
    foreign = container.pack(container.Container("ff" * 8, 16, 16, 6000, False, box.sections))
    with pytest.raises(BitstreamError, match="ffffffffffffffff"):
        codec.decode(foreign)


def test_wrong_arguments_are_config_errors():
    for wrong in ({"model": "0" * 16}, {"effort": 10}, {"effort": -1}):
        with pytest.raises(ConfigError):
            Hyperprior(QUALITY, **wrong)
    with pytest.raises(ConfigError, match="cuda:77"):
        Hyperprior(QUALITY, device="cuda:77").encode(colour_picture(16, 16))

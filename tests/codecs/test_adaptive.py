"""Adaptive quantisation: both ends know it from z, errors go where they show least, and payloads are like any other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.bitstream import container
from pipeline.codecs import registry
from pipeline.codecs.base import Analysis
from pipeline.codecs.learned import adaptive, bits, networks, symbols, tiles
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.codecs.learned.static import Transfer
from pipeline.errors import BitstreamError, ConfigError
from pipeline.metrics.bd import RDCurve, bd_rate, ms_ssim_db
from pipeline.metrics.distortion import measure
from pipeline.records import Picture, Rate, SourceImage
from pipeline.stages.work import Work, pack, unpack
from tests.codecs import made_static
from tests.codecs.test_hyperprior import same_symbols
from tests.contracts.codec import LossyContract, colour_picture, gray_picture

QUALITY = Rate(quality=60.0)
STRENGTH = adaptive.STRENGTHS["ms-ssim"]


@pytest.fixture(scope="module")
def codec() -> Hyperprior:
    return Hyperprior(QUALITY, device="cpu", tune="ms-ssim")


@pytest.fixture(scope="module")
def found(codec) -> Analysis:
    (analysis,) = codec.analyse([colour_picture(193, 257)])
    return analysis


class TestTunedForMsSsim(LossyContract):
    codec = Hyperprior(QUALITY, device="cpu", tune="ms-ssim")


def offsets(scale: float = 300.0, latent: int = 384) -> np.ndarray:
    return np.random.default_rng(5).normal(0, scale, (latent, 7, 9)).round()


def test_levels_are_whole_bounded_and_the_same_in_numpy_and_torch():
    for scale in (3.0, 300.0, 3e5):
        for strength in (1, STRENGTH, container.STRENGTH_LIMIT):
            level = adaptive.levels(strength, offsets(scale))
            assert level.shape == (7, 9)
            assert np.array_equal(level, level.round())
            assert np.abs(level).max() <= adaptive.LEVEL_LIMIT
            assert np.array_equal(level, adaptive.levels(strength, torch.from_numpy(offsets(scale))).numpy())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("latent", [3, 30, 60, 128, 384])
def test_levels_are_exact_where_a_division_has_no_remainder(latent, device):
    """A product with the reciprocal, as GPUs divide, is one too low for some of these."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    for strength in (1, 5, 25):
        wanted = np.arange(-adaptive.LEVEL_LIMIT, adaptive.LEVEL_LIMIT + 1)
        ties = (adaptive.UNIT // 2 - adaptive.UNIT * wanted) / strength
        for shift, level in ((0, wanted), (1, wanted - 1)):
            offset = np.broadcast_to(ties + shift, (latent, 1, len(wanted))).copy()
            found = adaptive.levels(strength, torch.from_numpy(offset).to(device)).cpu().numpy()
            assert np.array_equal(found[0], level.clip(-adaptive.LEVEL_LIMIT))
            assert np.array_equal(adaptive.levels(strength, offset), found)


def test_quality_falls_as_scales_rise_and_stays_where_they_are_usual():
    usual, octave = np.zeros((384, 1, 1)), np.full((384, 1, 1), 512.0)
    assert adaptive.levels(64, usual).item() == 0
    assert adaptive.levels(64, octave).item() == round(-64 * 512 / adaptive.UNIT)
    assert adaptive.levels(64, -octave).item() == round(64 * 512 / adaptive.UNIT)
    assert adaptive.quality_at(9_900, np.array([5.0, -99.0, 0.0])).tolist() == [10_000, 0, 9_900]


def test_levels_differ_within_a_photo_and_are_read_back(codec, found):
    levels = found.symbols.levels
    assert levels.max() - levels.min() >= 5
    read = codec.entropy_decode(codec.entropy_encode(found.symbols))
    assert same_symbols(read, found.symbols)
    assert read.adaptive == STRENGTH
    assert np.array_equal(read.levels, levels)


def test_a_payload_gives_the_picture_that_was_measured(codec, found):
    payload = codec.entropy_encode(found.symbols)
    decoded, source = codec.decode(payload), colour_picture(193, 257).rgb
    assert measure(source, decoded).psnr_db == pytest.approx(found.distortion.psnr_db, abs=0.01)
    without = replace(codec.entropy_decode(payload), levels=None)  # as it comes from another process
    assert np.abs(codec.synthesise([without])[0].astype(int) - decoded).max() <= 1
    plain = replace(found.symbols, index=None)
    assert codec.entropy_encode(plain) == payload


def test_gray_pictures_and_single_pixels_come_back(codec):
    for picture in (gray_picture(65, 63), Picture(np.full((1, 1, 3), 77, np.uint8))):
        (analysis,) = codec.analyse([picture])
        decoded = codec.decode(codec.entropy_encode(analysis.symbols))
        assert measure(picture.rgb, decoded).mse == pytest.approx(analysis.distortion.mse, abs=0.05)


@pytest.mark.parametrize("effort", [0, 1, 3])
def test_ms_ssim_takes_fewer_bytes_and_psnr_more(effort):
    picture = Picture(made_static.photos()[3][:256, :384].copy())
    curves = {}
    for tune in adaptive.STRENGTHS:
        coder, points = Hyperprior(QUALITY, device="cpu", effort=effort, tune=tune), []
        for quality in (20.0, 40.0, 60.0, 80.0):
            (analysis,) = coder.at(Rate(quality=quality)).analyse([picture])
            distortion = analysis.distortion
            points.append((len(coder.entropy_encode(analysis.symbols)), distortion.psnr_db, distortion.ms_ssim))
        size, psnr, similarity = zip(*points, strict=True)
        curves[tune] = RDCurve(size, psnr), RDCurve(size, [ms_ssim_db(x) for x in similarity])
    (psnr_of_psnr, ssim_of_psnr), (psnr_of_ssim, ssim_of_ssim) = curves["psnr"], curves["ms-ssim"]
    assert bd_rate(ssim_of_psnr, ssim_of_ssim) < -5
    assert bd_rate(psnr_of_psnr, psnr_of_ssim) > 0.5


def test_bands_and_tiles_do_not_change_it(codec, monkeypatch):
    monkeypatch.setattr(networks, "expected", lambda x_hat, wiener: x_hat)  # of what was seen, which tiles change
    picture, lost = colour_picture(330, 400), []
    for rgb in (picture.rgb[:, ::-1], picture.rgb[::-1], colour_picture(300, 420).rgb, picture.rgb):
        with monkeypatch.context() as smaller:
            (whole,) = codec.analyse([Picture(np.ascontiguousarray(rgb))])
            smaller.setattr(symbols, "BAND_POSITIONS", 8)
            smaller.setattr(tiles, "TILE_PX", 128)
            (parts,) = codec.analyse([Picture(np.ascontiguousarray(rgb))])
        assert (whole.symbols.levels != parts.symbols.levels).mean() < 0.02
        lost.append(whole.distortion.psnr_db - parts.distortion.psnr_db)
    assert np.mean(lost) == pytest.approx(0, abs=0.05)  # lanes are fewer
    monkeypatch.setattr(symbols, "BAND_POSITIONS", 8)
    monkeypatch.setattr(tiles, "TILE_PX", 128)
    payload = codec.entropy_encode(parts.symbols)
    read, decoded = codec.entropy_decode(payload), codec.decode(payload)
    assert same_symbols(read, parts.symbols)
    monkeypatch.setattr(tiles, "TILE_PX", 1024)
    assert np.abs(codec.synthesise([read])[0].astype(int) - decoded).max() <= 1


def test_even_levels_give_the_picture_of_even_quality(codec):
    symbols_, _ = codec.networks.analyse(colour_picture(65, 130).rgb, 6000, gray=False)
    y_hat = np.random.default_rng(0).normal(0, 2, symbols_.y.shape).astype(np.float32)
    even = replace(symbols_, adaptive=1, levels=np.zeros(symbols_.y.shape[1:], np.int8))
    other = replace(symbols_, adaptive=1, levels=np.full(symbols_.y.shape[1:], 9, np.int8))
    expected = codec.networks.synthesise(symbols_, y_hat).astype(int)
    assert np.abs(codec.networks.synthesise(even, y_hat) - expected).max() <= 1
    raised = codec.networks.synthesise(replace(symbols_, quality_centi=6900), y_hat).astype(int)
    assert np.abs(codec.networks.synthesise(other, y_hat) - raised).max() <= 1


def test_a_large_picture_is_refined_region_by_region(codec, monkeypatch):
    """A picture draws other symbols with every seam, for better or worse: on average, nothing is lost."""
    monkeypatch.setattr(symbols, "BAND_POSITIONS", 1)
    at_once, gained, rgb = networks.REGION_POSITIONS, [], colour_picture(500, 300).rgb
    for turned in (rgb, rgb[:, ::-1].copy(), rgb[::-1].copy(), rgb[::-1, ::-1].copy()):
        monkeypatch.setattr(networks, "REGION_POSITIONS", at_once)
        whole, x_hat = codec.networks.analyse(turned, 6000, gray=False, effort=3, strength=STRENGTH)
        monkeypatch.setattr(networks, "REGION_POSITIONS", 8 * 19)
        parts, y_hat = codec.networks.analyse(turned, 6000, gray=False, effort=3, strength=STRENGTH)
        gained.append(measure(turned, y_hat).ms_ssim - measure(turned, x_hat).ms_ssim)
        assert len(codec.entropy_encode(parts)) < 1.01 * len(codec.entropy_encode(whole))
        assert same_symbols(parts, codec.entropy_decode(codec.entropy_encode(parts)))
    assert np.mean(gained) > -1e-4
    assert min(gained) > -3e-4  # -1.1e-4


def test_the_map_of_bits_adds_up_to_the_payload(codec, found):
    payload = codec.entropy_encode(found.symbols)
    mapped = bits.allocation(codec.frozen, found.symbols).sum() / 8
    assert 0.85 * len(payload) < mapped < len(payload)


def test_symbols_travel_between_processes_with_it(codec, found):
    work = Work(SourceImage("0" * 32, "/a.png", "1", b"x"), colour_picture(193, 257), found)
    (back,) = unpack(pack([work]))
    assert back.analysis is not None
    assert back.analysis.symbols.adaptive == STRENGTH
    assert codec.entropy_encode(back.analysis.symbols) == codec.entropy_encode(found.symbols)


def test_what_is_tuned_for_psnr_says_nothing_of_it():
    payload = Hyperprior(QUALITY, device="cpu").encode(colour_picture(64, 64)).payload
    assert container.ADAPTIVE not in container.unpack(payload).sections


@pytest.mark.parametrize("section", [b"\x00", b"\x41", b"\x08\x08"])
def test_a_strength_that_is_none_is_refused(codec, found, section):
    box = container.unpack(codec.entropy_encode(found.symbols))
    with pytest.raises(BitstreamError, match="expected one byte of 1 to 64"):
        container.unpack(container.pack(replace(box, sections={**box.sections, container.ADAPTIVE: section})))


def test_a_model_with_static_tables_refuses_it():
    static = Transfer(QUALITY, device="cpu")
    box = container.unpack(static.encode(colour_picture(64, 64)).payload)
    forged = container.pack(replace(box, sections={**box.sections, container.ADAPTIVE: b"\x10"}))
    with pytest.raises(BitstreamError, match="adaptive quantisation under a model with static tables"):
        static.decode(forged)


def test_readers_that_do_not_know_it_refuse(codec, found, monkeypatch):
    monkeypatch.setattr(container, "_KNOWN", container._KNOWN - {container.ADAPTIVE})
    with pytest.raises(BitstreamError, match=r"section 5 of .* is unknown"):
        container.unpack(codec.entropy_encode(found.symbols))


def test_its_spec_builds_it_again_and_others_keep_theirs(codec):
    assert codec.spec()["tune"] == "ms-ssim"
    assert registry.from_spec(codec.spec()) == codec
    assert "tune" not in Hyperprior(QUALITY).spec()
    assert Hyperprior(QUALITY) != codec


def test_other_tunings_and_codecs_are_refused():
    with pytest.raises(ConfigError, match="tune is 'vmaf'; expected one of psnr, ms-ssim"):
        Hyperprior(QUALITY, tune="vmaf")
    with pytest.raises(ConfigError, match="reduced=auto compares by PSNR, which tune=ms-ssim gives away"):
        Hyperprior(QUALITY, tune="ms-ssim", reduced="auto")
    with pytest.raises(ConfigError, match="tune"):
        registry.build("transfer", QUALITY, tune="ms-ssim")

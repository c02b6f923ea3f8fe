"""A filter of its own for each picture: exact, found by least squares, sent only where it pays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.bitstream import container
from pipeline.codecs.learned import adaptive, clipping, filters, networks, symbols, synthesis, tiles, together
from pipeline.codecs.learned.filtering import Evidence
from pipeline.codecs.learned.filters import Filter, expected
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.codecs.learned.static import Transfer
from pipeline.codecs.learned.wiener import Wiener, groups_of
from pipeline.errors import BitstreamError
from pipeline.metrics.distortion import mse, psnr_db
from pipeline.nn.spec import HyperpriorSpec
from pipeline.records import Picture, Rate, SourceImage
from pipeline.stages.work import Work, pack, unpack
from tests.codecs import made_static
from tests.codecs.test_hyperprior import same_symbols
from tests.contracts.codec import colour_picture, gray_picture

QUALITY = Rate(quality=60.0)
CPU = torch.device("cpu")
TABLES = Hyperprior(QUALITY, device="cpu").frozen.tables


@pytest.fixture(scope="module")
def codec() -> Hyperprior:
    return Hyperprior(QUALITY, device="cpu")


@pytest.fixture(scope="module")
def photo() -> Picture:
    return Picture(made_static.photos()[0])


@pytest.fixture(scope="module")
def sent(codec, photo):
    """(symbols, picture) of a photo for which a filter pays."""
    found, x_hat = codec.networks.analyse(photo.rgb, 6000, gray=False)
    assert found.wiener
    return found, x_hat


LIMITS = (35, 140)


def random_filter(
    seed: int, colours: int = 3, largest: int = 9, shift: int = 7, limits: tuple[int, ...] = LIMITS
) -> Wiener:
    taps = np.random.default_rng(seed).integers(-largest, largest + 1, (colours, len(groups_of(colours, len(limits)))))
    return Wiener(shift, taps.astype(np.int16), limits)


def by_the_book(wiener: Wiener, levels: np.ndarray) -> np.ndarray:
    """As FORMAT.md says it, in integers: levels (H, W, C) to bytes."""
    taps, colours = wiener.taps.astype(np.int64), levels.shape[2]
    v = np.clip(np.round(levels * 8), 0, 2040).astype(np.int64)
    height, width = v.shape[:2]
    around = np.pad(v, ((2, 2), (2, 2), (0, 0)), mode="edge")
    total = v << wiener.shift
    pairs = [(0, 1), (0, 2), *((dy, dx) for dy in (1, 2) for dx in (-2, -1, 0, 1, 2))]
    for k, (dy, dx) in enumerate(pairs):
        one = around[2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]
        other = around[2 - dy : 2 - dy + height, 2 - dx : 2 - dx + width]
        total += (one + other - 2 * v) @ taps[:, k * colours : (k + 1) * colours].T
    if colours == 3:
        for c in range(3):
            for j in (1, 2):
                total[..., c] += taps[c, 35 + j] * (v[..., (c + j) % 3] - v[..., c])
    b = np.pad(v @ (1, 2, 1) // 4 if colours == 3 else v[..., 0], 2, mode="edge")
    here = b[2:-2, 2:-2]
    for number, limit in enumerate(wiener.limits):
        for k, (dy, dx) in enumerate(pairs):
            one = b[2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width] - here
            other = b[2 - dy : 2 - dy + height, 2 - dx : 2 - dx + width] - here
            both = np.clip(one, -2 * limit, 2 * limit) + np.clip(other, -2 * limit, 2 * limit)
            total += both[..., None] * taps[:, {1: 12, 3: 38}[colours] + 12 * number + k]
    return np.clip(np.round(total / 2.0 ** (wiener.shift + 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("limits", [(), (20,), LIMITS])
@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_filter_is_what_the_format_says_to_the_last_bit(colours, limits, numba, device, monkeypatch):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if not numba:
        without_numba(monkeypatch)
    elif device == "cpu":
        assert clipping.compiled_filters() is not None
    for seed, (height, width) in enumerate([(16, 16), (48, 64), (33, 400), (7, 1032)]):
        levels = np.random.default_rng(seed).uniform(-20, 275, (height, width, colours)).astype(np.float32)
        wiener = random_filter(seed, colours, limits=limits)
        behind = Filter(wiener, torch.device(device))
        found = behind(torch.from_numpy(levels).to(device)).round().clamp(0, 255).byte().cpu().numpy()
        assert np.array_equal(found, by_the_book(wiener, levels))


def without_numba(monkeypatch) -> None:
    for module in (clipping, filters):
        monkeypatch.setattr(module, "compiled_filters", lambda: None)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("numba", [True, False])
def test_filters_as_large_as_any_may_be_are_exact_in_float32(colours, numba, monkeypatch):
    """Filters whose sums come to just below 2^24, on levels from end to end."""
    if not numba:
        without_numba(monkeypatch)
    for seed in range(4):
        large = max((random_filter(seed, colours, largest) for largest in range(20, 600, 3)), key=_size_if_exact)
        assert 0.9 * 2**24 < _size_if_exact(large) < 2**24
        behind = Filter(large, CPU)
        assert numba or behind._by.linear.dtype == torch.float32
        levels = np.random.default_rng(seed).choice([0.0, 255.0, 254.875], (24, 64, colours)).astype(np.float32)
        found = behind(torch.from_numpy(levels)).round().clamp(0, 255).byte().numpy()
        assert np.array_equal(found, by_the_book(large, levels))


def _size_if_exact(wiener: Wiener) -> int:
    """The largest sum of any colour: of 2040 times what is linear, and of both of a pair at their limit."""
    if not wiener.is_exact:
        return 0
    clipped = sum(4 * limit * np.abs(of).sum(0) for limit, of in zip(wiener.limits, wiener.clipped, strict=True))
    return int((2040 * np.abs(wiener.kernel).sum((1, 2, 3)) + clipped).max())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.booleans(),
    st.integers(0, 60),
    st.integers(0, 10),
    st.lists(st.integers(1, 255), max_size=2),
)
def test_taps_are_read_back(seed, gray, largest, shift, limits):
    wiener = random_filter(seed, 1 if gray else 3, largest, shift, tuple(limits))
    if wiener.is_exact:
        back = Wiener.of(wiener.to_bytes(TABLES), TABLES, gray)
        assert (back.shift, back.limits) == (shift, tuple(limits))
        assert np.array_equal(back.taps, wiener.taps)


def test_a_filter_pays_for_itself(codec, photo, sent):
    found, x_hat = sent
    plain = replace(found, wiener=b"")
    before, after = mse(photo.rgb, codec.synthesise([plain])[0]), mse(photo.rgb, x_hat)
    lmbda = HyperpriorSpec(**codec.frozen.spec).lmbda(torch.tensor(0.6)).item()
    saved = lmbda * (before - after) * photo.rgb[..., 0].size / 8
    assert psnr_db(after) > psnr_db(before) + 0.03
    assert len(codec.entropy_encode(found)) - len(codec.entropy_encode(plain)) < 0.8 * saved


@pytest.mark.parametrize("centi", [2000, 6000, 9000])
def test_every_filter_that_is_sent_pays_for_itself(codec, centi):
    lmbda = HyperpriorSpec(**codec.frozen.spec).lmbda(torch.tensor(centi / 1e4)).item()
    spent, saved = [], []
    for rgb in made_static.photos():
        found, x_hat = codec.networks.analyse(rgb, centi, gray=False)
        if found.wiener:
            plain = replace(found, wiener=b"")
            better = mse(rgb, codec.synthesise([plain])[0]) - mse(rgb, x_hat)
            spent.append(len(codec.entropy_encode(found)) - len(codec.entropy_encode(plain)))
            saved.append(lmbda * better * rgb[..., 0].size / 8)
    assert len(spent) >= 2
    assert all(few < many for few, many in zip(spent, saved, strict=True))
    assert sum(spent) < 0.5 * sum(saved)


def test_a_decoder_shows_what_the_encoder_measured(codec, sent, monkeypatch):
    found, x_hat = sent
    payload = codec.entropy_encode(found)
    assert same_symbols(codec.entropy_decode(payload), found)
    assert codec.entropy_decode(payload).wiener == found.wiener
    assert np.array_equal(codec.decode(payload), x_hat)
    monkeypatch.setattr(tiles, "TILE_PX", 128)
    assert np.array_equal(codec.decode(payload), x_hat)


def test_gray_pictures_have_one_of_their_own(codec):
    with Image.open(made_static.PHOTOS[5]) as image:
        rgb = np.asarray(image.convert("RGB"))[:330, :410, 1:2].repeat(3, axis=2)
    found, x_hat = codec.networks.analyse(rgb, 8000, gray=True)
    assert found.wiener
    assert Wiener.of(found.wiener, codec.frozen.tables, gray=True).taps.shape == (1, 12 + 24)
    plain = codec.synthesise([replace(found, wiener=b"")])[0]
    assert mse(rgb, x_hat) < mse(rgb, plain)
    assert np.ptp(x_hat, axis=2).max() == 0
    assert np.array_equal(codec.decode(codec.entropy_encode(found)), x_hat)


def test_nothing_is_sent_where_nothing_is_gained(codec, photo):
    flat = np.full((64, 80, 3), 77, np.uint8)
    for rgb in (flat, photo.rgb[:1, :1], photo.rgb[:3, :50], photo.rgb[:16, :16]):
        found, _ = codec.networks.analyse(np.ascontiguousarray(rgb), 6000, gray=False)
        assert found.wiener == b""
    assert codec.networks.symbols_of(photo.rgb, 6000, gray=False, effort=0).wiener == b""


def test_quality_that_follows_the_picture_weighs_errors(codec, photo):
    strength = adaptive.STRENGTHS["ms-ssim"]
    found, x_hat = codec.networks.analyse(photo.rgb, 6000, gray=False, strength=strength)
    assert found.wiener
    assert np.array_equal(codec.decode(codec.entropy_encode(found)), x_hat)


@pytest.mark.parametrize("tune", ["psnr", "ms-ssim"])
@pytest.mark.parametrize("gray", [False, True])
def test_encoding_alone_sends_what_analysis_found(tune, gray, photo):
    coder = Hyperprior(QUALITY, device="cpu", tune=tune)
    picture = Picture(photo.rgb[..., 1:2].repeat(3, axis=2), gray=True) if gray else photo
    (analysis,) = coder.analyse([picture])
    assert coder.encode(picture).payload == coder.entropy_encode(analysis.symbols)


def test_a_large_picture_is_judged_by_rows_of_all_its_regions(codec, photo, monkeypatch):
    shown = []
    monkeypatch.setattr(tiles, "TILE_PX", 128)
    monkeypatch.setattr(symbols, "BAND_POSITIONS", 1)
    monkeypatch.setattr(networks, "REGION_POSITIONS", 4 * 25)
    monkeypatch.setattr(Evidence, "add", lambda self, x_hat, x, bits: shown.append(x.shape[2:].numel()))
    codec.networks.symbols_of(photo.rgb, 6000, gray=False, effort=1)
    assert 1 <= sum(shown) / photo.rgb[..., 0].size < 1.1  # the end of a picture may be in two tiles
    assert len(shown) > 3


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("numba", [True, False])
def test_encoders_expect_what_decoders_do(colours, numba, monkeypatch):
    if not numba:
        without_numba(monkeypatch)
    rgb = made_static.photos()[0][:200, :304]
    rgb = rgb if colours == 3 else rgb[..., 1:2].repeat(3, axis=2)
    wiener = random_filter(2, colours)
    of_decoder = Filter(wiener, CPU)(torch.from_numpy(rgb[..., :colours].astype(np.float32)))
    x_hat = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None] / 255
    of_encoder = expected(x_hat, wiener)[0].permute(1, 2, 0) * 255
    assert (of_encoder - of_decoder).abs().max() < 1e-3
    assert (of_decoder - x_hat[0, :colours].permute(1, 2, 0) * 255).abs().mean() > 0.3  # and that is something


def large_photos() -> list[np.ndarray]:
    """A part of each that is shipped, (512, 512, 3)."""
    found = []
    for path in made_static.PHOTOS:
        with Image.open(path) as image:
            found.append(np.asarray(image.convert("RGB"))[150:662, 200:712])
    return found


@pytest.mark.parametrize("effort", [1, 6])
def test_passes_go_by_errors_behind_the_filter(codec, monkeypatch, effort):
    """One pass does not do as much with it as many, so that it has more to show it on."""
    photos = large_photos() if effort == 1 else made_static.photos()

    def costs() -> float:
        """Bits of some photos, and what their errors are worth."""
        total = 0.0
        for rgb in photos:
            found, x_hat = codec.networks.analyse(rgb, 6000, gray=False, effort=effort)
            total += 8 * len(codec.entropy_encode(found)) + lmbda * mse(rgb, x_hat) * rgb[..., 0].size
        return total

    lmbda = HyperpriorSpec(**codec.frozen.spec).lmbda(torch.tensor(0.6)).item()
    minded = costs()
    monkeypatch.setattr(networks, "expected", lambda x_hat, wiener: x_hat)
    assert minded < 0.998 * costs()  # 0.9962 and 0.9932


def test_what_is_not_sent_is_looked_at_less(codec, photo, monkeypatch):
    """A fourth of the rows in all passes but the last, of four times as many from effort 6 on."""
    shares = []
    real = Evidence.add
    monkeypatch.setattr("pipeline.codecs.learned.filtering.SAMPLE_PX", photo.rgb[..., 0].size / 10)
    monkeypatch.setattr(Evidence, "add", lambda self, *args: shares.append(self.share) or real(self, *args))
    codec.networks.symbols_of(photo.rgb, 6000, gray=False, effort=3)
    assert shares == [0.1 / 4] * 2 + [0.1]
    for one_at_a_time in (True, False):
        shares.clear()
        coder = Hyperprior(QUALITY, device="cpu", effort=6)
        monkeypatch.setattr(coder.networks, "one_at_a_time", one_at_a_time)
        list(coder.encode_all([photo]))
        assert shares == [0.4 / 4] * 7 + [0.4]


def test_first_tiles_of_a_pass_go_by_the_filter_of_the_pass_before(codec, photo, monkeypatch):
    """Until as much has been seen as then; the first pass has nothing but what it sees."""
    monkeypatch.setattr(tiles, "TILE_PX", 128)
    asked = []
    real = Evidence.filter
    monkeypatch.setattr(Evidence, "filter", lambda self: asked.append(self.seen) or real(self))
    codec.networks.symbols_of(photo.rgb, 6000, gray=False, effort=2)
    assert asked[0] < asked[1] < asked[2]  # of the first pass
    half = len(asked) // 2
    assert asked[half] >= max(asked[:half])
    assert asked[-1] > 3 * max(asked[:half])


@pytest.mark.parametrize("effort", [0, 1])
def test_errors_are_worth_more_in_passes_alone(codec, photo, monkeypatch, effort):
    before, _ = codec.networks.analyse(photo.rgb, 6000, gray=False, effort=effort)
    together_ = list(Hyperprior(QUALITY, device="cpu", effort=effort).encode_all([photo]))
    for module in (networks, together):
        monkeypatch.setattr(module, "worth_in", lambda passes: 3.0 if passes else 1.0)
    after, _ = codec.networks.analyse(photo.rgb, 6000, gray=False, effort=effort)
    assert np.array_equal(before.y, after.y) == (effort == 0)
    coder = Hyperprior(QUALITY, device="cpu", effort=effort)
    monkeypatch.setattr(coder.networks, "one_at_a_time", False)
    sizes = [len(one.payload) for one in (*together_, *coder.encode_all([photo]))]
    assert sizes[1] > 1.1 * sizes[0] if effort else sizes[1] < 1.02 * sizes[0]


def test_it_travels_between_processes(codec, photo):
    (analysis,) = codec.analyse([photo])
    (back,) = unpack(pack([Work(SourceImage("0" * 32, "/a.png", "1", b"x"), photo, analysis)]))
    assert back.analysis is not None
    assert back.analysis.symbols.wiener == analysis.symbols.wiener != b""
    assert codec.entropy_encode(back.analysis.symbols) == codec.entropy_encode(analysis.symbols)


@pytest.mark.parametrize("picture", [colour_picture(40, 50), gray_picture(40, 50)])
@pytest.mark.parametrize(
    ("section", "why"),
    [
        (b"\x07", "a filter that starts with"),
        (b"\x0b\x00\x00\x00", "expected a shift of 0 to 10"),
        (b"\x07\x59\x59\x59", "tables below 89"),
        (b"\x07\x00\x00\x00\x00", "symbol stream"),
        (b"\x17\x00" + 4 * b"\x00", "a filter that starts with 17 00"),
        (b"\x17\x01\x00", "a filter that starts with 17 01"),
        (b"\x37\x01\x01\x01" + 6 * b"\x00", "up to 2 limits"),
        (b"\xf7" + 40 * b"\x01", "up to 2 limits"),
    ],
)
def test_a_section_that_is_none_is_refused_before_a_picture_is_made(codec, picture, section, why):
    box = container.unpack(codec.encode(picture).payload)
    forged = container.pack(replace(box, sections={**box.sections, container.FILTER: section}))
    for read in (codec.entropy_decode, codec.decode):
        with pytest.raises(BitstreamError, match=why):
            read(forged)


def test_an_empty_section_is_refused():
    """No encoder writes one, but a section of a container may have no length."""
    with pytest.raises(BitstreamError, match="a filter that starts with nothing"):
        Wiener.of(b"", TABLES, gray=False)


@pytest.mark.parametrize(("picture", "colours"), [(colour_picture(40, 50), 3), (gray_picture(40, 50), 1)])
def test_taps_that_could_leave_float32_and_words_that_nobody_wrote_are_refused(codec, picture, colours):
    box = container.unpack(codec.encode(picture).payload)
    taps = np.full((colours, len(groups_of(colours, 0))), 400, np.int16)
    large = Wiener(10, taps).to_bytes(TABLES)
    assert not Wiener(10, taps).is_exact
    beyond = np.zeros((colours, len(groups_of(colours, 2))), np.int16)
    beyond[0, -24:] = 900  # 24 times 4 times each limit times it, and 2040 times 2^10
    assert Wiener(10, beyond, (255, 60)).is_exact
    assert not Wiener(10, beyond, (255, 255)).is_exact
    clipped = Wiener(10, beyond, (255, 255)).to_bytes(TABLES)
    longer = random_filter(0, colours).to_bytes(TABLES) + b"\x00\x00\x00\x01"
    for section, why in (
        (large, "a filter of taps up to 400"),
        (clipped, "a filter of taps up to 900"),
        (longer, "symbol stream"),
    ):
        forged = container.pack(replace(box, sections={**box.sections, container.FILTER: section}))
        with pytest.raises(BitstreamError, match=why):
            codec.entropy_decode(forged)


def test_a_tile_sees_as_far_as_the_filter_does(codec, sent, monkeypatch):
    halos = []
    monkeypatch.setattr(synthesis, "tiled", lambda *words: halos.append(words[-1]))
    codec.synthesise([sent[0]])
    codec.synthesise([replace(sent[0], wiener=b"")])
    assert halos[0] >= halos[1] + 2


def test_a_model_with_static_tables_refuses_it():
    static = Transfer(QUALITY, device="cpu")
    box = container.unpack(static.encode(colour_picture(64, 64)).payload)
    forged = container.pack(replace(box, sections={**box.sections, container.FILTER: b"\x07"}))
    with pytest.raises(BitstreamError, match="a filter under a model with static tables"):
        static.decode(forged)


def test_readers_that_do_not_know_it_refuse(codec, sent, monkeypatch):
    monkeypatch.setattr(container, "_KNOWN", container._KNOWN - {container.FILTER})
    with pytest.raises(BitstreamError, match=r"section 6 of .* is unknown"):
        container.unpack(codec.entropy_encode(sent[0]))

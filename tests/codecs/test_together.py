"""Pictures side by side: what a GPU does with many, on the CPU, whose operators are the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.codecs.learned import together
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.codecs.learned.quantise import PASSES_TO_BE_EXACT
from pipeline.codecs.learned.static import Transfer
from pipeline.codecs.learned.together import Batch, Found, Setting
from pipeline.errors import CodecError
from pipeline.metrics.distortion import measure, mse
from pipeline.records import Picture, Rate
from tests.codecs import made_static
from tests.contracts.codec import photo

BEFORE_TRELLISES = Path(__file__).parents[1] / "golden" / "weights" / "bf034c42ed3da6ac.safetensors"
CPU = torch.device("cpu")
SIZES = [(80, 112), (128, 128), (64, 64), (70, 100), (1, 1), (65, 127), (33, 200)]


@pytest.fixture(scope="module")
def codec() -> Hyperprior:
    return Hyperprior(Rate(quality=50.0), device="cpu")


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """Of many sizes, every third of them gray."""
    found = []
    for k, size in enumerate(SIZES + SIZES[:4]):
        rgb = np.roll(photo(*size), 9 * k, axis=0)
        gray = k % 3 == 2
        found.append(Picture(rgb[..., :1].repeat(3, axis=2) if gray else rgb, gray=gray))
    return found


def each(codec: Hyperprior, pictures, finish: Callable, alone: Callable | None = None, effort: int = 1) -> Iterator:
    assert codec.rate.quality is not None
    setting = Setting(codec.networks, round(100 * codec.rate.quality), effort)
    return together.each(pictures, CPU, 2, alone or _refused, setting, finish)


def _refused(picture: Picture) -> object:
    """Of pictures that a batch should have taken."""
    if picture.obstacle is None:
        raise AssertionError(f"a picture of {picture.rgb.shape} was done alone")
    raise CodecError(f"the source has {picture.obstacle}")


def written(codec: Hyperprior) -> Callable[[Picture, Found], bytes]:
    return lambda _, found: codec.entropy_encode(found.symbols)


def worth(codec: Hyperprior, picture: Picture, payload: bytes) -> tuple[float, float]:
    """Bits a pixel, and those with lmbda * MSE, which is what an encoder makes small."""
    assert codec.rate.quality is not None
    bpp = 8 * len(payload) / picture.rgb[..., 0].size
    return bpp, bpp + codec.networks.spec.lmbda(codec.rate.quality / 100) * mse(picture.rgb, codec.decode(payload))


@pytest.mark.parametrize("effort", [0, 1, 3, 6])
def test_payloads_are_as_good_as_those_of_each_alone(codec, pictures, effort):
    alone = Hyperprior(codec.rate, device="cpu", effort=effort)
    found = list(each(codec, pictures, written(codec), effort=effort))
    assert len(found) == len(pictures)
    apart = []
    for picture, payload in zip(pictures, found, strict=True):
        bpp, cost = worth(codec, picture, alone.encode(picture).payload)
        apart.append((worth(codec, picture, payload)[1] - cost) / bpp)
        assert apart[-1] < 0.05 + 64 / picture.rgb[..., 0].size / bpp
        assert codec.entropy_decode(payload).gray == picture.gray
    assert abs(np.mean(apart)) < 0.02


@pytest.mark.parametrize("effort", [1, 3])
def test_errors_are_those_behind_each_picture_s_filter(effort, monkeypatch):
    """As those of `Networks`: otherwise the same symbols cost more, of several photos and qualities together."""
    coders = [Hyperprior(Rate(quality=quality), device="cpu", effort=effort) for quality in (20.0, 40.0, 60.0)]
    shown = [Picture(made) for made in made_static.photos()]

    def costs() -> float:
        total = 0.0
        for coder in coders:
            payloads = each(coder, shown, written(coder), effort=effort)
            total += sum(worth(coder, one, payload)[1] for one, payload in zip(shown, payloads, strict=True))
        return total

    minded = costs()
    monkeypatch.setattr(together, "expected", lambda x_hat, wiener: x_hat)
    assert minded < 0.999 * costs()


def test_what_is_found_is_what_decoders_make_of_it(codec, pictures):
    """Pixels from y_hat as it was left are those of the payload; so distortions are true."""

    def both(picture: Picture, found: Found) -> tuple[np.ndarray, np.ndarray]:
        x_hat = codec.networks.picture(found.y_hat, found.symbols)
        return x_hat, codec.decode(codec.entropy_encode(found.symbols))

    for left, right in each(codec, pictures, both):
        assert np.array_equal(left, right)


def test_each_goes_by_its_own_symbols_in_a_batch_of_unlike_pictures(codec):
    """Of one size in units of 64 px: next to others and alone in a batch, but for rounding."""
    mixed = [Picture(photo(height, 100)) for height in (65, 100, 128)]
    beside = list(each(codec, mixed, written(codec), effort=0))
    lonely = [next(each(codec, [picture], written(codec), effort=0)) for picture in mixed]
    for left, right in zip(beside, lonely, strict=True):
        assert abs(len(left) - len(right)) <= 0.02 * len(right)


def test_batches_are_of_one_size_and_colour_and_no_larger_than_told(pictures):
    chunk = [
        *pictures,
        Picture(np.zeros((16, together.TILE_PX + 1, 3), np.uint8)),
        Picture(photo(64, 64), obstacle="16 bits"),
    ]
    members = list(together._batches(chunk, 0.02))
    assert sorted(k for batch in members for k in batch) == list(range(len(pictures)))
    for batch in members:
        grids = {(-(-chunk[k].height_px // 64), -(-chunk[k].width_px // 64), chunk[k].gray) for k in batch}
        assert len(grids) == 1
        (rows, columns, _) = grids.pop()
        assert len(batch) == 1 or len(batch) * rows * columns * 64**2 <= 20_000
    assert len(members) < len(pictures)


def test_what_does_not_fit_is_done_alone_and_all_come_in_order(codec, pictures, monkeypatch):
    monkeypatch.setattr(together, "CHUNK_MPX", 0.02)
    monkeypatch.setattr(together, "TILE_PX", 150)
    shapes = [(picture.rgb.shape, picture.rgb.shape[1] > 150) for picture in pictures]
    found = each(codec, iter(pictures), lambda picture, _: (picture.rgb.shape, False), lambda p: (p.rgb.shape, True))
    assert list(found) == shapes


def test_without_a_setting_every_picture_is_done_alone_by_several_threads(pictures):
    """Two at a time: each waits for another."""
    barrier = threading.Barrier(2, timeout=30)

    def alone(picture: Picture) -> tuple[int, ...]:
        barrier.wait()
        return picture.rgb.shape

    found = together.each(pictures[:4], CPU, 2, alone, None, lambda *_: pytest.fail("there is nothing to find"))
    assert list(found) == [picture.rgb.shape for picture in pictures[:4]]


def test_an_error_comes_in_the_turn_of_its_picture(codec, pictures):
    bad = Picture(photo(64, 64), obstacle="16 bits per channel")
    found = each(codec, [*pictures[:2], bad], written(codec))
    assert len(next(found))
    assert len(next(found))
    with pytest.raises(CodecError, match="the source has 16 bits per channel"):
        next(found)


def test_of_no_pictures_nothing_is_made(codec):
    assert list(each(codec, [], written(codec))) == []


def test_on_a_cpu_they_are_encoded_one_by_one(codec, pictures):
    found = [encoded.payload for encoded in codec.encode_all(iter(pictures[:3]))]
    assert found == [codec.encode(picture).payload for picture in pictures[:3]]


@pytest.mark.parametrize("options", [{}, {"tune": "ms-ssim"}, {"rate": Rate(psnr_db=34.0)}, {"effort": 0}])
def test_elsewhere_many_are_encoded_and_analysed_at_once(monkeypatch, pictures, options):
    """Side by side where each is looked at once; the distortion that is told is that of what a decoder makes of it."""
    many = Hyperprior(**{"rate": Rate(quality=50.0), "device": "cpu", **options})
    monkeypatch.setattr(many.networks, "one_at_a_time", False)
    settings, real = [], together.each
    monkeypatch.setattr(together, "each", lambda *args: settings.append(args[4]) or real(*args))
    payloads = [encoded.payload for encoded in many.encode_all(pictures[:4])]
    analyses = list(many.analyse(pictures[:4]))
    assert [setting is not None for setting in settings] == [not {"tune", "rate"} & set(options)] * 2
    for picture, payload, analysis in zip(pictures[:4], payloads, analyses, strict=True):
        assert many.entropy_encode(analysis.symbols) == payload
        assert measure(picture.rgb, many.decode(payload)) == analysis.distortion


class Seen:
    """In place of `Evidence`: keeps the decoded picture that it is shown."""

    def __init__(self, picture: Picture) -> None:
        self.height_px, self.width_px = picture.height_px, picture.width_px
        self.levels = np.zeros(0)

    def filter(self) -> None:
        return None

    def add(self, x_hat: torch.Tensor, *_: object) -> None:
        self.levels = (x_hat[0].permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()


def shown_in_passes(codec: Hyperprior, members: list[Picture], passes: int, linear: bool) -> list[bool]:
    """Whether what slopes of so many passes are taken at is, to the last pixel, what a decoder makes of it."""
    assert codec.rate.quality is not None
    batch = Batch(Setting(codec.networks, round(100 * codec.rate.quality), 0), members, ThreadPoolExecutor(2))
    steps, seen, equal = codec.networks._steps(batch.setting.quality_centi), [Seen(p) for p in members], []
    with torch.no_grad():
        _, z = batch._latents(batch._pixels(), steps)
        _, mu = batch._tables(z)
        batch._slope(batch._pixels(), mu, steps, seen, passes, linear)
        for k, (one, picture) in enumerate(zip(seen, members, strict=True)):
            symbols = codec.networks.symbols_of(picture.rgb, batch.setting.quality_centi, picture.gray, 0)
            decoded = codec.networks.picture(mu[k][:, *batch._own(k)][None], symbols)
            equal.append(np.array_equal(one.levels, decoded))
    return equal


@pytest.mark.parametrize("linear", [False, True])
def test_many_passes_go_by_what_a_decoder_makes_of_it(codec, linear):
    members = [Picture(photo(70, 100)), Picture(photo(128, 120))]
    assert shown_in_passes(codec, members, PASSES_TO_BE_EXACT, linear) == [True, True]
    assert not any(shown_in_passes(codec, members, PASSES_TO_BE_EXACT - 1, linear))


@pytest.mark.parametrize(("effort", "ways"), [(0, ""), (1, "k"), (3, "kgg")])
def test_the_first_pass_goes_back_through_the_klt_alone(codec, effort, ways, monkeypatch):
    taken = []
    for way, name in (("k", "by_klt"), ("g", "by_autograd")):
        real = getattr(together, name)
        monkeypatch.setattr(together, name, lambda *args, real=real, way=way: taken.append(way) or real(*args))
    believed = []
    real_move = together.move
    monkeypatch.setattr(together, "move", lambda *args: believed.append(args[-1].linear) or real_move(*args))
    Batch(Setting(codec.networks, 5000, effort), [Picture(photo(64, 64))], ThreadPoolExecutor(2)).found()
    assert "".join(taken) == ways
    assert believed == [way == "k" for way in ways]


@pytest.mark.parametrize("linear", [False, True])
def test_slopes_are_those_of_a_picture_alone(codec, linear):
    """Of a picture that is not padded."""
    rgb = photo(128, 192)
    batch = Batch(Setting(codec.networks, 5000, 1), [Picture(rgb)], ThreadPoolExecutor(2))
    steps = codec.networks._steps(5000)
    with torch.no_grad():
        y_hat = codec.networks.latents_sent(rgb, 5000, 0)
        found = batch._slope(batch._pixels(), y_hat, steps, [Seen(batch.pictures[0])], 1, linear)[0]
        rows = slice(0, y_hat.shape[2])
        wanted = codec.networks._slope(rgb, y_hat[0], rows, steps, False, None, linear=linear)
    likeness = torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0)
    assert likeness > 0.95  # with bytes it is 0.963, those through the KLT and through all have 0.6 in common
    assert abs(float(found.norm() / wanted.norm()) - 1) < 0.05


@pytest.mark.parametrize("rgb", [photo(70, 90)[::-1], photo(64, 64)[:, ::-1].copy()])
def test_arrays_of_any_kind_are_taken(codec, rgb):
    """Upside down, and not to be written to, as those that come from another process."""
    rgb.flags.writeable = False
    (payload,) = each(codec, [Picture(rgb)], written(codec), effort=0)
    assert mse(rgb, codec.decode(payload)) < 200


def test_one_picture_that_is_more_than_a_batch_may_be_is_a_batch(codec):
    chunk = [Picture(photo(128, 128)), Picture(photo(128, 120)), Picture(photo(64, 64))]
    assert sorted(together._batches(chunk, 0.001)) == [[0], [1], [2]]
    size_mpx = 128**2 / 1e6
    five = [Picture(photo(128, 128))] * 5
    assert max(map(len, together._batches(five, 2.5 * size_mpx))) == 2


def test_what_came_before_an_error_of_the_source_is_not_lost(codec, pictures):
    def coming() -> Iterator[Picture]:
        yield from pictures[:3]
        raise OSError("the source ended")

    found = each(codec, coming(), written(codec))
    assert all(len(next(found)) for _ in range(3))
    with pytest.raises(OSError, match="the source ended"):
        next(found)


def test_a_batch_that_fails_is_done_one_by_one(codec, pictures, monkeypatch):
    """As where memory is short."""

    def short(_: Batch) -> list[Found]:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Batch, "found", short)
    found = list(each(codec, pictures, written(codec), lambda picture: codec.encode(picture).payload))
    assert found == [codec.encode(picture).payload for picture in pictures]


def test_who_stops_asking_leaves_the_rest_undone(codec, pictures):
    """One is at work when the first is given out, and none begins after it."""
    begun, go_on = [], threading.Event()

    def one(picture: Picture) -> None:
        begun.append(picture)
        assert len(begun) == 1 or go_on.wait(30)

    found = together.each(pictures, CPU, 1, one, None, lambda *_: None)
    next(found)
    found.close()
    go_on.set()
    together._lone(1).submit(int).result()  # behind all of them
    assert len(begun) <= 2


@pytest.mark.parametrize("kind", ["transfer", "without a trellis"])
def test_models_that_know_no_batches_go_one_by_one_in_threads(kind, pictures, monkeypatch):
    model = str(BEFORE_TRELLISES) if kind != "transfer" else None
    many = Transfer(Rate(quality=50.0), device="cpu") if model is None else Hyperprior(Rate(quality=50.0), model, "cpu")
    monkeypatch.setattr(many.networks, "one_at_a_time", False)
    payloads = [encoded.payload for encoded in many.encode_all(pictures[:3])]
    assert payloads == [many.encode(picture).payload for picture in pictures[:3]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; the tests above run the same operators")
@pytest.mark.parametrize("effort", [1, 2])
def test_a_gpu_writes_what_a_cpu_reads(codec, pictures, effort, monkeypatch):
    there = Hyperprior(codec.rate, device="cuda", effort=effort)
    monkeypatch.setattr(there, "encode", lambda _: pytest.fail("a batch failed"))
    for picture, encoded in zip(pictures, there.encode_all(pictures), strict=True):
        bpp, cost = worth(codec, picture, codec.encode(picture).payload)
        assert worth(codec, picture, encoded.payload)[1] < cost + 0.05 * bpp + 64 / picture.rgb[..., 0].size

"""Trellis-coded latents: the path is the cheapest, it pays, and a payload says what the encoder chose."""

from __future__ import annotations

import copy
import itertools
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch

from pipeline.bitstream import container
from pipeline.codecs.learned import symbols as symbols_of
from pipeline.codecs.learned import weights
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.codecs.learned.quantise import REACH, Quantiser
from pipeline.codecs.learned.static import Conv
from pipeline.codecs.learned.trellis import STATES, TrellisQuantiser
from pipeline.entropy import order
from pipeline.errors import BitstreamError, ConfigError
from pipeline.imaging.decode import decode
from pipeline.metrics.distortion import mse
from pipeline.nn.integer import INDEX_COUNT, sigma_of_index
from pipeline.nn.spec import HyperpriorSpec
from pipeline.records import Picture, Rate
from tests.codecs import made_static
from tests.contracts.codec import colour_picture
from tests.fuzz import tiny
from tests.golden.add import FOLDER as GOLDEN

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> weights.FrozenModel:
    return weights.packaged_model(weights.default_model_id("cnn"))


@pytest.fixture(scope="module", params=order.CODES)
def quantiser(model, request) -> TrellisQuantiser:
    return TrellisQuantiser(model, model.trellis, CPU, request.param)


@pytest.fixture(scope="module")
def codec() -> Hyperprior:
    return Hyperprior(Rate(quality=50.0), device="cpu")


@pytest.fixture(scope="module")
def picture(photos) -> Picture:
    return Picture(decode(photos[0].read_bytes()).rgb[:200, :330])


def bits_of(quantiser: TrellisQuantiser, sent: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    scales, integers = index.expand_as(sent).numpy(), sent.numpy().astype(np.int16)
    tables = order.tables_of(scales, quantiser.skip_below, INDEX_COUNT, integers, quantiser.states)
    return torch.from_numpy(quantiser.bits[tables, np.abs(integers).clip(max=REACH)] * (scales >= quantiser.skip_below))


def samples(index: int, count: int) -> torch.Tensor:
    scale = sigma_of_index(index) * 3**0.5 / np.pi
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(index)).clamp(1e-6, 1 - 1e-6)
    return scale * torch.log(uniform / (1 - uniform))


@pytest.mark.parametrize("price", [2.0, 6.0, 20.0])
@pytest.mark.parametrize("index", [12, 20, 40])
def test_no_other_sequence_of_symbols_is_cheaper(quantiser, index, price):
    """All sequences of five symbols within two of rounding, in one lane."""
    target = samples(index, 5)
    scale, worth = torch.full((5,), index, dtype=torch.uint8), torch.tensor(price)
    sent, values = quantiser.cheapest(target, scale, worth)

    def cost(each: torch.Tensor) -> float:
        error = (quantiser.centred(each, scale, quantiser.states) - target).square()
        return float((bits_of(quantiser, each, scale) + price * error).sum())

    sign = target.sign()
    nearest = (target.abs() / quantiser.step).floor()
    tried = itertools.product(*({0, int(k), int(k) + 1, int(k) + 2, max(0, int(k) - 1)} for k in nearest))
    assert cost(sent) == pytest.approx(min(cost(torch.tensor(each, dtype=torch.float32) * sign) for each in tried))
    torch.testing.assert_close(values, quantiser.centred(sent, scale, quantiser.states))


@pytest.mark.parametrize("index", [10, 24, 40, 56])
def test_it_costs_less_than_the_best_rounding(model, quantiser, index):
    """bits + price * error of both quantisers, at the slope where steps of 1 are right: price = 6."""
    target = samples(index, 40_000)
    scale, worth = torch.full_like(target, index, dtype=torch.uint8), torch.tensor(6.0)
    plain = Quantiser(model, CPU)
    rounded = plain.cheapest(target, scale, worth)
    before = (
        plain.bits[scale.long(), rounded.abs().clamp_max(REACH).long()]
        + 6 * (plain.centred(rounded, scale) - target).square()
    )
    sent, values = quantiser.cheapest(target, scale, worth)
    after = bits_of(quantiser, sent, scale) + 6 * (values - target).square()
    assert after.mean() < before.mean() - 0.01


def test_what_is_kept_for_the_next_pass_is_that_of_the_same_band_and_price(model, quantiser):
    target, index, price = (
        3 * torch.randn(3, 20, 20),
        torch.tensor([20, 30, 40]).byte()[:, None, None],
        torch.ones(3, 1, 1),
    )
    quantiser.cheapest(target, index, price)
    others = [(-target, index, price), (target[:, :7], index, price)]
    others += [(target, index.flip(0), price), (target, index, 9 * price)]
    for residual, scale, worth in others:
        found = quantiser.cheapest(residual, scale, worth)
        fresh = TrellisQuantiser(model, model.trellis, CPU, quantiser.states)
        fresh = fresh.cheapest(residual, scale.clone(), worth.clone())
        assert all(map(torch.equal, found, fresh))


def test_what_is_not_coded_is_zero_and_takes_no_part(quantiser):
    torch.manual_seed(1)
    target = 4 * torch.randn(3, 20, 20)
    index = torch.full(target.shape, 30, dtype=torch.uint8)
    skipped = torch.zeros_like(target, dtype=torch.bool)
    skipped[1] = True
    sent, values = quantiser.cheapest(target, index * ~skipped, torch.ones(3, 1, 1))
    kept, _ = quantiser.cheapest(target[[0, 2]], index[[0, 2]], torch.ones(2, 1, 1))
    assert not sent[skipped].any()
    assert not values[skipped].any()
    assert torch.equal(sent[[0, 2]], kept)


def test_a_target_of_zero_is_counted_as_it_is_sent(quantiser):
    """Zeros in the middle of lanes, some of them sent as 1: what the encoder thinks it sent is what is read."""
    target = samples(40, 4000)
    target[::3] = 0
    scale = torch.full((4000,), 40, dtype=torch.uint8)
    sent, values = quantiser.cheapest(target, scale, torch.tensor(6.0))
    assert sent[::3].any()
    torch.testing.assert_close(values, quantiser.centred(sent, scale, quantiser.states))


def test_values_beyond_every_table_are_escaped(quantiser):
    target = torch.tensor([32767.0, -32767.0, 900.0, 0.0])
    sent, values = quantiser.cheapest(target, torch.full((4,), 30, dtype=torch.uint8), torch.tensor(1.0))
    assert sent.abs().max() <= 32767
    assert (values - target).abs().max() < 1


def test_a_payload_says_what_was_chosen(codec, picture):
    (analysis,) = codec.analyse([picture])
    assert analysis.symbols.trellis == STATES
    payload = codec.entropy_encode(analysis.symbols)
    assert container.unpack(payload).trellis == STATES
    read = codec.entropy_decode(payload)
    assert np.array_equal(read.y, analysis.symbols.y)
    decoded, again = codec.decode(payload), codec.synthesise([read])[0]
    assert np.abs(decoded.astype(int) - again).max() <= 1
    assert ((decoded.astype(float) - picture.rgb) ** 2).mean() == pytest.approx(analysis.distortion.mse, rel=1e-3)


def test_bands_start_anew(codec, picture, monkeypatch):
    """A picture of several bands is read band by band, and each as if it stood alone."""
    monkeypatch.setattr(symbols_of, "BAND_POSITIONS", 6)
    symbols, x_hat = codec.networks.analyse(picture.rgb, 5000, gray=False)
    assert len(list(symbols_of.Grid.of(200, 330).bands())) > 2
    payload = codec.entropy_encode(symbols)
    assert np.array_equal(codec.entropy_decode(payload).y, symbols.y)
    assert np.abs(codec.decode(payload).astype(int) - x_hat).max() <= 1
    assert np.abs(codec.networks.synthesise(symbols).astype(int) - x_hat).max() <= 1


def test_every_effort_takes_the_trellis_and_a_pass_saves_more(codec):
    picture = colour_picture(200, 330)
    fast = Hyperprior(Rate(quality=50.0), device="cpu", effort=0)
    rounding = Hyperprior(Rate(quality=50.0), device="cpu", effort=0)
    rounding.frozen = replace(rounding.frozen, trellis=None)
    codecs = (rounding, fast, codec)
    payloads = [each.encode(picture).payload for each in codecs]
    assert [container.unpack(payload).trellis for payload in payloads] == [0, STATES, STATES]
    worth = HyperpriorSpec(**codec.frozen.spec).lmbda(0.5) * picture.width_px * picture.height_px
    plain, free, refined = (
        8 * len(payload) + worth * mse(picture.rgb, each.decode(payload))
        for each, payload in zip(codecs, payloads, strict=True)
    )
    assert plain > free > refined


def test_a_trellis_coded_payload_needs_a_model_with_a_trellis(codec, picture):
    payload = codec.encode(picture).payload
    without = replace(codec.frozen, trellis=None)
    with pytest.raises(BitstreamError, match="trellis"):
        symbols_of.entropy_decode(without, payload)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("frequencies", None),
        ("reaches", None),
        ("shifts", None),
        ("step", None),
        ("frequencies", lambda x: x[:-1]),
        ("reaches", lambda x: x.astype(np.float32)),
        ("reaches", lambda x: x.astype(np.int64) - 2**62),
        ("shifts", lambda x: x[:-1]),
        ("shifts", lambda x: x + 2),
        ("shifts", lambda x: x * np.float32(np.nan)),
        ("step", lambda x: x.astype(np.float64)),
        ("step", lambda x: x * 0),
    ],
)
def test_a_trellis_that_is_not_whole_is_refused(name, change):
    meta, arrays = weights.meta_of(tiny.file()), safetensors.numpy.load(tiny.file())
    key = f"trellis.{name}"
    assert weights.parse(weights.serialise(arrays, meta)).trellis is not None
    arrays = arrays | {key: change(arrays[key])} if change else {k: v for k, v in arrays.items() if k != key}
    with pytest.raises(BitstreamError, match=r"fetch it again|frequency tables"):
        weights.parse(weights.serialise(arrays, meta))


def test_models_with_static_tables_have_none(picture):
    arrays = safetensors.numpy.load(made_static.model_of("conv"))
    added = {k: v for k, v in safetensors.numpy.load(tiny.file()).items() if k.startswith("trellis.")}
    data = weights.serialise(arrays | added, weights.meta_of(made_static.model_of("conv")))
    codec = Conv.from_weights(data, Rate(quality=50.0), device="cpu")
    payload = codec.encode(picture).payload
    body = payload[:5] + bytes([payload[5] | 2]) + payload[6:-4]
    with pytest.raises(BitstreamError, match="no trellis"):
        codec.decode(body + zlib.crc32(body).to_bytes(4, "little"))


@pytest.mark.parametrize("states", [states for states in container.TRELLISES if states != STATES])
def test_the_flags_alone_are_found_out(codec, picture, states):
    """The same words read by another rule: another payload or none, never the same picture."""
    payload = codec.encode(picture).payload
    body = payload[:5] + bytes([container.TRELLISES.index(states) << 1]) + payload[6:-4]
    changed = body + zlib.crc32(body).to_bytes(4, "little")
    try:
        read = codec.entropy_decode(changed)
    except BitstreamError:
        return
    assert not np.array_equal(read.y, codec.entropy_decode(payload).y)


def test_models_of_before_it_still_round(picture):
    former = weights.parse((GOLDEN.parent / "weights" / "76a6df8d2f3d9f11.safetensors").read_bytes())
    assert former.trellis is None
    codec = Hyperprior.from_weights(
        (GOLDEN.parent / "weights" / "76a6df8d2f3d9f11.safetensors").read_bytes(), Rate(quality=50.0), device="cpu"
    )
    payload = codec.encode(picture).payload
    assert not container.unpack(payload).trellis
    assert codec.decode(payload).shape == picture.rgb.shape


def test_more_states_cost_less(model):
    """Bits and errors together, with sixteen lanes, as a small picture has them."""
    index, worth = torch.full((16 * 64,), 30, dtype=torch.uint8), torch.tensor(6.0)
    mean = dict.fromkeys(order.CODES, 0.0)
    for seed in range(12):
        uniform = torch.rand(len(index), generator=torch.Generator().manual_seed(seed)).clamp(1e-6, 1 - 1e-6)
        target = sigma_of_index(30) * 3**0.5 / np.pi * torch.log(uniform / (1 - uniform))
        for states in mean:
            quantiser = TrellisQuantiser(model, model.trellis, CPU, states)
            sent, values = quantiser.cheapest(target, index, worth)
            mean[states] += float((bits_of(quantiser, sent, index) + worth * (values - target).square()).mean()) / 12
    assert mean[128] < 0.9975 * mean[16]


def test_without_numba_nothing_is_encoded_and_the_run_says_so(quantiser, monkeypatch):
    """A ConfigError ends a run, where other errors would keep the source of every picture."""
    monkeypatch.delitem(sys.modules, "pipeline.codecs.learned.viterbi", raising=False)
    monkeypatch.delattr("pipeline.codecs.learned.viterbi", raising=False)
    monkeypatch.delitem(sys.modules, "pipeline.entropy.compiled", raising=False)
    monkeypatch.delattr("pipeline.entropy.compiled", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ConfigError, match="numba"):
        quantiser.cheapest(samples(30, 5), torch.full((5,), 30, dtype=torch.uint8), torch.tensor(6.0))


def test_every_trellis_has_its_flags():
    assert (0, *order.CODES) == container.TRELLISES


def test_payloads_of_16_states_are_read_as_before(codec, picture):
    """What releases up to now made, made again: the same picture by both ways of decoding."""
    networks = copy.copy(codec.networks)
    networks.trellis = TrellisQuantiser(codec.frozen, codec.frozen.trellis, networks.device, 16)
    symbols, x_hat = networks.analyse(picture.rgb, 5000, gray=False)
    payload = codec.entropy_encode(symbols)
    assert payload[5] & 6 == 2
    assert np.array_equal(codec.entropy_decode(payload).y, symbols.y)
    assert np.array_equal(codec.decode(payload), codec.networks.synthesise(codec.entropy_decode(payload)))
    assert np.abs(codec.decode(payload).astype(int) - x_hat).max() <= 1

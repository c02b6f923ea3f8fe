"""The integer decoder: what a plain NumPy one gives, to the last bit, whatever multiplies; and what was trained."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.networks import Networks
from pipeline.errors import BitstreamError
from pipeline.nn import codes, ends, exact, integer
from pipeline.nn.exact import ExactSynthesis
from pipeline.nn.hyperprior import MeanScaleHyperprior
from pipeline.nn.spec import HyperpriorSpec
from pipeline.nn.transforms import FREE
from pipeline.training.data import load_photos
from pipeline.training.quantised import QuantisedSynthesis
from tests.contracts.codec import photo
from tests.golden.add import PHOTOS
from tests.training.test_loop import SMALL

CPU = torch.device("cpu")
FORMER = Path(__file__).parents[1] / "golden" / "weights"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def packaged() -> tuple[HyperpriorSpec, Arrays]:
    model = weights.packaged_model(weights.default_model_id())
    return HyperpriorSpec(**model.spec), dict(model.arrays)


@pytest.fixture(scope="module")
def quantised() -> QuantisedSynthesis:
    """A small network whose every layer but the KLT does something, its units fitted to such as `latents`."""
    torch.manual_seed(0)
    model = MeanScaleHyperprior(replace(SMALL, decoder_blocks=3, limited=True)).requires_grad_(False)
    for parameter in model.g_s.parameters():
        torch.nn.init.normal_(parameter, std=0.3 / max(1, parameter[0].numel()) ** 0.5)
    torch.nn.init.zeros_(model.g_s.klt.weight)
    model.g_s.blocks.limits.fill_(3.0)
    found = QuantisedSynthesis(model.g_s)
    found.observe((latents(96, 8, 8), torch.rand(1)) for _ in range(4))
    return found


def latents(channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Few large and many small ones, (1, channels, height, width)."""
    return torch.from_numpy(np.random.default_rng(seed).laplace(0, 0.7, (1, channels, height, width))).float()


@pytest.fixture(params=["bytes", "floats", "torch alone"])
def multiplies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Products of bytes where this CPU has them, and products of floats, as elsewhere; and those without Numba."""
    if request.param == "torch alone":
        monkeypatch.setattr(exact, "bytewise", lambda: None)
    if request.param != "bytes":
        monkeypatch.setattr(codes, "multiplies_bytes", lambda: False)
    found: str = request.param
    return found


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize(("threads", "size"), [(1, (9, 13)), (2, (9, 13)), (1, (1, 1)), (2, (1, 40)), (1, (33, 1))])
def test_every_way_to_multiply_gives_the_picture_of_numpy(packaged, multiplies, threads, size, levels):
    spec, arrays = packaged
    synthesis = pickle.loads(pickle.dumps(ExactSynthesis(spec, arrays, CPU)))
    y_hat = 4 * latents(spec.latent, *size)[0]
    y_hat[:, 0, 0] *= 1000  # far beyond what is coded
    centi = torch.randint(0, 100, (1, *size), generator=torch.Generator().manual_seed(1)) * 100
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = synthesis(y_hat.clone(), centi if levels else torch.tensor([4321]))
    finally:
        torch.set_num_threads(before)
    qualities = centi[0].numpy() if levels else np.full(size, 4321)
    assert np.array_equal(found.numpy(), in_numpy(spec, arrays, y_hat.numpy(), qualities))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_picture_of_numpy(packaged):
    spec, arrays = packaged
    y_hat = 4 * latents(spec.latent, 9, 13)[0]
    found = ExactSynthesis(spec, arrays, torch.device("cuda"))(y_hat.cuda(), torch.tensor([4321]).cuda())
    assert np.array_equal(found.cpu().numpy(), in_numpy(spec, arrays, y_hat.numpy(), np.full((9, 13), 4321)))


def in_numpy(spec: HyperpriorSpec, arrays: Arrays, y_hat: np.ndarray, quality_centi: np.ndarray) -> np.ndarray:
    """x_hat (16 h, 16 w, 3) by the letter of FORMAT.md: integers in int64, everything else one float32 at a time."""
    own, one = {k.removeprefix("exact."): v for k, v in arrays.items() if k.startswith("exact.")}, np.float32
    channels, height, width = y_hat.shape

    def bounded(x: np.ndarray, limit: int = 127) -> np.ndarray:
        return np.clip(np.rint(x), -limit, limit).astype(one)

    def product(name: str, codes: np.ndarray) -> np.ndarray:
        sums = codes.astype(np.int64) @ own[f"{name}.weight"].astype(np.int64).T
        return (np.ldexp(sums.astype(one), -own[f"{name}.shift"].astype(int)) + own[f"{name}.bias"]).astype(one)

    def spatial(name: str, codes: np.ndarray) -> np.ndarray:
        rows, columns, count = codes.shape
        padded = np.pad(codes.astype(np.int64), ((1, 1), (1, 1), (0, 0)))
        kernel = own[f"{name}.weight"].astype(np.int64).reshape(count, 3, 3)
        sums = sum(padded[i : i + rows, j : j + columns] * kernel[:, i, j] for i in range(3) for j in range(3))
        return np.ldexp(sums.astype(one), -own[f"{name}.shift"].astype(int)) + own[f"{name}.bias"]  # type: ignore[union-attr]

    def gate(v: np.ndarray) -> np.ndarray:
        return np.rint(256 / (1 + np.exp(-np.rint(v).astype(float) / 16))).astype(one)

    def table(name: str) -> np.ndarray:
        rows = [integer.interpolate(own[name], int(centi)) for centi in quality_centi.ravel()]
        whole, rest = np.divmod(np.stack(rows), 65536)
        coarse, fine = (np.rint(np.exp2(x / 65536) * 2.0**36) / 2.0**36 for x in (rest // 256 * 256, rest % 256))
        return np.ldexp(coarse * fine, whole)

    def picture(patches: np.ndarray, rows: int, columns: int, side: int) -> np.ndarray:
        return patches.reshape(rows, columns, side, 3 * side).swapaxes(1, 2).reshape(rows * side, columns * side, 3)

    gain, steps = table("log2_gain"), y_hat.transpose(1, 2, 0).reshape(-1, channels)
    y = bounded(steps * (1024 / gain).astype(one), 16319)
    high = np.rint(y / 128)
    low = np.concatenate([y - 128 * high, high[:, :128]], axis=1)
    x_hat = product("klt.high", high) + product("klt.low", low)
    place = bounded(steps * (128 / (gain * own["y_std"].astype(float))).astype(one), 16383)
    squeezed = (np.rint(np.arcsinh(place.astype(float) / 128) * 4096) / 4096).astype(one)
    h = product("up", bounded(squeezed * own["up.rescale"])).reshape(len(steps), -1, 4)
    h = (h * table("log2_modulation").astype(one)[..., None]).reshape(height, width, -1, 2, 2)
    x = h.transpose(0, 3, 1, 4, 2).reshape(2 * height, 2 * width, -1)
    for k in range(spec.decoder_blocks):
        x = np.clip(x * own[f"{k}.rescale"], -127, 127)
        v = product(f"{k}.expand", bounded(x))
        spread = bounded(gate(v) * v * own[f"{k}.spatial.rescale"], 2047)
        x = x + product(f"{k}.project", bounded(spatial(f"{k}.spatial", spread)))
        both = product(f"{k}.gate", bounded(x))
        u, v = both[..., : 2 * spec.width], both[..., 2 * spec.width :]
        x = x + product(f"{k}.merge", bounded(gate(v) * u))
    fine = product("head", bounded(np.clip(x * own["head.rescale"], -127, 127)))
    return picture(x_hat, height, width, 16) + picture(fine, 2 * height, 2 * width, 8)  # type: ignore[no-any-return]


def test_a_window_with_its_halo_is_that_part_of_the_whole(packaged, multiplies):
    spec, arrays = packaged
    synthesis, y_hat = ExactSynthesis(spec, arrays, CPU), 3 * latents(spec.latent, 14, 11)[0]
    centi = torch.randint(0, 100, (1, 14, 11)) * 100
    whole = synthesis(y_hat.clone(), centi)
    part = synthesis(y_hat[:, 2:13, :9], centi[:, 2:13, :9])
    halo = 16 * 4  # of six blocks, each of which sees 8 px further
    assert torch.equal(part[halo:-halo, :-halo], whole[32 + halo : 208 - halo, : 144 - halo])


def test_integers_give_what_was_trained(quantised):
    """The same network computed twice; codes at a tie may fall either way, and whatever follows moves with them."""
    log2_gain = torch.linspace(1, 4, SMALL.anchors)[:, None].expand(-1, 96).contiguous()
    spec = replace(SMALL, decoder_blocks=3, limited=True)
    synthesis = ExactSynthesis(spec, quantised.arrays(log2_gain), CPU)
    y_hat, quality = latents(96, 8, 8, seed=5), torch.tensor([0.5])
    with torch.no_grad():
        wanted = 255 * quantised(y_hat, quality)[0].permute(1, 2, 0)
        floats = 255 * quantised.g_s(y_hat, quality)[0].permute(1, 2, 0)
    found = synthesis(y_hat[0] * 2**2.5, torch.tensor([5000]))
    apart, lost = (found - wanted).abs(), (floats - wanted).abs()
    assert apart.mean() < 0.2 * lost.mean()
    assert apart.median() < 0.1


def test_floats_are_held_where_codes_end(quantised):
    """Units are found again from integers; and with ranges that cut off much, slopes are of what is decoded."""
    short = copy.deepcopy(quantised)
    for name, log_unit in short.log_units.items():
        log_unit.data -= np.log(8) if name.endswith("merge") else 0
    g_s, arrays = copy.deepcopy(short.g_s), short.arrays(torch.zeros(SMALL.anchors, 96))
    y_hat, quality = latents(96, 8, 8, seed=5), torch.tensor([0.5])
    with torch.no_grad():
        wanted, free = short.branch(y_hat, quality), g_s.branch(y_hat, quality)
        exact.hold(g_s, arrays)
        held = g_s.branch(y_hat, quality)
    for k, block in enumerate(g_s.blocks):
        reach = 127 * short.log_units[f"{k}/merge"].exp()
        assert torch.allclose(block.held.flatten(), reach, rtol=0.03)
    assert (held - wanted).square().mean() < 0.2 * (free - wanted).square().mean()


def test_what_passes_no_gate_is_not_held(quantised):
    arrays = quantised.arrays(torch.zeros(SMALL.anchors, 96))
    arrays["exact.0.gate.weight"] = 0 * arrays["exact.0.gate.weight"]
    arrays["exact.1.expand.weight"][:, 3] = 0
    g_s = copy.deepcopy(quantised.g_s)
    g_s.blocks[1].expand.weight[:, 3] = 0
    exact.hold(g_s, arrays)
    assert (g_s.blocks[0].held == FREE).all()
    assert ((g_s.blocks[1].held > 0) & (g_s.blocks[1].held < 100)).all()  # one that is empty says nothing of others


def test_floats_of_a_model_are_held_if_it_decodes_in_integers():
    packaged = Networks(weights.packaged_model(weights.default_model_id()), "cpu")
    assert all(0 < float(block.held.min()) < 10 for block in packaged.transforms.g_s.blocks)
    assert all(block.held is None for block in packaged.transforms.g_a.blocks)
    former = Networks(weights.parse((FORMER / "667c044f4335750b.safetensors").read_bytes()), "cpu")
    assert all(block.held is None for block in former.transforms.g_s.blocks)


def test_slopes_pass_what_is_held(quantised):
    """As they pass limits between blocks: what is cut off now may be needed after the next step."""
    g_s = copy.deepcopy(quantised.g_s)
    for block in g_s.blocks:
        block.held = torch.full((1, 2 * SMALL.width, 1, 1), 1e-6)
    y_hat = latents(96, 4, 4).requires_grad_()
    g_s.branch(y_hat, torch.tensor([0.5])).sum().backward()
    assert y_hat.grad is not None
    assert (y_hat.grad != 0).float().mean() > 0.9


def klt_apart(spec: HyperpriorSpec, arrays: Arrays, networks: Networks, rgb: np.ndarray) -> torch.Tensor:
    """How far the KLT in integers is from that in floats, in levels, on what the encoder of `networks` sends."""
    silent = {f"exact.head.{part}": 0 * arrays[f"exact.head.{part}"] for part in ("weight", "bias")}
    y_hat = networks.latents_sent(rgb, 9000, 0)
    found = ExactSynthesis(spec, arrays | silent, CPU)(y_hat[0], torch.tensor([9000]))
    with torch.no_grad():
        gain = networks.transforms.gain(torch.tensor([0.9]))
        wanted = 255 * networks.transforms.g_s.linear(y_hat / gain)
    return (found - wanted[0].permute(1, 2, 0)).abs()


def test_the_klt_in_integers_is_that_in_floats():
    model = weights.parse((FORMER / "49ec892ffe998b97.safetensors").read_bytes())
    apart = klt_apart(HyperpriorSpec(**model.spec), dict(model.arrays), Networks(model, "cpu"), photo(200, 300))
    assert apart.mean() < 0.1
    assert apart.max() < 1


def test_that_of_the_packaged_model_is_a_level_off_in_one_of_ten_thousand_pixels(packaged):
    networks = Networks(weights.packaged_model(weights.default_model_id()), "cpu")
    pictures = [p[:400, :600].copy() for p in load_photos(PHOTOS)]
    apart = [klt_apart(*packaged, networks, rgb) for rgb in [photo(200, 300), *pictures]]
    assert len(apart) == 15
    assert max(float(each.mean()) for each in apart) < 0.1
    assert max(float((each >= 1).float().mean()) for each in apart) < 1e-4
    assert max(float(each.max()) for each in apart) < 2.5


def test_units_and_weights_learn(quantised):
    """Everything rounded has a gradient, and following it brings the picture nearer."""
    learning = copy.deepcopy(quantised).requires_grad_(True)
    weights_too = [*learning.parameters(), *learning.g_s.requires_grad_(True).parameters()]
    y_hat, quality = latents(96, 8, 8, seed=3), torch.tensor([0.3])
    with torch.no_grad():
        wanted = quantised.g_s(y_hat, quality)
    optimizer = torch.optim.Adam(weights_too, lr=3e-4)
    losses = []
    for _ in range(40):
        loss = (learning(y_hat, quality) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in learning.log_units.parameters())
        assert any(p.grad.abs().max() > 0 for p in learning.log_units.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_nothing_that_is_rounded_is_near_a_tie():
    """So that every exp, asinh and exp2 that is right to ten digits gives the same integers."""

    def tie(x: np.ndarray) -> float:
        return float(np.abs(x - np.floor(x) - 0.5).min())

    assert tie(256 / (1 + np.exp(-np.arange(-1000, 1001) / 16))) > 0.003
    grid = np.arange(1, ends.ASINH_LIMIT + 1) / ends.ASINH_UNITS
    assert tie(np.arcsinh(grid) * 2**ends.ASINH_BITS) > 1e-5
    sigmas = np.exp2(np.arange(len(integer.sigmas())) / 512 - 3)
    mantissas, _ = np.frexp(sigmas)
    assert tie(mantissas * 2**24) > 1e-6
    powers = np.concatenate([np.exp2(np.arange(256) / 2**bits) for bits in (8, 16)])
    assert tie(powers * 2.0**36) > 1e-4
    exponents = np.arange(-(1 << 18), 1 << 18, 37)
    assert np.abs(exact.exp2(exponents) / np.exp2(exponents / 65536) - 1).max() < 2.0**-35


def test_a_cpu_that_cuts_off_sums_of_bytes_multiplies_floats(monkeypatch):
    def cut_off(*args: Any) -> torch.Tensor:
        return product(*args).clamp(-(1 << 15), (1 << 15) - 1)

    def missing(*args: Any) -> torch.Tensor:
        raise AttributeError("no such operator")

    product = codes._byte_product()
    for other in (cut_off, missing):
        codes.multiplies_bytes.cache_clear()
        monkeypatch.setattr(codes, "_byte_product", lambda other=other: other)
        assert not codes.multiplies_bytes()
    monkeypatch.undo()
    codes.multiplies_bytes.cache_clear()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("up.weight", None, "exact.up.weight, which is None"),
        ("1.spatial.weight", lambda x: x.astype(np.int8), "exact.1.spatial.weight, which is"),
        ("head.bias", lambda x: x[:-1], "exact.head.bias, which is"),
        ("0.rescale", lambda x: x * np.float32(np.nan), "exact.0.rescale has values outside of"),
        ("0.gate.shift", lambda x: np.full_like(x, 120), "exact.0.gate.shift has values outside of"),
        ("log2_gain", lambda x: x + (1 << 28), "exact.log2_gain has values outside of"),
        ("klt.high.weight", lambda x: np.full_like(x, -128), "exact.klt.high.weight has values outside of"),
        ("y_std", lambda x: 0 * x, "exact.y_std has values outside of 1e-09"),
        ("more", lambda x: np.zeros(3), "exact.more, which is"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(packaged, name, change, message):
    spec, arrays = packaged
    before = arrays.get(f"exact.{name}")
    changed = {k: v for k, v in arrays.items() if k != f"exact.{name}"}
    if change:
        changed[f"exact.{name}"] = change(before)
    with pytest.raises(BitstreamError, match=rf"^weights: .*{message}.*; the file is damaged, fetch it again$"):
        ExactSynthesis(spec, changed, CPU)


def test_sums_that_could_leave_the_exact_range_are_refused():
    wide = np.full((1, 2000), 127, np.int8)
    with pytest.raises(BitstreamError, match="does not fit exact arithmetic"):
        codes.ByteLinear(wide, np.zeros(1, np.int8), np.zeros(1, np.float32), CPU)

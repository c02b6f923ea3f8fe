"""Compressors without side information about each latent: one table per channel and quality, fixed with the weights.

    x -- features -- 1x1 -- y -- * gain(q) -- round -- / gain(q) -- 1x1 + CNN branch -- x_hat

Encoders differ (a classifier, a pyramid of convolutions, tiles), and the rest is the same: at step 0 the 1x1
layers hold the best linear prediction of the pixels from the features, in the units of an orthonormal transform, so
that gains and scales are right from the start. A classifier has many features in a unit: what each place in it says of
its own pixels is found first (`squeeze`), from many more examples than there are units. Balle, Laparra & Simoncelli,
"End-to-end Optimized Image Compression", ICLR 2017, is the model; Izenman, "Reduced-rank regression for the
multivariate linear model", 1975, the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.nn import integer
from pipeline.nn.backbone import Backbone
from pipeline.nn.hyperprior import Likelihoods, MeanScaleHyperprior, logistic_bits, loss_curvature
from pipeline.nn.layers import DepthConvBlock, QualityTable, asinh, reconstruct, uniform_noise
from pipeline.nn.normalise import Normalisation
from pipeline.nn.pyramid import PyramidBranch, PyramidFeatures
from pipeline.nn.spec import SCALE_STEPS_PER_OCTAVE, ConvSpec, StaticSpec, TileSpec, TransferSpec
from pipeline.nn.transforms import shortcut

START_PX = 128
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Nothing weaker: features are computed in bf16, and a start that subtracts large ones from each other shows it."""
LOG2_SIGMA_UNITS = integer.INDEX_STEPS_PER_OCTAVE << integer.SCALE_BITS


class StaticAnalysis(nn.Module):
    """g_a: x (B, 3, H, W) around 0 to y (B, M, H / unit, W / unit)."""

    def __init__(self, spec: StaticSpec) -> None:
        super().__init__()
        self.features: Backbone | PyramidFeatures
        if isinstance(spec, TransferSpec):
            self.features = Backbone(spec.backbone, spec.layer, spec.unit_px)
        elif isinstance(spec, ConvSpec | TileSpec):
            self.features = PyramidFeatures(spec)
        self.feature_std: Tensor
        self.register_buffer("feature_std", torch.ones(1, self.features.channels, 1, 1))
        channels = self.features.channels
        self.squeeze: nn.Conv2d | None = None
        if isinstance(self.features, Backbone):
            self.fold = self.features.fold
            self.squeeze = nn.Conv2d(channels, min(channels, 3 * (spec.unit_px // self.fold) ** 2), 1)
            channels = self.squeeze.out_channels * self.fold**2
        self.out = nn.Conv2d(channels, spec.latent, 1)

    def forward(self, x: Tensor) -> Tensor:
        return shortcut(self.out, self.folded(self.features(x).float() / self.feature_std), self.training)

    def folded(self, h: Tensor) -> Tensor:
        """All features of a unit at one position."""
        return h if self.squeeze is None else F.pixel_unshuffle(shortcut(self.squeeze, h, self.training), self.fold)


class EighthBranch(nn.Module):
    """y (B, M, h, w) to what is added to the linear picture (B, 3, 16 h, 16 w): blocks at an eighth, as in `g_s`."""

    def __init__(self, spec: TransferSpec) -> None:
        super().__init__()
        self.up = nn.Conv2d(spec.latent, 4 * spec.width, 1)
        self.modulation = QualityTable(torch.zeros(spec.anchors, spec.width))
        self.blocks = nn.Sequential(*(DepthConvBlock(spec.width) for _ in range(spec.blocks)))
        self.head = nn.Conv2d(spec.width, 192, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        h = F.pixel_shuffle(self.up(y), 2) * torch.exp(self.modulation(quality))
        return F.pixel_shuffle(self.head(self.blocks(h)), 8)


class StaticSynthesis(nn.Module):
    """g_s: y_hat (B, M, h, w) to x_hat (B, 3, unit h, unit w) around 0, not clamped."""

    def __init__(self, spec: StaticSpec) -> None:
        super().__init__()
        self.unit_px = spec.unit_px
        self.klt = nn.Conv2d(spec.latent, 3 * spec.unit_px**2, 1)
        self.y_std: Tensor
        self.register_buffer("y_std", torch.ones(1, spec.latent, 1, 1))
        self.branch: nn.Module
        if isinstance(spec, TransferSpec):
            self.branch = EighthBranch(spec)
        elif isinstance(spec, ConvSpec | TileSpec):
            self.branch = PyramidBranch(spec)

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        linear = F.pixel_shuffle(shortcut(self.klt, y_hat, self.training), self.unit_px)
        return linear + self.branch(asinh(y_hat / self.y_std), quality).float()


class StaticCompressor(nn.Module):
    """See the module; `forward` is the training pass."""

    def __init__(self, spec: StaticSpec) -> None:
        super().__init__()
        self.spec, self.shard = spec, (0, 1)
        self.g_a, self.g_s = StaticAnalysis(spec), StaticSynthesis(spec)
        lmbda = spec.lmbda(torch.linspace(0, 1, spec.anchors))
        log2_gain = torch.log2(255 * torch.sqrt(lmbda / 26))[:, None].expand(-1, spec.latent)
        self.log2_gain, self.log2_base = QualityTable(log2_gain), QualityTable(log2_gain)

    def forward(self, x: Tensor, quality: Tensor, synthetic: int = 0) -> Likelihoods:
        """x (B, 3, H, W) in [0, 1], H and W multiples of the unit; quality (B,) in [0, 1]; see `loss_curvature`."""
        even, norm = evened(self.spec, x)
        shift = octaves(self.spec, norm)
        gain = torch.exp2(self.log2_gain(quality) + shift)
        y = self.g_a(even) * gain
        if (reach := reach_of(self.spec)) is not None:
            y = y.clamp(-reach, reach)
            y_bits = y.new_full((len(y),), float(y[0].numel() * (self.spec.num_bits or 0)))
        else:
            sigma = MeanScaleHyperprior.sigma(self.log2_base(quality) + shift)
            y_bits = logistic_bits(self._quantised(y), sigma).flatten(1).sum(1)
        curvature = loss_curvature(self.spec, quality, x.shape, gain, synthetic)
        y_hat = reconstruct(y, torch.zeros_like(y), curvature.expand_as(y)) / gain
        x_hat = undone(self.g_s(y_hat, quality), norm)
        return Likelihoods(x_hat, y_bits, torch.zeros_like(y_bits))

    def _quantised(self, y: Tensor) -> Tensor:
        return y + uniform_noise(y, self.shard) if self.training else y.round()

    @torch.no_grad()
    def start(self, crops: Callable[[int, int], Tensor], patches: int) -> None:
        """Set both 1x1 layers to the best linear prediction of pixels from features through M numbers.

        `crops(count, size_px)` gives (count, 3, size, size) uint8; about `patches` positions are looked at.
        """
        self.eval()
        side_px = max(START_PX, 2 * self.spec.unit_px)
        count = max(4, patches * self.spec.unit_px**2 // side_px**2)
        given, g_a = [crops(min(8, count - k), side_px) for k in range(0, count, 8)], self.g_a
        few = given if g_a.squeeze is None else given[:: g_a.fold]
        features = np.concatenate([_rows(g_a.features(even)) for even in self._evened(few)])
        _put(g_a.feature_std, np.maximum(features.std(axis=0), 1e-3 * features.std() + 1e-6))
        features /= _row(g_a.feature_std)
        if g_a.squeeze is not None:
            pixels = np.concatenate([_patches(even, self.spec.unit_px // g_a.fold) for even in self._evened(few)])
            _linear(g_a.squeeze, reduced_rank(features, pixels, g_a.squeeze.out_channels))
            folded = (g_a.folded(g_a.features(even) / g_a.feature_std) for even in self._evened(given))
            features = np.concatenate([_rows(h) for h in folded])
        pixels = np.concatenate([_patches(even, self.spec.unit_px) for even in self._evened(given)])
        found = reduced_rank(features, pixels, self.spec.latent)
        _linear(g_a.out, found)
        _put(self.g_s.klt.weight, found.decode)
        _put(self.g_s.klt.bias, found.decode_bias)  # type: ignore[arg-type]
        _put(self.g_s.y_std, found.std)
        log2_std = torch.from_numpy(np.log2(found.std)).to(self.log2_gain.table)
        if (reach := reach_of(self.spec)) is not None:
            self.log2_gain.table.copy_((math.log2(reach / 4) - log2_std).expand(self.spec.anchors, -1))
        self.log2_base.table.copy_(self.log2_gain.table + log2_std)
        self.train()

    def _evened(self, crops: list[Tensor]) -> Iterator[Tensor]:
        for batch in crops:
            yield evened(self.spec, batch.to(self.log2_gain.table.device).float() / 255)[0]


class Linear(NamedTuple):
    """x = decode y + decode_bias, y = encode f + encode_bias; y is centred with standard deviations `std`."""

    encode: np.ndarray
    encode_bias: np.ndarray
    decode: np.ndarray
    decode_bias: np.ndarray
    std: np.ndarray


def reduced_rank(features: np.ndarray, pixels: np.ndarray, rank: int) -> Linear:
    """The best prediction of `pixels` (n, P) from `features` (n, F) through `rank` numbers, largest share first.

    Ridge regression, then the principal axes of what it predicts; the axes are orthonormal in pixels.
    """
    if rank > pixels.shape[1]:
        raise ConfigError(f"run.model.latent is {rank}; a patch has {pixels.shape[1]} values, so at most that many")
    feature_mean, pixel_mean = features.mean(axis=0), pixels.mean(axis=0)
    scale = np.maximum(features.std(axis=0), 1e-3 * features.std() + 1e-6)
    f, x = (features - feature_mean) / scale, pixels - pixel_mean
    slopes = _slopes(f, x)
    variances, axes = np.linalg.eigh(slopes.T @ (f.T @ f / len(f)) @ slopes)
    variances, axes = variances[::-1][:rank], axes[:, ::-1][:, :rank]
    encode = axes.T @ slopes.T / scale
    std = np.sqrt(np.maximum(variances, 1e-8 * variances[0] + 1e-12))
    return Linear(encode, -encode @ feature_mean, axes, pixel_mean, std)


def _slopes(f: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Ridge regression of x (n, P) on f (n, F) of unit variance, as strong as predicts a held-out fifth best."""
    fifth = len(f) // 5
    held, kept = ((f[rows].T @ f[rows], f[rows].T @ x[rows]) for rows in (slice(fifth), slice(fifth, None)))

    def solved(gram: np.ndarray, cross: np.ndarray, count: int, ridge: float) -> np.ndarray:
        return np.linalg.solve(gram + count * ridge * np.eye(len(gram)), cross)

    def missed(ridge: float) -> float:
        return float(np.square(f[:fifth] @ solved(*kept, len(f) - fifth, ridge) - x[:fifth]).sum())

    return solved(held[0] + kept[0], held[1] + kept[1], len(f), min(RIDGES, key=missed))


def reach_of(spec: StaticSpec) -> int | None:
    """The largest code of a uniform quantiser; None with an entropy model."""
    return None if spec.num_bits is None else 2 ** (spec.num_bits - 1) - 1


def evened(spec: StaticSpec, x: Tensor) -> tuple[Tensor, Normalisation | None]:
    """What the encoder reads of x (B, 3, H, W) in [0, 1], values around 0."""
    if not spec.normalise:
        return x - 0.5, None
    norm = Normalisation.of(x)
    return norm.apply(x), norm


def undone(x: Tensor, norm: Normalisation | None) -> Tensor:
    return x + 0.5 if norm is None else norm.undo(x)


def octaves(spec: StaticSpec, norm: Normalisation | None) -> Tensor | float:
    """What normalisation moves gains and scales by, (B, 1, 1, 1); nothing where codes are uniform."""
    if norm is None or spec.num_bits is not None:
        return 0.0
    return (norm.steps / SCALE_STEPS_PER_OCTAVE)[:, None, None, None]


def freeze(model: StaticCompressor) -> dict[str, np.ndarray]:
    """Every array of the model but the frequency tables and the order of its channels."""
    base = model.log2_base.table.detach().double().cpu().numpy()
    arrays = {"log2_base": np.round(base * LOG2_SIGMA_UNITS).astype(np.int32)}
    for name, value in model.state_dict().items():
        if not name.startswith("log2_base"):
            exact = ".table" in name or name.endswith(("_std", "running_var", "running_mean", "num_batches_tracked"))
            arrays[name] = value.float().cpu().numpy().astype(np.float32 if exact else np.float16)
    return arrays


def thaw(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The state of a `StaticCompressor` from frozen arrays, to train on; what was frozen but for rounding."""
    floats = {k: v for k, v in arrays.items() if k.startswith(("g_a.", "g_s.", "log2_gain."))}
    state = {name: torch.from_numpy(value.astype(np.float32)) for name, value in floats.items()}
    return state | {"log2_base.table": torch.from_numpy(arrays["log2_base"] / LOG2_SIGMA_UNITS).float()}


def _put(parameter: Tensor, value: np.ndarray) -> None:
    parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)).to(parameter).view(parameter.shape))


def _linear(layer: nn.Conv2d, found: Linear) -> None:
    _put(layer.weight, found.encode)
    _put(layer.bias, found.encode_bias)  # type: ignore[arg-type]


def _row(x: Tensor) -> np.ndarray:
    """(1, C, 1, 1) to (C,)."""
    return x.double().cpu().numpy().ravel()


def _patches(x: Tensor, side: int) -> np.ndarray:
    """(B, 3, H, W) to (B H W / side^2, 3 side^2): the values of each patch."""
    return _rows(F.pixel_unshuffle(x, side))


def _rows(x: Tensor) -> np.ndarray:
    """(B, C, h, w) to (B h w, C) float64."""
    rows: np.ndarray = x.float().permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double().cpu().numpy()
    return rows

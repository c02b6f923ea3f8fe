"""The accelerator half of codecs with static tables: pixels to symbols and back, for one picture at a time.

Encoder and decoder run in tiles whose halo covers what the decoder looks at. The encoder is only built when a picture
is analysed: whoever decodes needs neither torchvision nor the backbone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.codecs.base import Symbols
from pipeline.codecs.learned.quantise import Quantiser
from pipeline.codecs.learned.static_symbols import Side, channels, grid_of, spec_of_model, table_indexes
from pipeline.codecs.learned.tiles import has_fast_bf16, pick_device, tiled
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.entropy.coder import VALUE_LIMIT
from pipeline.nn import integer, models
from pipeline.nn.hyperprior import pad_to
from pipeline.nn.layers import QualityTable
from pipeline.nn.normalise import SPREAD, Normalisation
from pipeline.nn.spec import SCALE_BOUNDS, SCALE_STEPS_PER_OCTAVE
from pipeline.nn.static import StaticAnalysis, StaticSynthesis, octaves, reach_of, undone


class StaticNetworks:
    """A frozen model on a device; `keep` is the share of channels that are sent, the most important ones."""

    def __init__(self, model: FrozenModel, device: str = "auto", keep: float = 1.0) -> None:
        self.model, self.keep, self.device = model, keep, pick_device(device)
        self.spec = spec_of_model(model)
        self.g_s = self._part(lambda: StaticSynthesis(self.spec), "g_s.")
        table = torch.from_numpy(model.arrays["log2_gain.table"].astype(np.float32))
        self.log2_gain = QualityTable(table).requires_grad_(False).to(self.device)
        self.threads, self.one_at_a_time = torch.get_num_threads(), self.device.type == "cpu"
        self.bf16 = self.device.type == "cuda" or has_fast_bf16()
        self.quantiser = Quantiser(model, self.device)

    @cached_property
    def g_a(self) -> nn.Module:
        return self._part(lambda: StaticAnalysis(self.spec), "g_a.")

    def _part(self, make: Callable[[], nn.Module], prefix: str) -> nn.Module:
        found = {k.removeprefix(prefix): v for k, v in self.model.arrays.items() if k.startswith(prefix)}
        models.require_fitting(make, found)
        module = make()
        module.load_state_dict({name: torch.from_numpy(value.astype(np.float32)) for name, value in found.items()})
        module.requires_grad_(False).eval()
        return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def minds_worth(self, effort: int) -> bool:
        """No: see `analyse`."""
        return False

    def analyse(
        self, rgb: np.ndarray, quality_centi: int, gray: bool, effort: int = 1, strength: int = 0, worth: float = 1
    ) -> tuple[Symbols, np.ndarray]:
        """Symbols of an (H, W, 3) uint8 picture, and the (H, W, 3) uint8 picture they decode to.

        Quality cannot follow the picture: without h_s there is nothing for it to go by, and `strength` is 0. `worth` is
        1, for symbols are not weighed.
        """
        symbols = self.symbols_of(rgb, quality_centi, gray, effort, strength)
        return symbols, self.synthesise(symbols)

    @torch.inference_mode()
    def symbols_of(
        self, rgb: np.ndarray, quality_centi: int, gray: bool, effort: int = 1, strength: int = 0
    ) -> Symbols:
        """What `analyse` finds, without the work of synthesis."""
        side = self._side(rgb, quality_centi)
        gain = self._gain(quality_centi, side)
        y = (self._latents(rgb, side)[0] * gain).clamp(-VALUE_LIMIT, VALUE_LIMIT)
        reach = reach_of(self.spec)
        if reach is not None:
            value = y.round().clamp(-reach, reach)
        else:
            index = torch.from_numpy(table_indexes(self.model, quality_centi, side).astype(np.int64))
            index = index.to(self.device)[:, None, None]
            lmbda = self.spec.lmbda(quality_centi / integer.QUALITY_UNITS)
            worth = self.model.worth * lmbda * 255**2 / (3 * gain.square())
            value = self.quantiser.cheapest(y, index, worth) if effort else self.quantiser.nearest(y, index)
        sent = np.zeros(y.shape, dtype=np.int16)
        chosen = channels(self.model, side.kept)
        sent[chosen] = value.cpu().numpy()[chosen]
        height_px, width_px = rgb.shape[:2]
        return Symbols(self.model.model_id, height_px, width_px, gray, quality_centi, sent, side.to_z())

    @torch.inference_mode()
    def synthesise(self, symbols: Symbols) -> np.ndarray:
        """(H, W, 3) uint8."""
        side, unit = Side.of(symbols.z), self.spec.unit_px
        gain, norm = self._gain(symbols.quality_centi, side), self._normalisation(side)
        quality = torch.tensor([symbols.quality_centi / integer.QUALITY_UNITS], device=self.device)
        y = torch.from_numpy(symbols.y).to(self.device)
        out = torch.empty(1, 3, unit * y.shape[1], unit * y.shape[2], dtype=torch.uint8, device=self.device)

        def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
            part = y[:, top // unit : bottom // unit, left // unit : right // unit].float() / gain
            x_hat = undone(self.g_s(part[None].contiguous(memory_format=torch.channels_last), quality), norm)
            x_hat = x_hat.mean(1, keepdim=True).expand(-1, 3, -1, -1) if symbols.gray else x_hat
            return (x_hat * 255).round().clamp(0, 255).byte()

        out = tiled(out.shape[2], out.shape[3], tile, out, 1, self.spec.halo_px)
        return np.ascontiguousarray(out[0, :, : symbols.height_px, : symbols.width_px].permute(1, 2, 0).cpu().numpy())

    def _latents(self, rgb: np.ndarray, side: Side) -> Tensor:
        """g_a over tiles: (1, M, h, w), the picture's edges repeated to multiples of the unit."""
        norm, unit = self._normalisation(side), self.spec.unit_px

        def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
            x = torch.from_numpy(rgb[top:bottom, left:right].copy()).to(self.device)
            x = pad_to(x.permute(2, 0, 1)[None].float().div_(255), unit)
            x = (x - 0.5 if norm is None else norm.apply(x)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                return self.g_a(x).float()

        grid = grid_of(self.model, *rgb.shape[:2])
        out = torch.empty(1, self.spec.latent, *grid, device=self.device)
        return tiled(rgb.shape[0], rgb.shape[1], tile, out, unit, self.spec.halo_px)

    def _gain(self, quality_centi: int, side: Side) -> Tensor:
        """(M, 1, 1)."""
        quality = torch.tensor([quality_centi / integer.QUALITY_UNITS], device=self.device)
        gain: Tensor = torch.exp2(self.log2_gain(quality) + octaves(self.spec, self._normalisation(side)))
        return gain[0]

    def _side(self, rgb: np.ndarray, quality_centi: int) -> Side:
        share = self.keep * (1 if self.spec.num_bits is None else quality_centi / integer.QUALITY_UNITS)
        kept = max(1, math.ceil(share * self.spec.latent - 1e-9))
        if not self.spec.normalise:
            return Side(kept, np.zeros(0, np.int64), np.zeros(0, np.int64))
        means, spreads = _moments(rgb)
        scales = np.round(np.log2(np.maximum(spreads, 1e-4) / SPREAD) * SCALE_STEPS_PER_OCTAVE).clip(*SCALE_BOUNDS)
        return Side(kept, np.round(means * 255).astype(np.int64), scales.astype(np.int64))

    def _normalisation(self, side: Side) -> Normalisation | None:
        if not self.spec.normalise:
            return None
        means, scales = (torch.from_numpy(a).float().to(self.device)[None] for a in (side.means, side.scales))
        return Normalisation(means, scales)


def _moments(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel in [0, 1], from histograms: no float copy of a large picture."""
    counts = np.stack([np.bincount(rgb[..., c].ravel(), minlength=256) for c in range(3)])
    levels, share = np.arange(256) / 255, counts / counts[0].sum()
    means = share @ levels
    return means, np.sqrt(np.maximum(share @ levels**2 - means**2, 0))

"""The accelerator half of a learned codec: pixels to symbols and back, for one picture at a time.

g_a and g_s run in tiles whose halo covers their receptive field, so that memory is bounded and there are no seams;
h_s runs in the same integer arithmetic as in the entropy coder, on whatever device the rest is on. The decoder
computes in integers, or fp32; the encoder may use bytes or bf16 for its CNN branches, for what it finds is sent.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.codecs.base import Symbols
from pipeline.codecs.learned import adaptive, hyper_latents
from pipeline.codecs.learned.analysis import AnalysisByHand, padded
from pipeline.codecs.learned.byte_rows import compiled_rows
from pipeline.codecs.learned.byte_slopes import InBytes, fastest
from pipeline.codecs.learned.dequantise import mu_of, placed
from pipeline.codecs.learned.filtering import Evidence
from pipeline.codecs.learned.filters import expected
from pipeline.codecs.learned.quantise import PASSES, PASSES_TO_BE_EXACT, Quantiser, move, passes_of, worth_in
from pipeline.codecs.learned.slopes import Back, by_autograd, by_klt
from pipeline.codecs.learned.steps import Steps
from pipeline.codecs.learned.symbols import Grid
from pipeline.codecs.learned.synthesis import Synthesis, tinted
from pipeline.codecs.learned.tiles import HALO_PX, TILE_PX, has_fast_bf16, multiplies_rows, pick_device, tiled
from pipeline.codecs.learned.trellis import TrellisQuantiser
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.codecs.learned.wiener import Wiener
from pipeline.entropy.coder import VALUE_LIMIT
from pipeline.nn import exact, integer, models
from pipeline.nn.freeze import FLOAT_PARTS, FrozenTransforms
from pipeline.nn.layers import asinh
from pipeline.nn.spec import HyperpriorSpec

INDEX_LIMIT_PX = 50_000_000
"""Pictures up to here keep the tables they were quantised for, 1.5 bytes a pixel, for the entropy coder."""
REGION_POSITIONS = 1 << 16
"""Positions of y, 17 MPix, whose symbols are refined together: above them neighbours are done, below them not begun."""
ScaledBand = tuple[slice, Tensor, Tensor]


class Networks:
    """A frozen model on a device; `precision`, of `base.PRECISIONS`, is that of `synthesise` alone."""

    def __init__(self, model: FrozenModel, device: str = "auto", precision: str = "fp32") -> None:
        self.model, self.precision = model, precision
        self.device, self.threads = pick_device(device), torch.get_num_threads()
        self.one_at_a_time = self.device.type == "cpu"  # whose threads share the work on one picture
        self.spec = spec = HyperpriorSpec(**model.spec)
        models.require_fitting(lambda: models.build(spec), model.arrays, FLOAT_PARTS)
        transforms = FrozenTransforms(spec, dict(model.arrays))
        self.transforms = transforms.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bf16 = self.device.type == "cuda" or has_fast_bf16()
        self.synthesis = Synthesis(model, spec, self.transforms, self.device, self.bf16)
        if self.synthesis.exact is not None:
            exact.hold(self.transforms.g_s, model.arrays)
        by_hand = self.device.type == "cpu" and multiplies_rows()
        made = compiled_rows() if by_hand else None
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        self.g_a = AnalysisByHand(self.transforms.g_a, dtype, made) if by_hand else None
        self.by_hand = fastest(self.synthesis, model.arrays, dtype, made) if by_hand else None
        if self.bf16:
            self.transforms.branches_to_bf16(decoder=self.synthesis.exact is not None)
        self.quantiser = Quantiser(model, self.device)
        self.trellis = TrellisQuantiser(model, model.trellis, self.device) if model.trellis else None
        self.largest_tap = int(model.tables.reaches[-1])
        self.h_s = model.h_s  # on a CPU, NumPy is faster at what is between the products of its layers
        if self.device.type != "cpu":
            self.h_s = model.h_s.to(lambda array: torch.from_numpy(array).to(self.device))
            # Its constants are made with the first use, and must be there before several streams use them.
            self.h_s(torch.zeros(spec.hyper, 1, 1, dtype=torch.float64, device=self.device))

    @torch.no_grad()
    def analyse(
        self, rgb: np.ndarray, quality_centi: int, gray: bool, effort: int = 1, strength: int = 0, worth: float = 1
    ) -> tuple[Symbols, np.ndarray]:
        """Symbols of an (H, W, 3) uint8 picture, and the (H, W, 3) uint8 picture they decode to.

        `strength` is how far quality follows the picture (`learned.adaptive`), `worth` what an error is worth, of what
        it is at this quality and effort, when symbols are chosen for the last time: a fine adjustment, for most stay as
        they are.
        """
        symbols, y_hat = self._quantised(rgb, quality_centi, gray, effort, strength, worth)
        return symbols, self.picture(y_hat, symbols)

    def minds_worth(self, effort: int) -> bool:
        """Whether symbols are weighed at all; models without a trellis round them at effort 0."""
        return self.trellis is not None or PASSES[effort] > 0

    @torch.no_grad()
    def symbols_of(
        self, rgb: np.ndarray, quality_centi: int, gray: bool, effort: int = 1, strength: int = 0
    ) -> Symbols:
        """What `analyse` finds, without the work of synthesis."""
        return self._quantised(rgb, quality_centi, gray, effort, strength)[0]

    @torch.no_grad()
    def hyper_latents(self, rgb: np.ndarray, quality_centi: int) -> Tensor:
        """z (N, hz, wz) of an (H, W, 3) uint8 picture, integers as float64."""
        return self._hyper_latents(self._latents(rgb, self._steps(quality_centi)))

    @torch.no_grad()
    def latents_sent(self, rgb: np.ndarray, quality_centi: int, effort: int, filtered: bool = True) -> Tensor:
        """y_hat (1, M, h, w) in quantiser steps, as the decoder of `symbols_of` gets it; or, if not `filtered`, as it
        would get it if there were no filters.
        """
        return self._quantised(rgb, quality_centi, False, effort, 0, filtered=filtered)[1]

    @torch.no_grad()
    def latents_wanted(self, rgb: np.ndarray, quality_centi: int, effort: int) -> tuple[Tensor, Tensor]:
        """What the passes of `effort` would have had g_a give, (M, h, w) in quantiser steps, and where symbols are
        coded, (M, h, w) bool: elsewhere it does not matter, and is what g_a gives. Pictures of up to INDEX_LIMIT_PX.
        These passes mind no filter, of which g_a cannot know.
        """
        grid = Grid.of(*rgb.shape[:2])
        given = self._latents(rgb, self._steps(quality_centi))[0, :, : grid.height, : grid.width]
        targets = given.clone()
        symbols, _ = self._quantised(rgb, quality_centi, False, effort, 0, targets=targets, filtered=False)
        assert symbols.index is not None
        coded = torch.from_numpy(symbols.index >= self.model.skip_below).to(self.device)
        return torch.where(coded, targets, given), coded

    def _quantised(
        self,
        rgb: np.ndarray,
        quality_centi: int,
        gray: bool,
        effort: int,
        strength: int,
        worth: float = 1,
        targets: Tensor | None = None,
        filtered: bool = True,
    ) -> tuple[Symbols, Tensor]:
        """Symbols, and y_hat (1, M, h, w) in quantiser steps; `targets` (M, h, w) takes what they were rounded from.

        Passes ask for a filter, and mind it, if it is to be `filtered`.
        """
        height_px, width_px = rgb.shape[:2]
        grid, steps, levels = Grid.of(height_px, width_px), self._steps(quality_centi), None
        y = self._latents(rgb, steps)
        z = self._hyper_latents(y)
        if strength:
            del y
            y, z, levels = self._adapted(rgb, quality_centi, strength, z)
            steps = self._steps(quality_centi, levels)
        y_hat = y[0, :, : grid.height, : grid.width]  # y itself, until what it is rounded to takes its place
        index = np.empty(y_hat.shape, np.uint8) if height_px * width_px <= INDEX_LIMIT_PX else None
        symbols, passes = np.empty(y_hat.shape, dtype=np.int16), PASSES[effort]
        steps = steps.with_errors_worth(worth_in(passes))
        quality = quality_centi / integer.QUALITY_UNITS
        exactly = passes >= PASSES_TO_BE_EXACT
        evidence = Evidence(height_px, width_px, gray, quality, self.largest_tap, thorough=exactly)
        for bands in _regions(self._bands(grid, quality_centi, z, strength, index), grid.width, passes):
            rows = slice(bands[0][0].start, bands[-1][0].stop)
            target = y_hat[:, rows].clone() if passes or targets is not None else y_hat[:, rows]
            error_bits = steps.within(16 * rows.start, 16 * rows.stop, 0, width_px).error_bits
            last = error_bits if worth == 1 else error_bits * worth
            first = error_bits if passes else last
            self._settle(bands, target, first if self.trellis else None, symbols, y_hat)
            done = evidence
            for step in passes_of(passes, quality):
                known, evidence = evidence, done.copy(sent=step.last)
                watched = (evidence, known) if filtered else None
                slope = self._slope(rgb, y_hat, rows, steps, gray, watched, exactly, linear=step.linear)
                move(target, y_hat[:, rows], slope, error_bits, quality, step)
                self._settle(bands, target, last if step.last else error_bits, symbols, y_hat)
            if targets is not None:
                targets[:, rows] = target
        wiener = evidence.filter()
        found = Symbols(
            model_id=self.model.model_id,
            height_px=height_px,
            width_px=width_px,
            gray=gray,
            quality_centi=quality_centi,
            y=symbols,
            z=z.cpu().numpy().astype(np.int16),
            trellis=self.trellis.states if self.trellis else 0,
            adaptive=strength,
            wiener=b"" if wiener is None else wiener.to_bytes(self.model.tables),
            index=index,
            levels=None if levels is None else levels.cpu().numpy().astype(np.int8),
        )
        return found, y_hat[None]

    def _adapted(self, rgb: np.ndarray, quality_centi: int, strength: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y, z, and the levels that this z implies, from the `z` of a picture of even quality.

        g_a is told the levels that `z` implies; what it would make of the little by which the last ones differ is not
        worth a third analysis.
        """
        grid = Grid.of(*rgb.shape[:2])
        beyond = (0, 4 * grid.z_width - grid.width, 0, 4 * grid.z_height - grid.height)

        def steps(levels: Tensor) -> Steps:
            return self._steps(quality_centi, F.pad(levels[None, None], beyond, mode="replicate")[0, 0])

        told = steps(self._levels(grid, z, strength))
        y = self._latents(rgb, told)
        z = self._hyper_latents(y)
        levels = self._levels(grid, z, strength)
        final = steps(levels)
        for top_px in range(0, 16 * y.shape[2], TILE_PX):
            window = (top_px, top_px + TILE_PX, 0, 16 * y.shape[3])
            y[:, :, top_px // 16 : (top_px + TILE_PX) // 16] *= final.within(*window).gain / told.within(*window).gain
        return y, z, levels

    def _levels(self, grid: Grid, z: Tensor, strength: int) -> Tensor:
        """Levels (h, w) of adaptive quality, float64."""
        seen = z.numpy() if self.device.type == "cpu" else z
        offsets = (torch.as_tensor(band.scales(self.h_s, seen)) for band in grid.bands())
        return torch.cat([adaptive.levels(strength, offset) for offset in offsets])

    def _levels_of(self, symbols: Symbols) -> Tensor:
        if symbols.levels is not None:
            return torch.from_numpy(symbols.levels).to(self.device).double()
        z = torch.from_numpy(symbols.z.astype(np.float64)).to(self.device)
        return self._levels(Grid.of(symbols.height_px, symbols.width_px), z, symbols.adaptive)

    def _settle(
        self, bands: list[ScaledBand], target: Tensor, error_bits: Tensor | None, symbols: np.ndarray, y_hat: Tensor
    ) -> None:
        """Quantise `target` into the rows of `bands` of `symbols` and `y_hat`.

        To the nearest without `error_bits`; with them to the cheapest, along the trellis of a model that has one.
        """
        top = bands[0][0].start
        for rows, index, mu in bands:
            here = slice(rows.start - top, rows.stop - top)
            residual = (target[:, here] - mu).clamp_(-VALUE_LIMIT, VALUE_LIMIT)
            price = error_bits if error_bits is None or error_bits.shape[1] == 1 else error_bits[:, here]
            if price is None:
                value = self.quantiser.nearest(residual, index)
                centred = self.quantiser.centred(value, index)
            elif self.trellis is not None:
                value, centred = self.trellis.cheapest(residual, index, price)
            else:
                value = self.quantiser.cheapest(residual, index, price)
                centred = self.quantiser.centred(value, index)
            symbols[:, rows] = value.cpu().numpy()
            torch.add(centred, mu, out=y_hat[:, rows])

    def _slope(
        self,
        rgb: np.ndarray,
        y_hat: Tensor,
        rows: slice,
        steps: Steps,
        gray: bool,
        evidence: tuple[Evidence, Evidence] | None = None,
        exact: bool = False,
        *,
        linear: bool,
    ) -> Tensor:
        """Slope of lmbda times the decoded picture's squared error over rows of y_hat, (M, rows, w) bits a step.

        The first of `evidence` is shown the picture that this decodes, which is nearly the one that will be sent;
        errors are those behind the filter that it asks for, or the second, while that has seen more. In floats the
        picture is only that of the decoder in integers if `exact`. The way back is without the filter, and if `linear`
        through the KLT alone.
        """
        halo = HALO_PX // 16
        first, last = max(0, rows.start - halo), rows.stop + halo
        rgb, y_hat = rgb[16 * first : 16 * last], y_hat[:, first:last]
        steps = steps.within(16 * first, 16 * last, 0, rgb.shape[1])
        own_px = 16 * (rows.start - first), 16 * (rows.stop - first)

        def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
            x = torch.from_numpy(rgb[top:bottom, left:right].copy()).to(self.device).permute(2, 0, 1)[None] / 255
            here = steps.within(top, bottom, left, right)
            part = y_hat[:, top // 16 : bottom // 16, left // 16 : right // 16]
            x_hat, back = self._decoded(part, here, linear)
            if exact and self.synthesis.exact is not None and not isinstance(self.by_hand, InBytes):
                x_hat = self.synthesis.exact(part, here.centi).div_(255).permute(2, 0, 1)[None]
            x_hat, pixel_bits = tinted(x_hat, gray), here.pixel_bits(x.shape[2], x.shape[3])
            if evidence is not None:
                begin = max(own_px[0], top + HALO_PX * (top > 0)) - top
                end = min(own_px[1], bottom - HALO_PX * (bottom < 16 * y_hat.shape[1])) - top
                own = slice(begin, max(begin, end))
                across = slice(HALO_PX * (left > 0), right - left - HALO_PX * (right < 16 * y_hat.shape[2]))
                worth = pixel_bits if steps.everywhere else pixel_bits[:, :, own, across]
                evidence[0].add(x_hat[:, :, own, across], x[:, :, own, across], worth)
                x_hat = expected(x_hat, max(evidence, key=lambda one: one.seen).filter())
            error = torch.sub(x_hat[:, :, : x.shape[2], : x.shape[3]], x, out=x)
            # What lies beyond the picture only fills up the last latents, and may be anything.
            beyond = (0, x_hat.shape[3] - x.shape[3], 0, x_hat.shape[2] - x.shape[2])
            over_x = error.mul_(2 * pixel_bits)
            slope = back(tinted(F.pad(over_x, beyond) if any(beyond) else over_x, gray))
            return slope / here.gain

        with torch.autocast("cpu", enabled=False):  # that of whoever calls
            slope = tiled(16 * y_hat.shape[1], 16 * y_hat.shape[2], tile, torch.empty_like(y_hat)[None], 16)[0]
        return slope[:, rows.start - first : rows.stop - first]

    def _decoded(self, y_hat: Tensor, steps: Steps, linear: bool) -> tuple[Tensor, Back]:
        """The picture (1, 3, 16 h, 16 w) on 0 .. 1 of y_hat (M, h, w) in quantiser steps, and the way back."""
        if self.by_hand is not None:
            return self.by_hand(y_hat, steps, linear)
        way = by_klt if linear else by_autograd
        return way(self.transforms.g_s, steps.in_pixel_units(y_hat[None]), steps.quality, self.bf16)

    @torch.inference_mode()
    def synthesise(self, symbols: Symbols, y_hat: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3) uint8; `y_hat` (M, h, w) float32 in quantiser steps, where the caller has asked h_s already."""
        if y_hat is not None:
            return self.picture(torch.from_numpy(y_hat).to(self.device)[None], symbols, self.precision)
        self.model.trellis_of(symbols.trellis)
        found = torch.from_numpy(symbols.y).to(self.device).float()
        z = torch.from_numpy(symbols.z.astype(np.float64)).to(self.device)
        grid = Grid.of(symbols.height_px, symbols.width_px)
        for rows, index, mu in self._bands(grid, symbols.quality_centi, z, symbols.adaptive):
            if self.trellis is not None and symbols.trellis:
                centred = self.trellis.centred(found[:, rows], index, symbols.trellis)
            else:
                centred = self.quantiser.centred(found[:, rows], index)
            found[:, rows] = centred + mu
        return self.picture(found[None], symbols, self.precision)

    def _steps(self, quality_centi: int, levels: Tensor | None = None) -> Steps:
        """Everywhere the same, or those of levels (h, w)."""
        centi = torch.tensor([quality_centi], dtype=torch.float64, device=self.device)
        if levels is not None:
            centi = adaptive.quality_at(quality_centi, levels)[None]
        return Steps(self.transforms, self.spec, self.model.worth, centi)

    def _hyper_latents(self, y: Tensor) -> Tensor:
        """round(h_a) over tiles of y (1, M, 4 hz, 4 wz) in quantiser steps: z (N, hz, wz), integers as float64."""

        def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
            part = asinh(y[:, :, top // 16 : bottom // 16, left // 16 : right // 16])
            return self.transforms.h_a(part)

        height_px, width_px = 16 * y.shape[2], 16 * y.shape[3]
        z = torch.empty(1, self.model.spec["hyper"], height_px // 64, width_px // 64, device=self.device)
        return (
            tiled(height_px, width_px, tile, z, 64)[0].double().round().clamp(-hyper_latents.LIMIT, hyper_latents.LIMIT)
        )

    def _bands(
        self, grid: Grid, quality_centi: int, z: Tensor, strength: int, indexes: np.ndarray | None = None
    ) -> Iterator[ScaledBand]:
        """(rows of y, scale index, mu in quantiser steps) of each band; `indexes` (M, h, w) is filled on the way."""
        seen = z.numpy() if self.device.type == "cpu" else z
        for band in grid.bands():
            offset, mean = band.hyper(self.h_s, seen)
            scales = placed(self.model, quality_centi, strength, offset)
            index, mu = (torch.as_tensor(part) for part in (scales.index, mu_of(scales.position, mean)))
            if indexes is not None:
                indexes[:, band.rows] = index.cpu().numpy()
            yield band.rows, index, mu

    def _latents(self, rgb: np.ndarray, steps: Steps) -> Tensor:
        """g_a over tiles, in quantiser steps: (1, M, 4 hz, 4 wz), the picture's edges repeated to multiples of 64."""

        def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
            picture = padded(torch.from_numpy(rgb[top:bottom, left:right].copy()).to(self.device), 64)
            here = steps.within(top, top + picture.shape[0], left, left + picture.shape[1])
            if self.g_a is not None:
                return self.g_a(picture, here.quality).mul_(here.gain)
            x = picture.permute(2, 0, 1)[None].float().div_(255).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                return self.transforms.g_a(x, here.quality) * here.gain

        halo_px = 64 * -(-self.spec.encoder_blocks // 8)  # a block looks 8 px further, and z wants multiples of 64
        grid = Grid.of(*rgb.shape[:2])
        y = torch.empty(1, self.spec.latent, 4 * grid.z_height, 4 * grid.z_width, device=self.device)
        with torch.autocast("cpu", enabled=False):  # that of whoever calls
            return tiled(rgb.shape[0], rgb.shape[1], tile, y, 16, halo_px)

    @torch.no_grad()
    def picture(self, y_hat: Tensor, symbols: Symbols, precision: str = "fp32") -> np.ndarray:
        """(H, W, 3) uint8 that `symbols` decode to, y_hat (1, M, h, w) in quantiser steps being theirs."""
        steps = self._steps(symbols.quality_centi, self._levels_of(symbols) if symbols.adaptive else None)
        size, gray = (symbols.height_px, symbols.width_px), symbols.gray
        wiener = Wiener.of(symbols.wiener, self.model.tables, gray) if symbols.wiener else None
        return self.synthesis.picture(y_hat, steps, *size, gray, precision, wiener)


def _regions(bands: Iterator[ScaledBand], width: int, passes: int) -> Iterator[list[ScaledBand]]:
    """Bands that are refined together, so that memory does not grow with the picture; each alone without a pass."""
    region = list[ScaledBand]()
    for band in bands:
        region.append(band)
        if not passes or width * (band[0].stop - region[0][0].start) >= REGION_POSITIONS:
            yield region
            region = []
    if region:
        yield region

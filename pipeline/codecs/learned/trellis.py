"""Which integers to send, trellis-coded: the cheapest path through both quantisers, for all lanes of a band at once.

`entropy.order` says what the decoder does with them; a cost is bits plus the price of the squared error. It saves 5 to
7 % of the bytes that the best rounding takes at equal PSNR (training/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned.quantise import bits_of
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.codecs.learned.weights_checks import Trellis
from pipeline.entropy import order
from pipeline.entropy.coder import VALUE_LIMIT, needing_numba
from pipeline.nn.integer import INDEX_COUNT

STATES = 128
"""Of the trellis that encoders take. 16, which was all there was, cost 0.8 % more; 256 would save 0.1 % (LOG.md)."""


class Plan(NamedTuple):
    """Of a band: positions of its symbols (n,), where steps end among them (k,), the scale index of each step (k,)
    uint8, and prices of squared errors (n,) float32.
    """

    at: np.ndarray
    ends: np.ndarray
    scales: np.ndarray
    prices: np.ndarray


class TrellisQuantiser:
    """Quantises residuals under the two tables that a model has for each scale index.

    The search is the CPU's: its steps are short, and a GPU takes longer to be told of them than a CPU to take them.
    """

    def __init__(self, model: FrozenModel, trellis: Trellis, device: torch.device, states: int = STATES) -> None:
        self.skip_below, self.step, self.device, self.states = model.skip_below, trellis.step, device, states
        self.bits, self.shifts = bits_of(trellis.tables), np.array(trellis.shifts)
        self._kept: tuple[Tensor, Tensor, Plan] | None = None

    def cheapest(self, residual: Tensor, index: Tensor, error_bits: Tensor) -> tuple[Tensor, Tensor]:
        """The symbols to send for `residual`, int16 on the CPU, and what they stand for, float32; both shaped like it.

        `index` are scale indexes, shaped like it; `error_bits`, (M, 1, 1) or shaped like it, is the price of a squared
        error.
        """
        kept = self._kept  # passes come back with the same tensors
        if kept is None or kept[0] is not index or kept[1] is not error_bits:
            prices = error_bits.float().reshape(-1).cpu().numpy()
            kept = self._kept = index, error_bits, self.plan(index.cpu().numpy(), prices)
        symbols, values = self.along(kept[2], residual.float().contiguous().cpu().numpy())
        return torch.from_numpy(symbols), torch.from_numpy(values).to(self.device)

    def plan(self, index: np.ndarray, prices: np.ndarray) -> Plan:
        """What does not depend on residuals: of scale `index` (M, h, w) uint8, and prices of a channel or a symbol."""
        with needing_numba():
            from pipeline.entropy import compiled
        at, ends, scales = compiled.steps(index.ravel(), self.skip_below)
        return Plan(at, ends, scales, prices[at // (index.size // len(prices))])

    def along(self, plan: Plan, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The symbols to send, int16, and what they stand for, float32, of `residual` (M, h, w) float32."""
        symbols, values = np.zeros(residual.size, np.int16), np.zeros(residual.size, np.float32)
        if len(plan.at):
            costs = plan.prices, self.bits, self.shifts, np.float32(self.step), np.float32(VALUE_LIMIT)
            places, code = (residual.ravel(), *plan[:3]), order.CODES[self.states]
            _search()(*places, *costs, self.states, *code, symbols, values)
        return symbols.reshape(residual.shape), values.reshape(residual.shape)

    def centred(self, symbols: Tensor, index: Tensor, states: int) -> Tensor:
        """What integers sent along a trellis of `states` stand for, as `Quantiser.centred` says it of rounded ones."""
        sent = symbols.cpu().numpy().astype(np.int16)
        tables = order.tables_of(index.expand_as(symbols).cpu().numpy(), self.skip_below, INDEX_COUNT, sent, states)
        magnitude = (np.abs(sent) - np.float32(0.5) * (tables >= INDEX_COUNT)) * np.float32(self.step)
        return torch.from_numpy((magnitude - self.shifts[tables]) * np.sign(sent)).to(self.device)


def _search() -> Callable[..., None]:
    """What only encoders need: to be compiled, or found as it was compiled before. Raises ConfigError without Numba."""
    with needing_numba():
        from pipeline.codecs.learned import viterbi
    return viterbi.cheapest

"""The search of `viterbi` in operators of torch, for a GPU: one step of all lanes of all pictures of a batch at once.

What is compiled for a CPU keeps the costs of one block of lanes in its cache; a GPU wants few and large operators
instead, and so all pictures take their steps side by side, each along its own lanes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.entropy import order
from pipeline.entropy.coder import VALUE_LIMIT

TABLES = 256
"""More than any model has."""


class Layout(NamedTuple):
    """Which latent is where, all (steps, lanes): its place in the batch, int64, whether there is one, and its table."""

    places: Tensor
    coded: Tensor
    tables: Tensor


class Search:
    """Along the trellis of `states`; `bits` (tables, magnitudes), `shifts` (tables,) and `step` are as in `viterbi`."""

    def __init__(self, bits: np.ndarray, shifts: np.ndarray, step: float, states: int, device: torch.device) -> None:
        self.bits, self.shifts = (torch.from_numpy(x).to(device) for x in (bits, shifts))
        self.step, self.states, self.half = step, states, states // 2
        odd, second = order.CODES[states]
        to = np.arange(states)
        moved = to ^ (to >= self.half) * second
        # What leads to a state by an even symbol, and by an odd one: the first half are of the first quantiser.
        before = np.stack([2 * moved + (to >= self.half), 2 * (moved ^ odd) + (to >= self.half)])
        self.before = torch.from_numpy(before).to(device)

    def settle(self) -> None:
        """Wait until its constants are on the device."""
        self.before.cpu()

    def layout(self, index: Tensor, coded: Tensor) -> Layout:
        """Of scale indexes uint8 and which of them are coded, (N, ...): the steps that `order.steps` has for each."""
        flat = coded.reshape(-1).nonzero().squeeze(1)
        picture = torch.div(flat, index[0].numel(), rounding_mode="floor")
        group, by = (picture * TABLES + index.reshape(-1)[flat]).int().sort(stable=True)
        counts = torch.bincount(group, minlength=len(index) * TABLES).view(-1, TABLES).cpu().numpy()
        lanes = np.array([order.lanes_of(int(count)) for count in counts.sum(1)])
        steps = -(-counts // lanes[:, None])
        firsts = (
            np.cumsum(steps, 1) - steps,
            np.repeat(np.cumsum(lanes) - lanes, TABLES),
            np.cumsum(counts) - counts.ravel(),
            np.repeat(lanes, TABLES),
        )
        step, lane, symbol, own = (torch.from_numpy(np.ascontiguousarray(x).ravel()).to(flat.device) for x in firsts)
        group = group.long()
        rank, own = torch.arange(len(flat), device=flat.device) - symbol[group], own[group]
        width, count = int(lanes.sum()), int(steps.sum(1).max())
        at = (step[group] + torch.div(rank, own, rounding_mode="floor")) * width + lane[group] + rank % own
        places = flat.new_zeros(count * width).index_copy_(0, at, flat[by]).view(count, width)
        there = coded.new_zeros(count * width).index_fill_(0, at, True).view(count, width)
        return Layout(places, there, index.reshape(-1)[places].long())

    def cheapest(self, layout: Layout, residual: Tensor, prices: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols, int16, and what they stand for, float32, of `residual` under `prices` that spread to its shape."""
        places, coded, _ = layout
        seen = residual.reshape(-1)[places]
        costs, magnitudes = self._candidates(layout, seen.abs(), prices.expand_as(residual).reshape(-1)[places])
        choice = self._choices(costs, coded)
        found = magnitudes.gather(1, choice[:, None])[:, 0]
        second = choice >= 2
        points = (found - 0.5 * second) * self.step - self.shifts[layout.tables + second * (len(self.shifts) // 2)]
        points = torch.where(found > 0, points, 0)
        negative = seen < 0
        # What is at no place goes to one behind the last.
        size = residual.numel()
        at = torch.where(coded, places, size).reshape(-1)
        symbols = torch.zeros(size + 1, dtype=torch.int16, device=residual.device)
        values = torch.zeros(size + 1, device=residual.device)
        symbols[at] = torch.where(negative, -found, found).to(torch.int16).reshape(-1)
        values[at] = torch.where(negative, -points, points).reshape(-1)
        return symbols[:size].view(residual.shape), values[:size].view(residual.shape)

    def _candidates(self, layout: Layout, target: Tensor, price: Tensor) -> tuple[Tensor, Tensor]:
        """Costs and magnitudes, (steps, 4, lanes), of the best even and odd one under each quantiser; see `viterbi`."""
        farthest = (VALUE_LIMIT - 1) * self.step
        target = torch.where(target < farthest, target, farthest)  # of what is no number as well
        shape = target.shape[0], 4, target.shape[1]
        costs, magnitudes = target.new_empty(shape), target.new_empty(shape)
        last = self.bits.shape[1] - 1
        for choice in range(4):
            offset, odd = 0.5 * (choice // 2), choice % 2
            table = layout.tables + choice // 2 * (len(self.shifts) // 2)
            found = (target / self.step + offset).floor_()
            remainder = found - 2 * (found * 0.5).floor_()
            found += 1 - remainder if odd else remainder
            entry = table * (last + 1) + found.clamp_max(last).long()
            error = (found - offset).mul_(-self.step).add_(target).add_(self.shifts[table])
            cost = error.square_().mul_(price).add_(self.bits.view(-1)[entry])
            if not odd:
                instead = self.bits[:, 0][table] + price * target.square()
                none = (instead <= cost) | (found == 0)
                cost, found = torch.where(none, instead, cost), found.masked_fill_(none, 0)
            costs[:, choice], magnitudes[:, choice] = cost, found
        return costs, magnitudes

    def _choices(self, costs: Tensor, coded: Tensor) -> Tensor:
        """Which of four candidates each symbol is along the cheapest path of its lane, (steps, lanes) int64."""
        count, _, width = costs.shape
        total = costs.new_full((self.states, width), torch.inf)
        total[0] = 0
        both, before = total.new_empty(2 * self.states, width), self.before.view(-1)
        even, odd = both.chunk(2)
        by_half = both.view(2, 2, self.half, width)
        decided = torch.empty((count, *total.shape), dtype=torch.bool, device=costs.device)
        # A step is short: what to call it with is made for all of them at once.
        prices = costs.view(count, 2, 2, 1, width).transpose(1, 2).unbind()
        theres, decisions = coded.unbind(), decided.unbind()
        for price, there, decision in zip(prices, theres, decisions, strict=True):
            torch.index_select(total, 0, before, out=both)
            by_half.add_(price)
            torch.lt(odd, even, out=decision)
            torch.minimum(odd, even, out=even)
            torch.where(there, even, total, out=total)
        state = total.argmin(0, keepdim=True)
        taken = torch.empty((count, 1, width), dtype=torch.int64, device=costs.device)
        for there, decision, key in zip(theres[::-1], decisions[::-1], taken.unbind()[::-1], strict=True):
            torch.add(state, decision.gather(0, state), alpha=self.states, out=key)
            state = torch.where(there, before.take(key), state)
        taken = taken[:, 0]
        odd_taken = torch.div(taken, self.states, rounding_mode="floor")
        return odd_taken + 2 * (taken % self.states >= self.half)

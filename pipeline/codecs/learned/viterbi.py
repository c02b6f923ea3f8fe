"""The search for the cheapest path through a trellis, compiled for the processor it runs on.

The Viterbi algorithm goes forth over the steps of all lanes with the cheapest cost of each state, and back along the
choices that led there. What is next to each other in memory are lanes, so that sixteen of them share an instruction;
some lanes at a time, so that their costs stay in the cache. Magnitudes are counted in float32: Numba makes 64 bits of
smaller integers, which are not converted sixteen at a time.

Forney, "The Viterbi Algorithm", Proceedings of the IEEE 1973.
"""

from __future__ import annotations

import numba
import numpy as np

from pipeline.compiling import compiled

LANES_AT_ONCE = 512
ZERO, HALF, ONE, TWO = (np.float32(x) for x in (0, 0.5, 1, 2))


SIGNATURE = (
    "void(float32[::1], int64[::1], int64[::1], uint8[::1], float32[::1], float32[:, ::1], float32[::1], "
    "float32, float32, int64, int64, int64, int16[::1], float32[::1])"
)


_inlined = numba.njit(nogil=True, error_model="numpy")


def _cheapest(  # type: ignore[no-untyped-def]
    residual, at, ends, scales, prices, bits, shifts, step, limit, states, after_odd, after_second, symbols, values
):
    """Fills in `symbols` (int16) and `values` (float32), flat as `residual` (float32), at places `at`, (n,) int64.

    Step i is of the symbols up to `ends[i]`, one a lane, under tables `scales[i]` and half of all tables further on.
    `prices` (n,) are those of squared errors, `bits` (tables, magnitudes) what magnitudes cost, the last for all that
    are larger, and `shifts` (tables,) how far from its point each stands; `step`, of the quantisers, and `limit`, which
    no magnitude exceeds, are float32 as well. `states`, `after_odd` and `after_second` are as in `entropy.order`.
    """
    half, farthest, lanes = len(bits) // 2, (limit - ONE) * step, ends[0]
    for i in range(1, len(ends)):
        lanes = max(lanes, ends[i] - ends[i - 1])
    place = _places(states, after_odd, after_second)
    decided = np.empty((states // 8, len(at)), np.uint8)
    magnitudes = np.empty((4, len(at)), np.int16)
    total = np.empty((states, LANES_AT_ONCE), np.float32)
    following = np.empty((states, LANES_AT_ONCE), np.float32)
    costs = np.empty((4, LANES_AT_ONCE), np.float32)
    targets = np.empty(LANES_AT_ONCE, np.float32)
    state = np.empty(LANES_AT_ONCE, np.int64)
    magnitude, entry = np.empty(LANES_AT_ONCE, np.float32), np.empty(LANES_AT_ONCE, np.uint32)
    for left in range(0, lanes, LANES_AT_ONCE):
        width = min(LANES_AT_ONCE, lanes - left)
        total[:] = np.inf
        total[0] = 0
        for i in range(len(ends)):
            first = (ends[i - 1] if i else 0) + left
            count = min(width, ends[i] - first)
            if count <= 0:
                continue
            here = slice(first, first + count)
            for lane in range(count):
                target = abs(residual[at[first + lane]])
                targets[lane] = target if target < farthest else farthest
            for choice in range(4):
                table = scales[i] + half * (choice // 2)
                _candidates(
                    targets, prices[here], bits[table], shifts[table], step, choice, magnitude, entry,
                    magnitudes[choice, here], costs[choice],
                )  # fmt: skip
            _advance(total, following, costs, decided[:, here], after_odd, after_second)
            if count < width:
                for k in range(states):
                    for lane in range(count, width):
                        following[k, lane] = total[k, lane]
            total, following = following, total
        for lane in range(width):
            state[lane] = 0  # argmin takes three seconds to be compiled
            for k in range(states):
                if total[k, lane] < total[state[lane], lane]:
                    state[lane] = k
        for i in range(len(ends) - 1, -1, -1):
            first = (ends[i - 1] if i else 0) + left
            for lane in range(min(width, ends[i] - first)):
                k, second = first + lane, 1 if state[lane] >= states // 2 else 0
                bit = place[state[lane]]
                odd = decided[bit >> 3, k] >> (bit & 7) & 1
                state[lane] = 2 * (state[lane] ^ second * after_second ^ odd * after_odd) + second
                found = magnitudes[2 * second + odd, k]
                if found:
                    point = (np.float32(found) - HALF * np.float32(second)) * step - shifts[scales[i] + half * second]
                    # A target of 0 may be sent as 1, if its parity pays elsewhere.
                    symbols[at[k]] = -found if residual[at[k]] < 0 else found
                    values[at[k]] = -point if residual[at[k]] < 0 else point


@_inlined
def _candidates(targets, prices, bits, shift, step, choice, magnitude, entry, magnitudes, costs):  # type: ignore[no-untyped-def]
    """The best even or odd magnitude for targets of at least 0 under a quantiser, and what it costs.

    `choice` has parity and quantiser as bits 1 and 2. An even one may be 0 instead of the nearest.
    """
    odd, offset, last, nothing = choice % 2 == 1, HALF if choice >= 2 else ZERO, np.float32(len(bits) - 1), bits[0]
    inverse = ONE / step
    for lane in range(len(prices)):
        lower = np.floor(targets[lane] * inverse + offset)
        remainder = lower - TWO * np.floor(lower * HALF)
        lower += ONE - remainder if odd else remainder
        magnitude[lane] = lower
        entry[lane] = np.uint32(lower if lower < last else last)
    for lane in range(len(prices)):
        costs[lane] = bits[entry[lane]]
    for lane in range(len(prices)):
        found, target = magnitude[lane], targets[lane]
        error = target - (found - offset) * step + shift
        cost, instead = costs[lane] + prices[lane] * error * error, nothing + prices[lane] * target * target
        none = not odd and (instead <= cost or found == ZERO)
        costs[lane] = instead if none else cost
        magnitudes[lane] = np.int16(ZERO if none else found)


@_inlined
def _advance(total, following, costs, decided, after_odd, after_second):  # type: ignore[no-untyped-def]
    """From the `total` cost of each state, (states, lanes), to those of the `following` step.

    States go in pairs: what leads to one of them by an even symbol leads to the other by an odd one. `decided`
    (states / 8, lanes) has a bit for each: whether the symbol was odd, at the place that `_places` says.
    """
    quarter, lowest = len(total) // 4, after_odd & -after_odd
    for second in range(2):
        even_costs, odd_costs = costs[2 * second], costs[2 * second + 1]
        for pair in range(quarter):
            x = (pair & -lowest) * 2 + (pair & lowest - 1)
            here, there = total[2 * x + second], total[2 * (x ^ after_odd) + second]
            to = x ^ second * after_second
            one, other = following[to], following[to ^ after_odd]
            bits = decided[(second * quarter + pair) // 4]
            flag, other_flag = np.uint8(1 << pair % 4 * 2), np.uint8(2 << pair % 4 * 2)
            if pair % 4 == 0:
                bits[:] = 0
            for lane in range(decided.shape[1]):
                if_even, if_odd = here[lane] + even_costs[lane], there[lane] + odd_costs[lane]
                one[lane] = if_odd if if_odd < if_even else if_even
                also_even, also_odd = there[lane] + even_costs[lane], here[lane] + odd_costs[lane]
                other[lane] = also_odd if also_odd < also_even else also_even
                bits[lane] |= (flag if if_odd < if_even else 0) | (other_flag if also_odd < also_even else 0)


@_inlined
def _places(states, after_odd, after_second):  # type: ignore[no-untyped-def]
    """Which bit of `decided` belongs to a state, (states,) int64."""
    found, lowest = np.empty(states, np.int64), after_odd & -after_odd
    for second in range(2):
        for pair in range(states // 4):
            to = (pair & -lowest) * 2 + (pair & lowest - 1) ^ second * after_second
            found[to] = 2 * (second * (states // 4) + pair)
            found[to ^ after_odd] = found[to] + 1
    return found


cheapest = compiled(SIGNATURE, _cheapest)

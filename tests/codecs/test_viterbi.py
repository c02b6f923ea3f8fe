"""The compiled search, against the algorithm as one would write it down, one symbol at a time."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from pipeline.codecs.learned import viterbi
from pipeline.entropy import order

STEP, LIMIT, TABLES, MAGNITUDES = 1.15, 60, 3, 9


def told(target, price, table, second, odd, bits, shifts) -> tuple[float, int, float]:
    """(cost, magnitude, what it stands for) of the best of 0 and the magnitudes around."""
    found = []
    for magnitude in range(0, LIMIT + 2):
        if magnitude % 2 == odd:
            point = (magnitude - second / 2) * STEP - shifts[table + second * TABLES] if magnitude else 0.0
            sent = bits[table + second * TABLES, min(magnitude, MAGNITUDES - 1)]
            near = magnitude == 0 or abs(magnitude - second / 2 - target / STEP) <= 1 + 1e-5
            if near:
                found.append((sent + price * (target - point) ** 2, magnitude, point))
    return min(found)


def cheapest(targets, prices, tables, states, bits, shifts) -> float:
    """What the best sequence of one lane costs."""
    code, total = order.CODES[states], {0: 0.0}
    for target, price, table in zip(targets, prices, tables, strict=True):
        following: dict[int, float] = {}
        for state, cost in total.items():
            second = state & 1
            for odd in range(2):
                to = state >> 1 ^ odd * code.after_odd ^ second * code.after_second
                paid = cost + told(abs(target), price, table, second, odd, bits, shifts)[0]
                following[to] = min(following.get(to, np.inf), paid)
        total = following
    return min(total.values())


def paid(symbols, values, targets, prices, tables, states, bits) -> float:
    """What a sequence that was found costs, by the rule that decoders have."""
    code, state, sum_ = order.CODES[states], 0, 0.0
    for symbol, value, target, price, table in zip(symbols, values, targets, prices, tables, strict=True):
        second = state & 1
        sum_ += bits[table + second * TABLES, min(abs(int(symbol)), MAGNITUDES - 1)] + price * (value - target) ** 2
        state = state >> 1 ^ (int(symbol) & 1) * code.after_odd ^ second * code.after_second
    return sum_


@pytest.mark.parametrize("states", order.CODES)
@pytest.mark.parametrize("lanes", [1, 7, viterbi.LANES_AT_ONCE + 3])
def test_each_lane_takes_its_cheapest_path(states, lanes):
    """Lanes of unlike length, some in another block than others; places are shuffled."""
    random = np.random.default_rng(states + lanes)
    bits = np.sort(random.random((2 * TABLES, MAGNITUDES)) * 9, axis=1).astype(np.float32)
    shifts = random.random(2 * TABLES).astype(np.float32) * np.float32(0.2)
    sizes = [lanes, lanes, max(1, lanes - 2), lanes, max(1, lanes // 2), lanes, lanes, 1, lanes, lanes]
    scales = np.sort(random.integers(0, TABLES, len(sizes))).astype(np.uint8)
    ends, count = np.cumsum(sizes), sum(sizes)
    at = random.permutation(2 * count)[:count].astype(np.int64)
    residual = (random.normal(size=2 * count) * random.choice([0.3, 2, 8], 2 * count)).astype(np.float32)
    residual[at[0]], residual[at[-1]] = 0, 1e6
    prices = random.uniform(1, 9, count).astype(np.float32)
    symbols, values = np.zeros(2 * count, np.int16), np.zeros(2 * count, np.float32)
    sent = np.float32(STEP), np.float32(LIMIT)
    viterbi.cheapest(
        residual, at, ends, scales, prices, bits, shifts, *sent, states, *order.CODES[states], symbols, values
    )
    unseen = np.setdiff1d(np.arange(2 * count), at)
    assert not symbols[unseen].any()
    assert not values[unseen].any()
    assert np.abs(symbols).max() <= LIMIT
    residual[at] = residual[at].clip(-(LIMIT - 1) * STEP, (LIMIT - 1) * STEP)
    for lane in {0, lanes // 2, lanes - 1}:
        steps = [i for i, size in enumerate(sizes) if lane < size]
        k = np.array([ends[i] - sizes[i] + lane for i in steps])
        own = residual[at[k]].astype(float), prices[k], scales[steps]
        found = paid(symbols[at[k]], values[at[k]], *own, states, bits)
        assert found == pytest.approx(cheapest(*own, states, bits, shifts), rel=1e-5)
        assert (symbols[at[k]] * own[0] >= 0).all()


PROGRAM = """
import numpy as np
from pipeline.codecs.learned import viterbi
symbols, values = np.zeros(2, np.int16), np.zeros(2, np.float32)
one = np.float32(1)
viterbi.cheapest(
    np.array([2.2, -3.4], np.float32), np.array([0, 1]), np.array([1, 2]), np.zeros(2, np.uint8),
    np.ones(2, np.float32), np.zeros((2, 3), np.float32), np.zeros(2, np.float32), one, np.float32(60), 16, 2, 12,
    symbols, values,
)
print(symbols.tolist())
"""


@pytest.mark.parametrize("damage", ["cut", "random"])
def test_a_damaged_cache_is_none(tmp_path, damage):
    """Three processes: one fills the cache, one finds every file of it damaged, one after that."""

    def run() -> str:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    expected = run()
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:20] if damage == "cut" else os.urandom(1000))
    assert run() == expected == run()

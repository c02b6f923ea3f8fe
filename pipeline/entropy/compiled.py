"""What is done symbol by symbol, compiled for the processor it runs on, by Numba; other threads run meanwhile.

Decoders do without where there is no Numba, in twice the time. `order` says which symbol is coded when and under
which table, and words are those that constriction writes and reads (`coder`), to the last bit.

Duda, "Asymmetric numeral systems", arXiv 1311.2540, in the form of Bamler, arXiv 2201.01741.
"""

from __future__ import annotations

import constriction
import numba
import numpy as np

from pipeline.compiling import compiled
from pipeline.entropy import order
from pipeline.entropy.tables import PRECISION_BITS, freeze, logistic_pmf

WORD_BITS = 32
_HALF, _LOOKED_AT = 4, 3000
"""Of the tables and symbols that `agrees` looks at."""


def _steps(indexes, skip_below, most_lanes, symbols_a_lane):  # type: ignore[no-untyped-def]
    """`order.steps` of `indexes` (n,) uint8 end to end.

    Positions (m,) int64, where each step ends among them (k,) int64, and the scale index of each step (k,) uint8.
    """
    counts = np.zeros(256, np.int64)
    for i in range(len(indexes)):
        counts[indexes[i]] += 1
    total = 0
    place = np.zeros(256, np.int64)
    for table in range(skip_below, 256):
        place[table] = total
        total += counts[table]
    lanes = 1
    while lanes < most_lanes and 2 * lanes * symbols_a_lane <= total:
        lanes *= 2
    steps = 0
    for table in range(skip_below, 256):
        steps += (counts[table] + lanes - 1) // lanes
    ends, scales = np.empty(steps, np.int64), np.empty(steps, np.uint8)
    step = 0
    for table in range(skip_below, 256):
        first, last = place[table], place[table] + counts[table]
        while first < last:
            first = min(first + lanes, last)
            ends[step], scales[step] = first, table
            step += 1
    at = np.empty(total, np.int64)
    for i in range(len(indexes)):
        table = indexes[i]
        if table >= skip_below:
            at[place[table]] = i
            place[table] += 1
    return at, ends, scales


@numba.njit(nogil=True, error_model="numpy")
def _start(ends):  # type: ignore[no-untyped-def]
    """The state of each lane before the first of steps that end there, as many as the longest step has symbols."""
    lanes = 0
    for i in range(len(ends)):
        lanes = max(lanes, ends[i] - (ends[i - 1] if i else 0))
    return np.zeros(lanes, np.uint8)


def _sequence(symbols, at, ends, scales, half, after_odd, after_second):  # type: ignore[no-untyped-def]
    """Symbols at places `at` in the order of `order.halves`: (m,) int16, and the table of each, (m,) uint8."""
    values, tables = np.empty(len(at), np.int16), np.empty(len(at), np.uint8)
    state = _start(ends)
    for i in range(len(ends)):
        first = ends[i - 1] if i else 0
        count, seconds = ends[i] - first, 0
        for lane in range(count):
            seconds += state[lane] & 1
        # The next places for symbols of the first quantiser and of the second, without a branch to be guessed wrong.
        of_first, of_second = first, ends[i] - seconds
        for lane in range(count):
            value, second = symbols[at[first + lane]], np.int64(state[lane] & 1)
            here = of_first + second * (of_second - of_first)
            values[here], tables[here] = value, scales[i] + half * second
            of_first += 1 - second
            of_second += second
            state[lane] = (state[lane] >> 1) ^ (value & 1) * after_odd ^ second * after_second
    return values, tables


def _words(values, tables, frequencies, below, first, reaches):  # type: ignore[no-untyped-def]
    """The words of a sequence, as `constriction`'s AnsCoder makes them, (w,) uint32, and what tables do not reach.

    `frequencies` and `below`, the sum of those before, are of all tables end to end, (entries,) uint64; `first` says
    where each begins and `reaches` what it reaches, (tables,) int64.
    """
    escaped = 0
    for k in range(len(values)):
        escaped += abs(np.int64(values[k])) > reaches[tables[k]]
    escapes, escaped = np.empty(escaped, np.int64), 0
    for k in range(len(values)):
        if abs(np.int64(values[k])) > reaches[tables[k]]:
            escapes[escaped] = values[k]
            escaped += 1
    words, count = np.empty(len(values) + 2, np.uint32), 0
    state, bits, room, word = (
        np.uint64(0),
        np.uint64(PRECISION_BITS),
        np.uint64(64 - PRECISION_BITS),
        np.uint64(WORD_BITS),
    )
    for k in range(len(values) - 1, -1, -1):
        reach, value = reaches[tables[k]], np.int64(values[k])
        if abs(value) > reach:
            value = reach + 1
        entry = first[tables[k]] + reach + value
        frequency = frequencies[entry]
        if state >> room >= frequency:
            words[count] = np.uint32(state & np.uint64(0xFFFFFFFF))
            count += 1
            state >>= word
        whole = state // frequency
        state = whole << bits | (below[entry] + (state - whole * frequency))
    while state:
        words[count] = np.uint32(state & np.uint64(0xFFFFFFFF))
        count += 1
        state >>= word
    return words[:count].copy(), escapes


@numba.njit(nogil=True, error_model="numpy")
def _next(table, state, left, packed, frequencies, below, first, shortcuts):  # type: ignore[no-untyped-def]
    """The entry of a table that a state says comes next, the state after it, and how many words are left."""
    share = state & np.uint64((1 << PRECISION_BITS) - 1)
    entry = first[table] + np.int64(shortcuts[table, np.int64(share) * shortcuts.shape[1] >> PRECISION_BITS])
    while share - below[entry] >= frequencies[entry]:
        entry += 1
    state = (state >> np.uint64(PRECISION_BITS)) * frequencies[entry] + (share - below[entry])
    if left and state < np.uint64(1 << WORD_BITS):
        left -= 1
        state = state << np.uint64(WORD_BITS) | np.uint64(packed[left])
    return entry, state, left


def _read(  # type: ignore[no-untyped-def]
    packed, left, state, escapes, at, ends, scales, half, after_odd, after_second, limit,
    frequencies, below, first, reaches, shortcuts, symbols, used,
):  # fmt: skip
    """Fills in `symbols` (int16) and the tables `used` (uint8) from words `packed` (uint32), at places `at`.

    The coder goes on from `state`, at least 2^32 unless no words are `left`, so many of the first ones. Along a
    trellis if `half`, that of (`after_odd`, `after_second`); tables are as in `_words`, and `shortcuts`
    (tables, 256) int32 say in which entry each 256th of the range begins. Returns how many of `escapes` (int64) were
    read, below 0 where one is not what it must be; how many words are left, and the coder's state, both 0 if all is
    well.
    """
    escaped = 0
    states = _start(ends)
    for i in range(len(ends)):
        begin = ends[i - 1] if i else 0
        for second in range(2 if half else 1):
            table = scales[i] + half * second
            reach = reaches[table]
            for lane in range(ends[i] - begin):
                if states[lane] & 1 != second:
                    continue
                entry, state, left = _next(table, state, left, packed, frequencies, below, first, shortcuts)
                value = entry - first[table] - reach
                if value > reach:
                    value = escapes[escaped] if escaped < len(escapes) else 0
                    if abs(value) <= reach or abs(value) > limit:
                        return -1 - escaped, left, state
                    escaped += 1
                place = at[begin + lane]
                symbols[place], used[place] = value, table
        if half:
            for lane in range(ends[i] - begin):
                odd = symbols[at[begin + lane]] & 1
                states[lane] = (states[lane] >> 1) ^ odd * after_odd ^ (states[lane] & 1) * after_second
    return escaped, left, state


_at = "Tuple((int64[::1], int64[::1], uint8[::1]))(uint8[::1], int64, int64, int64)"
_dealt = "Tuple((int16[::1], uint8[::1]))(int16[::1], int64[::1], int64[::1], uint8[::1], int64, int64, int64)"
_coded = "Tuple((uint32[::1], int64[::1]))(int16[::1], uint8[::1], uint64[::1], uint64[::1], int64[::1], int64[::1])"
_of = "int64[::1], int64[::1], uint8[::1], int64, int64, int64, int64"
_tables = "uint64[::1], uint64[::1], int64[::1], int64[::1], int32[:, ::1]"
_found = (
    f"Tuple((int64, int64, uint64))(uint32[::1], int64, uint64, int64[::1], {_of}, {_tables}, int16[::1], uint8[::1])"
)
read = compiled(_found, _read)
_compiled_steps, sequence, words = compiled(_at, _steps), compiled(_dealt, _sequence), compiled(_coded, _words)


def agrees() -> bool:
    """Whether what was compiled here deals, writes and reads as NumPy and constriction do; in a few milliseconds.

    A fault of a compiler on one kind of processor would be the same in writing and in reading back.
    """
    random, reach = np.random.default_rng(0), 5
    tables = freeze([logistic_pmf(0.2 * 2**k, reach) for k in range(2 * _HALF)])
    for states in (0, max(order.CODES)):
        indexes = random.integers(0, _HALF, _LOOKED_AT).astype(np.uint8)
        symbols = (random.normal(0, 2, _LOOKED_AT).round() * (indexes > 0)).astype(np.int16)
        along = (_HALF, *order.CODES[states]) if states else (0, 0, 0)
        dealt = steps(indexes, 1)
        pieces = order.steps(indexes, 1)
        scales, places = zip(*pieces, strict=True)
        rightly = np.concatenate(places), np.cumsum([len(at) for at in places]), np.array(scales)
        if not all(np.array_equal(left, right) for left, right in zip(dealt, rightly, strict=True)):
            return False  # the rest goes by these without looking twice
        given = words(*sequence(symbols, *dealt, *along), *tables.end_to_end)
        calls = list(order.halves(indexes, 1, _HALF, symbols, states) if states else order.groups(indexes, 1))
        wanted = constriction.stream.stack.AnsCoder()
        for table, at in reversed(calls):
            entries = np.where(abs(symbols[at]) > reach, reach + 1, symbols[at]) + reach
            wanted.encode_reverse(entries.astype(np.int32), tables.models[table])
        packed, escapes = given
        if not np.array_equal(packed, wanted.get_compressed()):
            return False
        found, used = np.zeros(_LOOKED_AT, np.int16), indexes.copy()
        left, state = len(packed) - 2, np.uint64(int(packed[-1]) << WORD_BITS | int(packed[-2]))
        how = *along, 1 << 15, *tables.end_to_end, tables.shortcuts, found, used
        first = len(pieces) if states else len(pieces) // 2  # without a trellis, in two goes
        for part in (slice(0, first), slice(first, None)):
            at, ends, scales = dealt
            begin = int(ends[part.start - 1]) if part.start else 0
            steps_of = at[begin : int(ends[part][-1]) if len(ends[part]) else begin], ends[part] - begin, scales[part]
            count, left, state = read(packed, left, state, escapes, *steps_of, *how)
            escapes = escapes[max(0, count) :]
        chosen = order.tables_of(indexes, 1, _HALF, symbols, states) if states else indexes
        if len(escapes) or left or state or not np.array_equal(found, symbols) or not np.array_equal(used, chosen):
            return False
    return True


def steps(indexes: np.ndarray, skip_below: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is coded side by side, as `order.steps` says; see `_steps`."""
    # Arrays from another process cannot be written to, which is another type to Numba.
    own = np.require(indexes, requirements=["C", "W"])
    found: tuple[np.ndarray, np.ndarray, np.ndarray] = _compiled_steps(
        own, skip_below, order.LANES, order.SYMBOLS_A_LANE
    )
    return found

import numpy as np
import pytest

from pipeline.entropy.tables import PRECISION_BITS, FrequencyTables, freeze, logistic_pmf
from pipeline.errors import BitstreamError


def test_a_logistic_pmf_is_symmetric_and_sums_to_one():
    pmf = logistic_pmf(1.7, 12)
    assert len(pmf) == 26
    assert np.array_equal(pmf[:25], pmf[24::-1])
    assert pmf.sum() == pytest.approx(1.0, abs=1e-6)


def test_frozen_frequencies_sum_to_the_coders_precision_and_code_everything():
    tables = freeze([logistic_pmf(s, 8) for s in (0.125, 1.0, 4.0)])
    assert tables.frequencies.min() >= 1
    assert [int(t.sum()) for t in np.split(tables.frequencies, 3)] == [1 << PRECISION_BITS] * 3


def test_costs_are_the_entropy_of_the_logistic():
    tables = freeze([logistic_pmf(4.0, 60)])
    cost = float((logistic_pmf(4.0, 60) * tables.bits(0)).sum())
    scale = np.sqrt(4.0**2 + 1 / 12) * np.sqrt(3) / np.pi  # rounding adds the variance of a unit interval
    assert cost == pytest.approx((np.log(scale) + 2) / np.log(2), abs=0.005)


def test_a_logistic_pmf_has_the_standard_deviation_it_is_named_for():
    pmf = logistic_pmf(4.0, 60)[:-1]
    assert (pmf * np.arange(-60, 61) ** 2).sum() == pytest.approx(4.0**2 + 1 / 12, rel=0.002)


def test_the_coder_uses_the_frozen_integers_exactly():
    """An interval of frequency f costs 24 - log2(f) bits; 4000 symbols show a difference of one count in 2^24."""
    import constriction

    tables = freeze([logistic_pmf(0.3, 2)])
    coder = constriction.stream.stack.AnsCoder()
    symbols = np.tile(np.arange(6, dtype=np.int32), 4000)
    coder.encode_reverse(symbols, tables.models[0])
    assert coder.num_bits() == pytest.approx(4000 * tables.bits(0).sum(), abs=64)


@pytest.mark.parametrize(
    ("frequencies", "reaches"),
    [
        ([1 << 24], [0]),
        ([(1 << 24) - 1, 1, 5], [0]),
        ([1 << 24, 0], [0]),
        ([(1 << 23), (1 << 23) - 1], [0]),
        ([], []),
        ([1 << 25, -(1 << 24)], [0]),
        ([(1 << 24) + (1 << 62), 1 - (1 << 62)], [0]),
        ([1 << 23, 1 << 23], [-1]),
        ([1] * ((1 << 16) + 1) + [(1 << 24) - (1 << 16) - 1], [32768]),
    ],
)
def test_inconsistent_tables_are_refused(frequencies, reaches):
    with pytest.raises(BitstreamError, match="frequency table"):
        FrequencyTables(np.array(frequencies, dtype=np.int64), np.array(reaches, dtype=np.int32))


def test_numbers_that_would_wrap_are_refused():
    """In 64 bits, 2 * reach + 2 is 2 for a reach of -2^63, and frequencies of 2^64 - n are -n."""
    fitting = np.array([1 << 23, 1 << 23])
    with pytest.raises(BitstreamError, match="frequency tables: found reaches"):
        FrequencyTables(fitting, np.array([-(2**63)]))
    with pytest.raises(BitstreamError, match="frequency tables: found 2 entries"):
        FrequencyTables(np.array([(1 << 24) + 5, 2**64 - 5], np.uint64), np.array([0]))

"""Percentiles from log-spaced counts, against NumPy's on the raw values."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.monitoring.rollups.latency import BIN_WIDTH, RELATIVE_ERROR, ZERO_BIN, Latencies

# The error of the logarithm itself is some 1e-15 of it.
WITHIN = RELATIVE_ERROR * (1 + 1e-9)
PERCENTS = (1, 25, 50, 75, 90, 95, 99, 100)


def counted(values: Sequence[float] | NDArray[np.float64]) -> Latencies:
    """Count as PostgreSQL does it."""
    counts = Counter(math.ceil(math.log(value) / BIN_WIDTH) if value else ZERO_BIN for value in values)
    return Latencies(*zip(*sorted(counts.items()), strict=True)) if counts else Latencies()


def log_normal(generator: np.random.Generator, size: int) -> NDArray[np.float64]:
    return generator.lognormal(2.0, 1.0, size)


def bimodal(generator: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Cache hits around 0.4 ms, misses around 80 ms."""
    hits = generator.random(size) < 0.7
    return np.where(hits, generator.normal(0.4, 0.05, size).clip(0.01), generator.normal(80, 12, size).clip(1))


@pytest.mark.parametrize("latencies_of", [log_normal, bimodal])
def test_percentiles_of_merged_counts_are_within_one_percent_of_numpys(latencies_of: object) -> None:
    generator = np.random.default_rng(20261121)
    parts = [latencies_of(generator, generator.integers(0, 400)) for _ in range(100)]  # type: ignore[operator]
    merged = Latencies.merged(map(counted, parts))
    raw = np.concatenate(parts)
    assert merged.count == raw.size
    for percent in PERCENTS:
        exact = np.percentile(raw, percent, method="inverted_cdf")
        assert merged.percentile(percent) == pytest.approx(exact, rel=WITHIN)


@given(st.lists(st.floats(0, 1e12, allow_subnormal=False), min_size=1, max_size=200), st.integers(1, 100))
def test_whatever_the_latencies_are_a_percentile_is_within_one_percent(values: list[float], percent: int) -> None:
    exact = float(np.percentile(values, percent, method="inverted_cdf"))
    assert counted(values).percentile(percent) == pytest.approx(exact, rel=WITHIN, abs=0)


def test_a_latency_of_zero_is_zero() -> None:
    latencies = counted([0, 0, 0, 5])
    assert (latencies.percentile(50), latencies.percentile(75)) == (0, 0)
    assert latencies.percentile(99) == pytest.approx(5, rel=WITHIN)
    assert next((one.from_ms, one.to_ms, one.count) for one in latencies.bounds()) == (0, 0, 3)


def test_the_extremes_have_their_bins_too() -> None:
    values = [sys.float_info.min, 1e-9, 1e9, sys.float_info.max]
    latencies = counted(values)
    for value, one in zip(values, latencies.bounds(), strict=True):
        assert one.from_ms * (1 - 1e-12) < value <= one.to_ms * (1 + 1e-12)


def test_a_bin_is_two_percent_wide() -> None:
    (one,) = counted([7.0]).bounds()
    assert one.from_ms < 7 <= one.to_ms <= one.from_ms * 1.0203


def test_nothing_has_no_percentiles() -> None:
    assert Latencies().percentile(50) is None
    assert Latencies.merged([Latencies(), Latencies()]) == Latencies()

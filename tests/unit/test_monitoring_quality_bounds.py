"""The limits that chance sets, against published values and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from services.monitoring.quality.bounds import (
    Numbers,
    Questions,
    design_effect,
    grown_repeats,
    largest_shares,
    most_hits,
    upper_limits,
)


def numbers(*values: float) -> Numbers:
    return np.array(values, dtype=np.float64)


def test_upper_limits_are_those_of_clopper_and_pearson() -> None:
    """0 of 10: 1 - 0.025^(1/10) = 0.3085, the limit of the 95 % interval; as scipy.stats.binomtest has it, too."""
    assert upper_limits(numbers(0.0), numbers(10), 0.025)[0] == pytest.approx(0.30850, abs=1e-5)
    for hits, rows in ((1, 30), (7, 200), (199, 200)):
        interval = stats.binomtest(hits, rows, alternative="less").proportion_ci(0.99, method="exact")
        assert upper_limits(numbers(hits / rows), numbers(rows), 0.01)[0] == pytest.approx(interval.high)
    assert upper_limits(numbers(1.0), numbers(50), 0.01)[0] == 1


def test_the_largest_share_is_the_binomial_quantile_above_the_limit_and_what_is_tolerated() -> None:
    asked = Questions(numbers(2_000), numbers(0.01), numbers(10_000), numbers(0.01), numbers(1))
    limit = stats.binomtest(100, 10_000, alternative="less").proportion_ci(0.995, method="exact").high + 0.01
    expected = stats.binom.isf(0.005, 2_000, limit) / 2_000
    assert largest_shares(asked)[0] == pytest.approx(expected)
    assert 0.025 < expected < 0.035


@pytest.mark.parametrize("rows", [1, 2, 5, 50, 300, 2_000, 100_000])
def test_the_quantile_is_scipys(rows: int) -> None:
    shares = np.concatenate(([0.0, 1e-12, 1e-6], np.linspace(0.001, 0.999, 97), [1 - 1e-9, 1.0]))
    for level in (0.005, 2e-5, 1e-9):
        found = most_hits(np.full(shares.size, float(rows)), shares, level)
        np.testing.assert_array_equal(found, stats.binom.isf(level, rows, shares))


def test_more_questions_make_each_harder_to_answer_with_yes() -> None:
    one = Questions(*(numbers(value) for value in (1_000, 0.0, 5_000, 0.01, 1)))
    many = Questions(*(np.full(200, value) for value in (1_000, 0.0, 5_000, 0.01, 1)))
    assert largest_shares(many)[0] > largest_shares(one)[0]


def test_no_questions_have_no_answers() -> None:
    assert largest_shares(Questions(*([numbers()] * 5))).size == 0


def test_a_share_of_all_rows_is_never_exceeded() -> None:
    assert largest_shares(Questions(*(numbers(value) for value in (500, 1.0, 100, 0.01, 1))))[0] == 1


def test_repeats_grow_as_drawing_from_equally_likely_kinds_has_them() -> None:
    """Of n balls in K boxes K(1 - exp(-n/K)) boxes are expected to be full (Feller, volume 1, IV.2)."""
    kinds, rows = 365, 100

    def repeats(n: int) -> float:
        return 1 - kinds * (1 - math.exp(-n / kinds)) / n

    grown = grown_repeats(numbers(repeats(rows), 0.0, 0.5), numbers(7, 50, 1))
    assert grown == pytest.approx([repeats(7 * rows), 0.0, 0.5], abs=1e-9)


@pytest.mark.parametrize("rows", [50, 300, 2_000])
def test_data_at_the_edge_of_what_is_tolerated_is_found_bad_in_at_most_one_check_of_a_hundred(rows: int) -> None:
    """200 questions a check, 150 checks; the reference is a sample, too. Seeded, so that it is the same each time."""
    rng = np.random.default_rng(20)
    questions, reference_rows, share, tolerance = 200, 1_000, 0.02, 0.01
    alarms = 0
    for _ in range(150):
        known = rng.binomial(reference_rows, share, questions) / reference_rows
        live = rng.binomial(rows, share + tolerance, questions) / rows
        fixed = [np.full(questions, value) for value in (rows, reference_rows, tolerance, 1.0)]
        allowed = largest_shares(Questions(fixed[0], known, fixed[1], fixed[2], fixed[3]))
        alarms += bool((live > allowed).any())
    assert alarms <= 1


def test_the_design_effect_is_the_upper_limit_of_what_groups_of_users_show() -> None:
    """Ten groups whose counts vary as chance has it: 1 over the 10 % quantile of χ²(9) / 9, 4.168 in the tables."""
    even = np.array([[5, 95]] * 10)
    assert design_effect(even) == pytest.approx(9 / 4.168, rel=1e-3)
    hits = np.array([20, 0, 0, 20, 0, 0, 0, 0, 0, 0])
    of_two_users = np.stack([hits, 20 - hits], axis=1)
    chi_square = stats.chi2_contingency(of_two_users, correction=False).statistic
    assert design_effect(of_two_users) == pytest.approx(chi_square / stats.chi2.ppf(0.1, 9))


def test_rows_of_one_user_are_worth_one_and_rows_of_nobody_are_independent() -> None:
    nobody = np.zeros((32, 2), np.int64)
    assert design_effect(nobody) == 1
    alone = nobody.copy()
    alone[7] = 3, 97
    assert design_effect(alone) == 100

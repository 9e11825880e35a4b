"""The statistics of drift against SciPy's values and published ones; each source stands at its test."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import signal, special, stats
from scipy.spatial.distance import jensenshannon

from services.monitoring.drift import concept, distances, independence, replicates, rotation
from services.monitoring.drift.adjustment import adjusted
from services.monitoring.drift.concept import newcombe, wilson
from services.monitoring.drift.features import Likeness
from services.monitoring.drift.models import Labels
from services.monitoring.profiles.frames import Frame, numbers_column
from services.monitoring.profiles.models import GROUPS
from services.monitoring.profiles.overdispersion import overdispersion_in_order
from services.monitoring.profiles.reference import Columns, build_reference


def counts(*values: int) -> np.ndarray:
    return np.asarray(values, dtype=np.int64)


def test_psi_is_jeffreys_divergence_with_half_a_row_more_in_each_bin() -> None:
    before, now = counts(100, 200, 300, 0, 0), counts(40, 30, 20, 0, 5)
    p, q = np.asarray([100.5, 200.5, 300.5, 0.5]), np.asarray([40.5, 30.5, 20.5, 5.5])
    p, q = p / p.sum(), q / q.sum()
    assert float(distances.psi(before, now)) == pytest.approx(special.kl_div(p, q).sum() + special.kl_div(q, p).sum())


def test_psi_of_many_rows_is_the_textbooks_sum() -> None:
    """Siddiqi, Credit Risk Scorecards, 2006, p. 137: the shares' difference times the logarithm of their ratio."""
    before, now = counts(70_000, 80_000, 850_000), counts(80_000, 100_000, 820_000)
    expected = 0.01 * np.log(8 / 7) + 0.02 * np.log(10 / 8) + -0.03 * np.log(82 / 85)
    assert float(distances.psi(before, now)) == pytest.approx(expected, rel=1e-3)


def test_chi_square_of_agrestis_table_of_party_and_gender() -> None:
    """Agresti, An Introduction to Categorical Data Analysis, 2nd ed. 2007, table 2.5: X² = 30.1 with 2 degrees."""
    statistic, p_value = distances.chi_square(counts(762, 327, 468), counts(484, 239, 477))
    assert float(statistic) == pytest.approx(30.1, abs=0.05)
    expected = stats.chi2_contingency([[762, 327, 468], [484, 239, 477]], correction=False)
    assert (float(statistic), float(p_value)) == pytest.approx((expected.statistic, expected.pvalue))


def test_chi_square_leaves_out_bins_that_are_empty_on_both_sides() -> None:
    statistic, p_value = distances.chi_square(counts(30, 0, 20), counts(20, 0, 30))
    assert (float(statistic), float(p_value)) == pytest.approx((4.0, stats.chi2.sf(4.0, 1)))
    assert float(distances.chi_square(counts(30), counts(20))[1]) == 1.0


def test_jensen_shannon_is_scipys_distance_to_base_2() -> None:
    before, now = counts(10, 0, 30, 60), counts(5, 5, 0, 10)
    assert float(distances.jensen_shannon(before, now)) == pytest.approx(jensenshannon(before, now, base=2))
    assert float(distances.jensen_shannon(counts(1, 0), counts(0, 1))) == 1.0


def test_kolmogorov_smirnov_is_scipys_where_each_value_has_a_bin() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.integers(0, 40, 500), generator.integers(2, 42, 300)
    before, now = (np.bincount(each, minlength=42) for each in (first, second))
    expected = stats.ks_2samp(first, second, method="asymp")
    statistic, p_value = distances.kolmogorov_smirnov(before, now)
    assert float(statistic) == pytest.approx(expected.statistic)
    # SciPy's own limit is that of the exact one-sample law; both are Smirnov's to a few percent.
    assert float(p_value) == pytest.approx(stats.kstwobign.sf(expected.statistic * np.sqrt(500 * 300 / 800)))
    assert float(p_value) == pytest.approx(expected.pvalue, rel=0.1)


def test_wasserstein_is_scipys_of_values_spread_within_their_bins() -> None:
    points = np.asarray([0.0, 1.0, 3.0, 4.0])
    before, now = counts(10, 20, 10), counts(20, 5, 15)
    fine = 2_000

    def spread(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        middles = [np.linspace(a, b, fine, endpoint=False) + (b - a) / fine / 2 for a, b in pairwise(points)]
        return np.concatenate(middles), np.repeat(shares / shares.sum() / fine, fine)

    (values, first), (_, second) = spread(before), spread(now)
    expected = stats.wasserstein_distance(values, values, first, second)
    assert float(distances.wasserstein(before, now, points)) == pytest.approx(expected, rel=1e-3)


def test_benjamini_and_hochbergs_own_example() -> None:
    """J. Royal Statistical Society B 57 (1995), section 3.2: 15 comparisons, 4 of them found at the level 0.05."""
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528]
    p_values += [0.7590, 1.0000]
    found = adjusted(p_values)
    assert sum(value < 0.05 for value in found) == 4
    assert found == pytest.approx(list(stats.false_discovery_control(p_values)))
    assert adjusted(p_values[::-1]) == pytest.approx(found[::-1])
    assert adjusted([]) == []


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0000),
    ],
)
def test_newcombes_interval_has_the_values_of_his_table(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    """Statistics in Medicine 17 (1998), table II, method 10."""
    assert newcombe(first, second, 0.05) == pytest.approx((low, high), abs=6e-5)


def test_wilsons_interval_is_scipys() -> None:
    expected = stats.binomtest(81, 263).proportion_ci(method="wilson")
    assert wilson(81, 263, 0.05) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("replicate_count", [6, 12, 31])
@pytest.mark.parametrize("statistic", [0.2, 4.0, 20.0, 60.0])
def test_in_one_dimension_a_rotation_is_the_f_test(replicate_count: int, statistic: float) -> None:
    """Langsrud, Statistics and Computing 15 (2005): with one response the test is Student's."""
    draws = np.random.default_rng(1).standard_normal((replicate_count, 1))
    draws *= np.sqrt(replicate_count / (draws**2).sum())
    form = rotation.form_of(np.asarray([np.sqrt(statistic)]), draws, np.ones(1))
    assert rotation.chances(form[None, :])[0] == pytest.approx(stats.f.sf(statistic, 1, replicate_count), rel=0.12)


def test_in_many_dimensions_a_rotation_has_the_chance_that_drawing_directions_gives() -> None:
    generator = np.random.default_rng(7)
    weights = np.asarray([1.0, 2.0, 0.5, 1.0])
    replicated = generator.standard_normal((12, 4)) * np.asarray([3.0, 1.0, 1.0, 0.3])
    deviation = np.asarray([6.0, 3.0, 1.0, 0.5])
    draws = np.vstack((deviation, replicated))
    directions = generator.standard_normal((100_000, 13))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    forms = ((directions @ draws) ** 2 * weights).sum(axis=1)
    expected = (forms >= (deviation**2 * weights).sum()).mean()
    found = rotation.chances(rotation.form_of(deviation, replicated, weights)[None, :])[0]
    assert found == pytest.approx(expected, rel=0.15)


def test_a_rotation_of_nothing_or_of_everything_is_certain_or_nearly_never() -> None:
    nothing = rotation.form_of(np.zeros(3), np.ones((8, 3)), np.ones(3))
    everything = rotation.form_of(np.asarray([9.0, 0, 0]), np.eye(8, 3, k=1), np.ones(3))
    still = rotation.form_of(np.zeros(3), np.zeros((8, 3)), np.ones(3))
    assert list(rotation.chances(np.stack((nothing, everything, still)))) == [1.0, rotation.SMALLEST_P, 1.0]


def test_drawing_has_fishers_exact_p_where_the_table_is_two_by_two() -> None:
    before, now = counts(3, 97), counts(6, 34)
    statistic = float(independence.pearson(before, now))
    tables = np.arange(10)
    chances = stats.hypergeom.pmf(tables, 140, 9, 40)
    live = np.stack((tables, 40 - tables), axis=1)
    exact = chances[independence.pearson(np.asarray([9, 131]) - live, live) >= statistic - 1e-9].sum()
    assert independence.drawn_chance(before, now, statistic) == pytest.approx(exact, rel=0.25)
    assert independence.drawn_chance(before, now, statistic) == independence.drawn_chance(before, now, statistic)


def test_large_counts_are_not_drawn_and_have_pearsons_p() -> None:
    before, now = counts(5_000, 5_000), counts(520, 480)
    statistic = float(independence.pearson(before, now))
    assert independence.drawn_chance(before, now, statistic) == pytest.approx(stats.chi2.sf(statistic, 1))


def test_a_chance_too_small_to_be_drawn_is_still_told_apart() -> None:
    mild = independence.drawn_chance(counts(90, 10, 0), counts(20, 5, 25), 70.0)
    strong = independence.drawn_chance(counts(90, 10, 0), counts(0, 0, 50), 150.0)
    assert strong < mild < 1e-4


def test_waves_show_independent_rows_as_they_are_and_alike_rows_as_more() -> None:
    generator = np.random.default_rng(5)
    shares = np.full(10, 0.1)
    free = generator.multinomial(20, shares, size=288)
    waves = replicates.waves_in_time(free.sum(axis=1))
    deviations = waves.deviations(free, shares)
    assert deviations.shape == (replicates.MANY, 10)
    assert replicates.overdispersion(deviations, 1 / shares) == pytest.approx(1.0, abs=0.15)
    alike = np.repeat(generator.multinomial(20, shares, size=48), 6, axis=0)
    assert replicates.overdispersion(waves.first(8).deviations(alike, shares), 1 / shares) == pytest.approx(6, rel=0.3)


def test_drift_that_holds_throughout_does_not_show_in_the_waves() -> None:
    before, now = np.full(10, 0.1), np.asarray([0.5, *[0.5 / 9] * 9])
    rows = np.random.default_rng(1).integers(1, 40, 200)
    steady = (rows[:, None] * now * 1_000).astype(np.int64)
    waves = replicates.waves_in_time(steady.sum(axis=1))
    assert replicates.overdispersion(waves.deviations(steady, before), 1 / before) < 1.0


def test_waves_need_rows_in_enough_places() -> None:
    burst = np.zeros(288, dtype=np.int64)
    burst[100] = 10_000
    assert len(replicates.waves_in_time(burst)) == 0
    assert len(replicates.waves_in_time(np.zeros(0, dtype=np.int64))) == 0
    assert len(replicates.waves_of_users(counts(0, 5, 0, 7, 9, 0))) == 2
    assert replicates.effective_parts(counts(10, 10, 0, 10)) == pytest.approx(3.0)


def test_likeness_is_the_dispersion_of_the_directions_that_vary_most() -> None:
    generator = np.random.default_rng(2)
    free = generator.standard_normal((600, 8))
    assert replicates.likeness(free, np.ones(8)) == pytest.approx(1.0, rel=0.15)
    led = free * np.sqrt(np.asarray([10.0, 1, 1, 1, 1, 1, 1, 1]))
    assert replicates.likeness(led, np.ones(8)) == pytest.approx((100 + 7) / 17, rel=0.15)


def test_slow_changes_of_which_a_few_waves_show_a_part_are_taken_for_more() -> None:
    """Rows of an autoregressive series of 0.9 that are worth ten said drift in a quarter of the checks that dared."""
    none = replicates.Waves(np.zeros((0, 1)), 1)
    assert Likeness(none, none, 0.0, factor=5.0).in_time == 7
    assert Likeness(none, none, 0.0, factor=0.8).in_time == 1
    rows, carry = 200, 0.9
    waves = replicates.waves_in_time(np.ones(rows, np.int64)).first(8).basis * np.sqrt(2 / rows)
    apart = np.abs(np.arange(rows)[:, None] - np.arange(rows))
    covariance = carry**apart
    shown = np.einsum("bt,ts,bs->b", waves, covariance, waves).mean()
    assert shown / (covariance.sum() / rows) == pytest.approx(1 / 1.5, abs=0.05)


def dropped(accuracy: float, judged: int, labels: Labels, *, alike: float = 1.0, alpha: float = 0.05) -> concept.Drop:
    table = concept.table_of(accuracy, judged, alike, labels)
    return concept.accuracy_drop(accuracy, table, concept.likeness_of(table, 1.0), alpha=alpha)


def of_users(seed: int, *, users: int, rows: int, icc: float, accuracy: float = 0.9) -> Labels:
    """Labels of users who come at any time of the day, each with an accuracy of her own."""
    generator = np.random.default_rng(seed)
    own = generator.beta(accuracy * (1 / icc - 1), (1 - accuracy) * (1 / icc - 1), users)
    user = np.repeat(np.arange(users), rows)
    right = generator.random(users * rows) < own[user]
    bucket, group = generator.integers(0, 288, users * rows), generator.integers(0, GROUPS, users)[user]
    counted = [
        np.bincount(places[chosen], minlength=size)
        for places, size in ((bucket, 288), (group, GROUPS))
        for chosen in (slice(None), right)
    ]
    return Labels(*(each.tolist() for each in counted))


def test_a_drop_of_the_accuracy_is_found_with_its_interval() -> None:
    labels = Labels([20] * 100, [17] * 100)
    drop = dropped(0.95, 5_000, labels)
    assert drop.value == pytest.approx(0.10)
    assert (drop.low, drop.high) == pytest.approx(concept.newcombe((4_750, 5_000), (1_700, 2_000), 0.05))
    assert drop.p_value < 1e-4
    sure = dropped(0.95, 5_000, labels, alpha=0.001)
    assert sure.low < drop.low < drop.high < sure.high


def test_users_of_whom_the_model_is_right_or_wrong_always_are_no_drop() -> None:
    """Features of their rows may be as unlike as any: of 400 checks of 25 such users at 0.00275, 41 were alarms."""
    found = [dropped(0.9, 10_000, of_users(seed, users=25, rows=20, icc=0.5)) for seed in range(40)]
    assert sum(each.p_value < 0.05 for each in found) <= 4
    assert np.median([each.overdispersion for each in found]) > 4
    independent = dropped(0.9, 10_000, of_users(1, users=500, rows=1, icc=0.01))
    assert independent.overdispersion < 2


def test_labels_of_users_who_are_alike_still_show_a_drop() -> None:
    found = [dropped(0.9, 10_000, of_users(seed, users=300, rows=20, icc=0.2, accuracy=0.75)) for seed in range(5)]
    assert max(each.p_value for each in found) < 0.003
    assert min(each.low for each in found) > 0.05


def test_an_accuracy_that_breaks_in_mid_window_is_found_before_the_window_is_full_of_it() -> None:
    for broken, right in ((12, 0), (72, 0), (144, 6)):
        drop = dropped(0.9, 10_000, Labels([10] * 288, [9] * (288 - broken) + [right] * broken))
        assert (drop.p_value < 0.003) == (broken > 12)


def test_a_reference_whose_labels_resemble_each_other_says_less() -> None:
    labels = Labels([20] * 100, [17] * 100)
    drop, wide = (dropped(0.9, 1_000, labels, alike=alike) for alike in (1.0, 20.0))
    assert wide.low < drop.low < drop.high < wide.high
    assert wide.p_value > 0.05 > drop.p_value
    alike_live = of_users(1, users=100, rows=20, icc=0.5)
    drop = dropped(0.9, 1_000, alike_live)
    worth = drop.overdispersion
    right, judged = sum(alike_live.correct), sum(alike_live.judged)
    expected = concept.newcombe((900 / worth, 1_000 / worth), (right / worth, judged / worth), 0.05)
    assert (drop.low, drop.high) == pytest.approx(expected), "of its labels nothing is known: as the live ones are"


def test_an_accuracy_that_was_and_is_perfect_has_not_dropped() -> None:
    drop = dropped(1.0, 500, Labels([10] * 20, [10] * 20))
    assert (drop.value, drop.p_value) == (0.0, 1.0)
    assert drop.low < 0 < drop.high


def places(values: np.ndarray) -> np.ndarray:
    """The tenth of a normal distribution that each value lies in."""
    return np.searchsorted(stats.norm.ppf(np.arange(1, 10) / 10), values)


def test_a_references_rows_that_resemble_the_next_ones_are_worth_fewer() -> None:
    """Of an autoregressive series of 0.9 the mean is worth (1 - 0.9) / (1 + 0.9) of as many independent rows."""
    generator = np.random.default_rng(1)
    noise = generator.standard_normal((30, 10_000))
    alike = signal.lfilter([np.sqrt(1 - 0.9**2)], [1.0, -0.9], noise, axis=1)
    signs = [overdispersion_in_order((each > 0).astype(np.intp), 2) for each in alike]
    of_signs = 2 / np.pi * np.arcsin(0.9 ** np.arange(1, 200))  # how the signs of two that are so far apart correlate
    assert np.mean(signs) == pytest.approx(1 + 2 * of_signs.sum(), rel=0.1)
    assert overdispersion_in_order(places(alike[0]), 10) > 2.5
    assert overdispersion_in_order(places(noise[0]), 10) < 1.15
    assert overdispersion_in_order(generator.permutation(places(alike[0])), 10) < 1.15


def test_a_profile_of_rows_that_resemble_the_next_ones_says_so_of_many_rows_too() -> None:
    noise = np.random.default_rng(1).standard_normal(50_000)
    alike = signal.lfilter([np.sqrt(1 - 0.9**2)], [1.0, -0.9], noise)
    for rows in (5_000, 50_000):
        columns = {"alike": alike, "independent": noise, "flag": alike > 0}
        frame = Frame(rows, {name: numbers_column(values[:rows]) for name, values in columns.items()})
        found = build_reference(frame, Columns()).features
        assert 2.5 < found["alike"].overdispersion < 6
        assert 5 < found["flag"].overdispersion < 25
        assert found["independent"].overdispersion < 1.6


def test_very_many_shuffled_rows_are_worth_all_of_themselves() -> None:
    generator = np.random.default_rng(1)
    flags = {f"flag {number}": numbers_column(generator.random(200_000) < 0.1) for number in range(10)}
    found = [each.overdispersion for each in build_reference(Frame(200_000, flags), Columns()).features.values()]
    assert np.median(found) == 1
    assert max(found) < 2


def test_a_reference_sorted_by_its_label_or_of_a_daily_cycle_keeps_its_worth() -> None:
    generator = np.random.default_rng(1)
    by_label = np.repeat([-0.5, 0.0, 0.5], 2_000) + generator.standard_normal(6_000)
    assert overdispersion_in_order(places(by_label), 10) < 2
    day = np.sin(2 * np.pi * np.arange(10_000) / 10_000) * np.sqrt(0.6) + np.sqrt(0.7) * generator.standard_normal(
        10_000
    )
    assert overdispersion_in_order(places(day), 10) < 2
    week = np.sin(14 * np.pi * np.arange(10_000) / 10_000) * np.sqrt(0.6)
    assert overdispersion_in_order(places(week + np.sqrt(0.7) * generator.standard_normal(10_000)), 10) < 2


def test_a_reference_of_few_rows_or_one_bin_says_nothing_of_their_order() -> None:
    assert overdispersion_in_order(np.zeros(10_000, np.intp), 3) == 1
    assert overdispersion_in_order(np.arange(50) % 3, 3) == 1
    assert overdispersion_in_order(np.full(1_000, 7), 3) == 1

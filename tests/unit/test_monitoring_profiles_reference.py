"""What a reference says of its rows, held to numpy's and scipy's own words and to published ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from services.common.errors import InvalidArgument
from services.monitoring.profiles.frames import Column, ColumnBuilder, Frame, numbers_column
from services.monitoring.profiles.models import GROUPS, FeatureKind, FeatureReference
from services.monitoring.profiles.numbers import describe
from services.monitoring.profiles.overdispersion import NO_GROUP, groups_of, overdispersion, user_number
from services.monitoring.profiles.reference import Columns, Description, build_reference

FLOATS = st.floats(-1e6, 1e6, allow_nan=False, width=32)


def random(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def column(*values: object) -> Column:
    builder = ColumnBuilder(len(values))
    builder.put_values(np.arange(len(values)), values)
    return builder.build()


def built(columns: Columns | None = None, **values: Column) -> Description:
    (row_count,) = {one.tags.size for one in values.values()}
    return build_reference(Frame(row_count, values), columns or Columns())


def feature(values: Column, kind: FeatureKind | None = None) -> FeatureReference:
    return built(Columns(kinds={"x": kind} if kind else {}), x=values).features["x"]


def refusal(columns: Columns | None = None, **values: Column) -> str:
    with pytest.raises(InvalidArgument) as caught:
        built(columns, **values)
    return caught.value.reason


def test_moments_are_numpys_and_the_mad_is_scipys() -> None:
    for size in (1, 2, 3, 50, 999, 1_000):
        values = random(size).lognormal(size=size)
        moments = describe(values.copy()).moments
        assert (moments.count, moments.min, moments.max) == (size, values.min(), values.max())
        assert moments.mean == pytest.approx(values.mean())
        assert moments.median == np.median(values)
        assert moments.mad == pytest.approx(stats.median_abs_deviation(values, scale="normal"), abs=1e-12)
        if size > 1:
            assert moments.standard_deviation == pytest.approx(values.std(ddof=1))


@given(st.lists(FLOATS, min_size=1, max_size=60))
def test_the_mad_is_the_median_of_distances_whatever_the_values(values: list[float]) -> None:
    expected = stats.median_abs_deviation(values, scale="normal")
    assert describe(np.array(values)).moments.mad == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_huge_values_overflow_nothing() -> None:
    moments = describe(np.array([-1.7e308, 1.7e308] * 30)).moments
    assert moments.mean == 0
    assert np.isfinite([moments.standard_deviation, moments.mad]).all()
    assert moments.standard_deviation > 1e308


@given(st.lists(FLOATS, min_size=1, max_size=300))
def test_every_value_is_in_the_bin_that_the_edges_say(values: list[float]) -> None:
    array = np.array(values)
    found = describe(array.copy())
    assert list(found.edges) == sorted(set(found.edges))
    assert len(found.edges) <= 9
    bins = np.searchsorted(found.edges, array, side="left")
    assert np.bincount(bins, minlength=len(found.counts)).tolist() == list(found.counts)


def test_edges_lie_just_above_the_quantiles_and_ties_make_fewer() -> None:
    values = random().normal(size=5_000)
    edges = describe(values.copy()).edges
    quantiles = np.quantile(values, np.arange(1, 10) / 10, method="inverted_cdf")
    ordered = np.sort(values)
    above = ordered[np.searchsorted(ordered, quantiles, side="right")]
    assert np.all((edges > quantiles) & (edges < above))

    mostly_zero = describe(np.concatenate([np.zeros(600), np.arange(1.0, 401.0)]))
    assert mostly_zero.counts == (600, 100, 100, 100, 100)
    assert describe(np.repeat([0.0, 1.0], [100, 900])).counts == (100, 900)


def test_a_constant_has_a_bin_below_and_one_above() -> None:
    found = describe(np.full(100, 5.0))
    assert found.counts == (0, 100, 0)
    assert found.edges[0] < 5 < found.edges[1]


def test_the_same_values_in_fewer_digits_stay_in_their_bins() -> None:
    values = np.round(random().normal(5, 1, size=2_000), 1)
    found = describe(values.copy())
    rounded = values.astype(np.float32).astype(np.float64)
    assert np.bincount(np.searchsorted(found.edges, rounded), minlength=10).tolist() == list(found.counts)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.arange(100.0), FeatureKind.NUMERIC),
        (np.arange(100.0) % 20, FeatureKind.CATEGORICAL),
        (np.arange(100.0) % 21, FeatureKind.NUMERIC),
        (np.arange(100.0) % 4 / 4, FeatureKind.NUMERIC),
        (np.arange(100) % 2 == 0, FeatureKind.BOOLEAN),
    ],
)
def test_the_kind_of_numbers_is_seen(values: NDArray[Any], kind: FeatureKind) -> None:
    assert feature(numbers_column(values)).kind is kind


def test_the_kind_of_texts_and_vectors_is_seen() -> None:
    assert feature(column(*["red", "green"] * 50)).kind is FeatureKind.CATEGORICAL
    assert feature(column(*(f"sentence {number}" for number in range(100)))).kind is FeatureKind.TEXT_LENGTH
    vectors = feature(column(*([float(number), 1.0, 2.0] for number in range(600))))
    assert (vectors.kind, vectors.dimensions, vectors.counts) == (FeatureKind.EMBEDDING, 3, (0, 0))
    assert vectors.sample is not None
    assert vectors.sample.vectors.shape == (500, 3)
    assert len(set(vectors.sample.vectors[:, 0].tolist())) == 500
    assert not vectors.sample.users.any()
    assert feature(column(*[None] * 60)).counts == (60, 0)


def test_a_references_vectors_keep_the_users_that_the_group_column_names() -> None:
    names = [f"user-{number}" for number in range(600)]
    vectors = column(*([float(number), 1.0, 2.0] for number in range(600)))
    sample = built(Columns(group="who"), e=vectors, who=column(*names)).features["e"].sample
    assert sample is not None
    assert sample.users.tolist() == [user_number(names[int(vector[0])]) for vector in sample.vectors]


def test_a_kind_that_is_told_goes_before() -> None:
    months = feature(numbers_column(np.arange(600.0) % 12), FeatureKind.NUMERIC)
    assert months.kind is FeatureKind.NUMERIC
    assert months.edges
    words = feature(column(*["red", "green"] * 50), FeatureKind.TEXT_LENGTH)
    assert words.moments is not None
    assert (words.moments.min, words.moments.max) == (3, 5)


@pytest.mark.parametrize("kind", [FeatureKind.NUMERIC, FeatureKind.BOOLEAN, FeatureKind.EMBEDDING])
def test_a_kind_that_hardly_any_value_is_of_makes_no_profile_of_nothing(kind: FeatureKind) -> None:
    """A text that is told to be numeric had a median of 0, and nothing said that no value was a number."""
    few: list[object] = [1, True, [1.0, 2.0]]
    with pytest.raises(
        InvalidArgument, match=rf"'x' is told to be {kind.name}, and \d of its 100 .* CATEGORICAL"
    ) as caught:
        feature(column(*["free", "team"] * 48, "firm", *few, None), kind)
    assert caught.value.reason == "INVALID_COLUMNS"
    visible = feature(column(*["free"] * 80, *np.linspace(0, 1, 20).tolist()), FeatureKind.NUMERIC)
    assert visible.quality["wrong_type"] == 0.8
    assert feature(column(*[None] * 60), kind).counts[-2] == 60, "nothing came, and nothing is told of it"


def test_the_fifty_most_frequent_categories_are_kept_and_the_rest_are_other() -> None:
    values = [f"c{number:02}" for number in range(60) for _ in range(60 - number)]
    found = feature(column(*values))
    assert found.categories == tuple(f"c{number:02}" for number in range(50))
    rest = sum(60 - number for number in range(50, 60))
    assert found.counts[-1] == rest
    assert found.quality["unknown_category"] == pytest.approx(rest / len(values))


def test_what_is_bad_has_its_place_and_its_share() -> None:
    values: list[object] = [*random().normal(size=91).tolist(), None, float("nan"), float("inf"), "text", True, [1.0]]
    found = feature(column(*values, 1_000.0, -1_000.0, [["nested"]]))
    assert found.kind is FeatureKind.NUMERIC
    assert found.counts[-2:] == (2, 5)
    assert sum(found.counts) == 100
    assert found.quality["wrong_type"] == 0.04
    assert found.quality["not_finite"] == 0.01
    assert found.quality["outlier"] >= 0.02
    assert found.quality["out_of_range"] == 0


def test_rows_of_users_who_are_alike_show_their_design_effect() -> None:
    generator = random()
    users, rows, rho = 3_000, 20, 0.5
    effects = np.repeat(generator.normal(0, rho**0.5, users), rows)
    values = effects + generator.normal(0, (1 - rho) ** 0.5, users * rows)
    names = column(*(f"user-{user}" for user in np.repeat(np.arange(users), rows)))
    apart = built(Columns(group="user"), x=numbers_column(values), user=names).features["x"]
    # Of ten bins of a normal value whose correlation is 0.5, indicators' mean intra-class correlation is about 0.13.
    bins = np.searchsorted(apart.edges, values).reshape(users, rows)
    shares = np.stack([(bins == number).mean(axis=1) for number in range(10)], axis=1)
    between = shares.var(axis=0, ddof=1) / (0.1 * 0.9) * rows
    assert apart.overdispersion == pytest.approx(between.mean(), rel=0.25)
    assert apart.overdispersion > 2
    shuffled = built(Columns(group="user"), x=numbers_column(generator.permutation(values)), user=names).features["x"]
    assert shuffled.overdispersion < 1.25


def test_overdispersion_is_the_statistic_of_homogeneity_over_its_degrees_of_freedom() -> None:
    table = np.array([[30, 20, 0, 10], [10, 45, 0, 30], [25, 25, 0, 10]])
    expected = stats.chi2_contingency(table[:, [0, 1, 3]], correction=False)
    assert overdispersion(table) == pytest.approx(expected.statistic / expected.dof)
    assert overdispersion(np.zeros((GROUPS, 4), np.int64)) == 1
    assert overdispersion(np.array([[5, 5], [0, 0]])) == 1
    assert groups_of(np.array([user_number("")], np.uint32)) == NO_GROUP
    users = np.array([user_number(f"user-{number}") for number in range(2_000)], np.uint32)
    assert set(groups_of(users).tolist()) == set(range(GROUPS))


def test_labels_give_the_accuracy_as_feedback_would() -> None:
    label = column(*["0", "1", 2, True, None] * 12)
    predicted = column(*[0.0, 1, "2.0", 0, 1] * 12)
    found = built(Columns(label="label", predictions=("predicted",)), label=label, predicted=predicted, x=label)
    assert (found.accuracy, found.judged_count) == (0.75, 48)
    assert list(found.features) == ["x", "prediction"]
    assert found.features["prediction"].is_prediction


def test_of_a_regression_there_is_no_accuracy() -> None:
    values = numbers_column(random().normal(size=60))
    found = built(Columns(label="y", predictions=("p",)), y=values, p=values, x=values)
    assert (found.accuracy, found.judged_count) == (None, 0)


def test_several_outputs_are_named() -> None:
    values = numbers_column(np.arange(60.0))
    found = built(
        Columns(predictions=("a", "prediction.b", "prediction[0]")),
        a=values,
        **{"prediction.b": values},
        **{"prediction[0]": values},
        x=values,
    )
    assert list(found.features) == ["x", "prediction.a", "prediction.b", "prediction[0]"]


def test_rows_that_repeat_another_are_a_share() -> None:
    values = numbers_column(np.repeat(np.arange(50.0), 2))
    texts = column(*["a", "a"] * 49, "a", "b")
    assert built(x=values, t=texts).duplicate_share == pytest.approx(0.49)
    assert (
        built(x=numbers_column(np.tile([0.0, -0.0], 50)), t=numbers_column(np.arange(100) // 2)).duplicate_share == 0.5
    )


def test_what_is_no_profile_is_refused() -> None:
    few, enough = numbers_column(np.arange(49.0)), numbers_column(np.arange(50.0))
    assert refusal(x=few) == "TOO_FEW_ROWS"
    assert refusal(Columns(ignored=frozenset({"x"})), x=enough) == "NO_FEATURES"
    assert refusal(Columns(label="y"), x=enough) == "UNKNOWN_COLUMN"
    assert refusal(None, **{f"f{number}": enough for number in range(2_001)}) == "TOO_MANY_FEATURES"

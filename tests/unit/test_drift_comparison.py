"""A window against a reference, as a whole: what is decided, what is not, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from services.monitoring.configuration.models import DriftGate
from services.monitoring.drift import convert, embeddings, gates, sentences
from services.monitoring.drift.comparison import compare
from services.monitoring.drift.labels import labels_of
from services.monitoring.drift.models import (
    Comparison,
    DriftCheck,
    DriftResult,
    DriftStatus,
    DriftType,
    Labels,
    Rules,
    Trigger,
)
from services.monitoring.models import Window
from services.monitoring.profiles.models import (
    GROUPS,
    QUALITY_COUNTS,
    FeatureKind,
    FeatureReference,
    LiveFeature,
    LiveWindow,
    Moments,
    Reference,
    VectorSample,
)
from services.monitoring.profiles.overdispersion import user_number
from services.monitoring.window_checks.rounds import scheduled_level
from services.monitoring.window_checks.window import Completeness

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BUCKETS = 288
EVEN = np.full(4, 0.25)
EDGES = (-0.674, 0.0, 0.674)


def feature(name: str, counts: tuple[int, ...] = (500, 500, 500, 500, 0, 0), **fields: object) -> FeatureReference:
    moments = Moments(2_000, 0.0, 1.0, -4.0, 4.0, 0.0, 1.0)
    given = {"kind": FeatureKind.NUMERIC, "is_prediction": False, "edges": EDGES, "moments": moments, **fields}
    return FeatureReference(name=name, counts=counts, **given)  # type: ignore[arg-type]


def reference(*features: FeatureReference, accuracy: float | None = None) -> Reference:
    by_name = {each.name: each for each in features}
    return Reference(uuid4(), "iris", "1", 1, 2_000, by_name, accuracy, 2_000 if accuracy else 0, 0.0, NOW, "me", "")


def live(counts: NDArray[np.int64], groups: NDArray[np.int64] | None = None, **fields: object) -> LiveFeature:
    in_groups = np.zeros((GROUPS, counts.shape[1]), np.int64) if groups is None else groups
    return LiveFeature(
        counts, in_groups, np.zeros((len(counts), len(QUALITY_COUNTS)), np.int64), -4.0, 4.0, NOW, **fields  # type: ignore[arg-type]
    )  # fmt: skip


def window(**features: LiveFeature) -> LiveWindow:
    first = next(iter(features.values()))
    rows = first.counts.sum(axis=1)
    times = [NOW + timedelta(minutes=5 * n) for n in range(len(rows))]
    end = NOW + timedelta(days=1)
    return LiveWindow(NOW, end, times, rows, 0, first.groups.sum(axis=1), features, {})


def drawn(rows: int, shares: NDArray[np.float64], seed: int = 1) -> NDArray[np.int64]:
    """Rows over a day, [BUCKETS, 6]."""
    generator = np.random.default_rng(seed)
    bucket = generator.integers(0, BUCKETS, rows)
    place = generator.choice(len(shares), rows, p=shares)
    found = np.zeros((BUCKETS, 6), np.int64)
    np.add.at(found, (bucket, place), 1)
    return np.asarray(found[found.sum(axis=1) > 0])


def by_name(found: Comparison) -> dict[str, DriftResult]:
    return {result.feature: result for result in found.results}


SHIFTED = np.asarray([0.1, 0.2, 0.3, 0.4])


def test_what_has_drifted_stands_first_and_the_rest_has_not() -> None:
    shifted = np.random.default_rng(3).multinomial(5, [*SHIFTED, 0, 0], size=BUCKETS)
    same = np.random.default_rng(4).multinomial(5, [*EVEN, 0, 0], size=BUCKETS)
    found = compare(reference(feature("a"), feature("b")), window(a=live(same), b=live(shifted)), Rules())
    assert [(result.feature, result.status) for result in found.results] == [
        ("b", DriftStatus.DRIFTED),
        ("a", DriftStatus.OK),
    ]
    assert (found.status, found.drifted_types, found.drifted_count) == (DriftStatus.DRIFTED, (DriftType.INPUT,), 1)
    assert found.effect == found.results[0].effect > 0.1
    expected = float(((SHIFTED - EVEN) * np.log(SHIFTED / EVEN)).sum())
    assert found.results[0].effect == pytest.approx(expected, abs=0.05)
    assert "values above 0.674 were 25 % of the rows and are 4" in found.results[0].summary
    assert "of 2 comparisons over 1,440 rows" in found.summary


def test_a_prediction_that_drifts_is_prediction_drift() -> None:
    counts = drawn(2_000, SHIFTED)
    found = compare(reference(feature("prediction", is_prediction=True)), window(prediction=live(counts)), Rules())
    assert found.drifted_types == (DriftType.PREDICTION,)


def test_a_difference_that_is_real_and_small_is_no_drift() -> None:
    counts = np.tile(np.asarray([[252, 250, 250, 230, 0, 0]]), (BUCKETS, 1))
    large = reference(feature("a", counts=(10**6,) * 4 + (0, 0)))
    found = compare(large, window(a=live(counts)), Rules())
    (result,) = found.results
    assert result.adjusted_p_value is not None
    assert result.adjusted_p_value < 0.001
    assert result.status is DriftStatus.OK
    assert "which is real" in result.summary
    assert compare(large, window(a=live(counts)), Rules(effect_floor=0.0001)).status is DriftStatus.DRIFTED


def test_a_new_category_is_found_however_large_the_reference_is() -> None:
    known = (50_000, 25_000, 15_000, 10_000, 0, 0)
    colours = feature("colour", known, kind=FeatureKind.CATEGORICAL, categories=("a", "b", "c", "d"), edges=())
    shares = np.asarray([0.485, 0.2425, 0.1455, 0.097, 0.0, 0.03])
    (result,) = compare(reference(colours), window(colour=live(drawn(2_000, shares))), Rules()).results
    assert result.drifted, "it hid behind the rarest of those that are known"


def test_a_feature_that_is_left_out_is_not_compared() -> None:
    found = compare(
        reference(feature("a"), feature("b")),
        window(a=live(drawn(200, EVEN)), b=live(drawn(200, SHIFTED))),
        Rules(ignored_features=frozenset({"b"})),
    )
    assert list(by_name(found)) == ["a"]


def test_too_few_rows_say_nothing_and_no_rows_neither() -> None:
    for counts in (drawn(49, SHIFTED), np.zeros((0, 6), np.int64)):
        found = compare(reference(feature("a")), window(a=live(counts)), Rules())
        assert (found.status, found.compared_count) == (DriftStatus.INSUFFICIENT_DATA, 0)
        assert found.results[0].p_value is None
        assert "and 50 are needed" in found.summary


def test_rows_of_a_few_users_say_nothing() -> None:
    counts = drawn(400, SHIFTED)
    groups = np.zeros((GROUPS, 6), np.int64)
    groups[:3] = counts.sum(axis=0) // 3
    found = compare(reference(feature("a")), window(a=live(counts, groups)), Rules())
    assert found.status is DriftStatus.INSUFFICIENT_DATA
    assert "from so few users that they are worth about 3" in found.summary


def test_rows_that_change_slowly_say_less_than_they_are() -> None:
    slow = np.zeros((BUCKETS, 6), np.int64)
    slow[np.arange(BUCKETS), np.arange(BUCKETS) // 72] = 3
    found = compare(reference(feature("a")), window(a=live(slow)), Rules())
    assert found.status is DriftStatus.INSUFFICIENT_DATA
    assert "neighbours in time are so alike" in found.summary


def test_users_who_differ_are_no_drift_though_independent_rows_would_be() -> None:
    generator = np.random.default_rng(11)
    tastes = generator.dirichlet(np.full(4, 0.8), size=60)
    of_users = np.asarray([generator.multinomial(20, taste) for taste in tastes])
    groups = np.zeros((GROUPS, 6), np.int64)
    np.add.at(groups[:, :4], generator.integers(0, GROUPS, 60), of_users)
    pool = np.repeat(np.tile(np.arange(4), 60), of_users.ravel())
    counts = np.zeros((BUCKETS, 6), np.int64)
    np.add.at(counts, (generator.integers(0, BUCKETS, len(pool)), pool), 1)
    counts = counts[counts.sum(axis=1) > 0]
    rules = Rules(effect_floor=0.0)
    alike = compare(reference(feature("a")), window(a=live(counts, groups)), rules).results[0]
    alone = compare(reference(feature("a")), window(a=live(counts)), rules).results[0]
    assert alone.status is DriftStatus.DRIFTED
    assert alike.status is DriftStatus.OK
    assert alike.overdispersion > 2 > alone.overdispersion


def test_a_feature_that_breaks_in_mid_window_is_found_among_others_that_do_not() -> None:
    names = [f"f{number}" for number in range(9)]
    generator = np.random.default_rng(5)
    features = {name: generator.multinomial(7, [*EVEN, 0, 0], size=BUCKETS) for name in names}
    broken = features["f0"].copy()
    broken[216:] = [0, 0, 0, 0, 7, 0]
    features["f0"] = broken
    windows = window(**{name: live(counts) for name, counts in features.items()})
    found = compare(reference(*map(feature, names)), windows, Rules(alpha=0.25 / 91))
    assert [result.feature for result in found.results if result.drifted] == ["f0"]
    assert "missing values were 0 % of the rows and are 25 % now" in found.summary


def test_the_levels_of_a_quarters_checks_of_a_model_add_up_to_one_false_alarm() -> None:
    assert scheduled_level(0.05, timedelta(hours=6)) == pytest.approx(0.25 / 91)
    assert scheduled_level(0.05, timedelta(hours=6), versions=5) == pytest.approx(0.05 / 91)
    assert scheduled_level(0.01, timedelta(hours=1)) == pytest.approx(1 / 2_184)
    assert scheduled_level(0.05, timedelta(days=30)) == 0.05


@pytest.mark.slow
@pytest.mark.parametrize("gate", [gate for gate in DriftGate if gate is not DriftGate.PSI_CALIBRATED])
def test_another_gates_false_alarms_are_as_it_says(gate: DriftGate) -> None:
    many = reference(*(feature(f"f{number}") for number in range(5)))
    alarms, told = [], []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        each = [generator.multinomial(2, [*EVEN, 0, 0], size=50) for _ in range(5)]
        features = {f"f{number}": live(counts) for number, counts in enumerate(each)}
        found = compare(many, window(**features), Rules(gate=gate))
        alarms.append(found.status is DriftStatus.DRIFTED)
        told.append(found.false_alarm_rate)
    assert float(np.mean(alarms)) == pytest.approx(float(np.mean(told)), abs=0.2)
    assert all(result.adjusted_p_value is None for result in found.results)


def test_a_gate_that_needs_an_order_gives_way_where_there_is_none() -> None:
    kinds = feature("a", kind=FeatureKind.CATEGORICAL, edges=(), categories=("w", "x", "y", "z"), moments=None)
    for gate, other in ((DriftGate.KS, DriftGate.CHI_SQUARE), (DriftGate.WASSERSTEIN, DriftGate.JENSEN_SHANNON)):
        found = compare(reference(kinds), window(a=live(drawn(500, SHIFTED))), Rules(gate=gate))
        assert found.results[0].gate is other
        assert found.results[0].drifted
        assert 0 <= found.false_alarm_rate < 1
    assert gates.false_alarm_rate([], 0.05) == 0


def test_an_accuracy_is_compared_from_enough_labels_on() -> None:
    judged = reference(feature("a"), accuracy=0.9)
    rows = window(a=live(drawn(500, EVEN)))
    few = compare(judged, rows, Rules(), Labels([9] * 11, [5] * 11))
    assert by_name(few)["accuracy"].status is DriftStatus.INSUFFICIENT_DATA
    enough = compare(judged, rows, Rules(), Labels([10] * 30, [7] * 30))
    found = by_name(enough)["accuracy"]
    assert found.status is DriftStatus.DRIFTED
    assert found.effect == pytest.approx(0.2)
    assert found.effect_low is not None
    assert found.effect_high is not None
    assert 0.1 < found.effect_low < 0.2 < found.effect_high < 0.3
    assert "a drop of 20.0 points (between" in found.summary
    better = compare(judged, rows, Rules(), Labels([10] * 30, [10] * 30))
    assert by_name(better)["accuracy"].status is DriftStatus.OK
    assert "accuracy" not in by_name(compare(reference(feature("a")), rows, Rules(), Labels([10] * 30, [1] * 30)))


def test_labels_of_a_few_users_say_nothing() -> None:
    judged, rows = reference(feature("a"), accuracy=0.9), window(a=live(drawn(500, EVEN)))
    groups = [100, 100, 100, *[0] * (GROUPS - 3)]
    few = Labels([10] * 30, [7] * 30, groups, [80, 30, 100, *[0] * (GROUPS - 3)])
    found = by_name(compare(judged, rows, Rules(), few))["accuracy"]
    assert (found.status, found.p_value) == (DriftStatus.INSUFFICIENT_DATA, None)
    assert "so few users that they are worth about 3" in found.summary
    nameless = Labels([100] * 30, [70] * 30, groups, [80, 30, 100, *[0] * (GROUPS - 3)])
    assert by_name(compare(judged, rows, Rules(), nameless))["accuracy"].drifted, "who of the most is not known"


def vectors(
    users: int, seed: int, *, rows: int = 1, icc: float = 0.5, shift: float = 0.0, spread: float = 1.0
) -> VectorSample:
    """Up to 500 vectors of users with so many rows each, and of another name than those of other seeds."""
    generator = np.random.default_rng(seed)
    of_row = np.repeat(np.arange(users), rows)
    kept = generator.permutation(users * rows)[:500]
    own = generator.standard_normal((users, 32))[of_row[kept]]
    found = (np.sqrt(icc) * own + np.sqrt(1 - icc) * generator.standard_normal((len(kept), 32))) * spread
    found[:, :4] += shift
    numbers = np.array([user_number(f"{seed}/{user}") for user in range(users)], np.uint32)
    return VectorSample(found.astype(np.float32), numbers[of_row[kept]])


def apart(before: VectorSample, now: VectorSample, overdispersion: float = 1.0) -> embeddings.Separation:
    found = embeddings.separation(before, now, overdispersion=overdispersion)
    assert found is not None
    return found


def test_vectors_that_moved_or_spread_are_told_apart_and_others_are_not() -> None:
    before = vectors(400, 1)
    moved, spread = apart(before, vectors(300, 2, shift=0.8)), apart(before, vectors(300, 3, spread=1.5))
    assert min(moved.auc, spread.auc) > 0.7
    assert max(moved.p_value, spread.p_value) < 1e-5
    assert apart(before, vectors(300, 2, shift=0.8), overdispersion=20.0).p_value > 1_000 * moved.p_value
    assert apart(vectors(500, 1, rows=20), vectors(60, 2, rows=20, shift=1.5)).p_value < 0.001


def test_alike_vectors_of_a_few_users_are_no_drift() -> None:
    """A classifier that sees rows of a user on both sides of its split knows the user again: all of these alarmed."""
    found = [apart(vectors(500, 2 * n, rows=20), vectors(60, 2 * n + 1, rows=20)) for n in range(8)]
    assert sum(each.p_value < 0.05 for each in found) <= 1
    assert np.mean([each.auc for each in found]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([each.overdispersion for each in found]) > 2


def test_nothing_is_said_of_vectors_whose_users_are_not_known_or_few() -> None:
    before = vectors(400, 1)
    nameless = vectors(400, 2, shift=5)
    nameless.users[: 3 * len(nameless) // 4] = 0
    for few in (nameless, vectors(15, 2, rows=20, shift=5), vectors(20, 2, shift=5)):
        assert embeddings.separation(before, few, overdispersion=1.0) is None
        assert embeddings.separation(few, before, overdispersion=1.0) is None


@pytest.mark.slow
def test_the_p_of_vectors_is_honest_where_nothing_has_drifted() -> None:
    for users, rows in ((200, 1), (60, 20)):
        p_values = [apart(vectors(400, 2 * n), vectors(users, 2 * n + 1, rows=rows)).p_value for n in range(30)]
        assert sum(p < 0.05 for p in p_values) <= 5


def test_embedding_drift_is_one_of_the_comparisons() -> None:
    described = feature("e", kind=FeatureKind.EMBEDDING, counts=(0, 0), edges=(), moments=None, sample=vectors(300, 1))
    counts = np.zeros((BUCKETS, 2), np.int64)
    rows = live(drawn(500, EVEN))
    moved = live(counts, np.zeros((GROUPS, 2), np.int64), sample=vectors(200, 2, shift=1.0))
    found = compare(reference(feature("a"), described), window(a=rows, e=moved), Rules())
    assert found.drifted_types == (DriftType.EMBEDDING,)
    assert found.results[0].effect == pytest.approx(2 * (found.results[0].statistic - 0.5))
    assert "a classifier tells old from new vectors with an AUC of" in found.results[0].summary
    fixed = compare(reference(described), window(a=rows, e=moved), Rules(gate=DriftGate.PSI_FIXED))
    assert fixed.false_alarm_rate == pytest.approx(0.05), "it keeps its p beside another gate"
    nameless = live(counts, moved.groups, sample=VectorSample(vectors(200, 2).vectors, np.zeros(200, np.uint32)))
    unknown = by_name(compare(reference(described), window(a=rows, e=nameless), Rules()))["e"]
    assert unknown.status is DriftStatus.INSUFFICIENT_DATA
    assert "send user_id" in unknown.summary
    none = live(counts, np.zeros((GROUPS, 2), np.int64))
    assert by_name(compare(reference(described), window(a=rows, e=none), Rules()))["e"].status is (
        DriftStatus.INSUFFICIENT_DATA
    )


def test_bins_that_are_too_much_for_an_answer_stay_with_the_worst_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.monitoring.drift.comparison.MOST_BIN_BYTES", 300)
    rows = window(a=live(drawn(500, EVEN)), b=live(drawn(500, SHIFTED)))
    found = compare(reference(feature("a"), feature("b")), rows, Rules())
    assert [(each.feature, len(each.bins), bool(each.summary)) for each in found.results] == [
        ("b", 4, True),
        ("a", 0, True),
    ]


def test_a_feature_that_never_varied_and_one_that_never_came_are_no_error() -> None:
    constant = feature("a", counts=(2_000, 0, 0, 0, 0, 0))
    still = np.tile(np.asarray([[5, 0, 0, 0, 0, 0]]), (BUCKETS, 1))
    gone = np.tile(np.asarray([[0, 0, 0, 0, 5, 0]]), (BUCKETS, 1))
    found = compare(reference(constant, feature("b")), window(a=live(still), b=live(gone)), Rules())
    assert (by_name(found)["a"].status, by_name(found)["a"].p_value) == (DriftStatus.OK, 1.0)
    assert by_name(found)["b"].drifted


def test_bins_are_called_as_people_read_them() -> None:
    assert labels_of(feature("a")) == ["up to -0.674", "-0.674 to 0", "0 to 0.674", "above 0.674", "missing", "other"]
    kinds = feature("a", kind=FeatureKind.CATEGORICAL, edges=(), categories=("w", "x", "y", "z"))
    assert labels_of(kinds) == ["w", "x", "y", "z", "missing", "other"]
    assert labels_of(feature("e", counts=(0, 0), edges=())) == ["missing", "other"]
    assert "1 row with" in sentences.too_few_rows(1, 50)


def test_a_check_comes_back_from_its_document_as_it_was() -> None:
    found = compare(
        reference(feature("a"), accuracy=0.9),
        window(a=live(drawn(500, SHIFTED))),
        Rules(),
        Labels([10] * 30, [7] * 30),
    )
    check = DriftCheck(
        id=uuid4(),
        model="iris",
        version="1",
        profile_id=uuid4(),
        window=Window(NOW, NOW + timedelta(days=1)),
        status=found.status,
        drifted_types=found.drifted_types,
        drifted_count=found.drifted_count,
        compared_count=found.compared_count,
        effect=found.effect,
        live_count=found.live_count,
        alpha=found.alpha,
        gate=found.gate,
        false_alarm_rate=found.false_alarm_rate,
        summary=found.summary,
        results=tuple(replace(result, bins=tuple(result.bins)) for result in found.results),
        trigger=Trigger.REQUEST,
        create_time=NOW,
        completeness=Completeness(2, NOW),
    )
    assert convert.check_from(convert.check_proto(check).SerializeToString()) == check
    assert convert.check_proto(check.without_results()).results == []

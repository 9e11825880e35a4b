"""What keeps a check from false alarms, part by part: each of these fails where its part is left out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from services.common.errors import DeadlineExceeded
from services.monitoring.configuration.models import DriftGate
from services.monitoring.drift import concept, features, gates, sentences
from services.monitoring.drift.checks import labels_of, newest
from services.monitoring.drift.comparison import compare
from services.monitoring.drift.features import Measured, Table
from services.monitoring.drift.models import (
    BinComparison,
    Comparison,
    Distances,
    DriftResult,
    DriftStatus,
    Labels,
    Rules,
)
from services.monitoring.models import Window
from services.monitoring.profiles.models import (
    GROUPS,
    QUALITY_COUNTS,
    FeatureKind,
    FeatureReference,
    LiveFeature,
    LiveWindow,
    Reference,
)
from services.monitoring.rollups.models import Counts, Totals

NOW = datetime(2026, 3, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)
NOBODY = np.zeros((GROUPS, 2), np.int64)
PARTS = np.asarray([1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0, 1])
"""Which bin each of twelve parts has all of its rows in: eight in one, four in the other."""
EVENLY = np.tile(np.asarray([[2, 4]]), (40, 1))
"""The same rows, of which none resembles its neighbours."""


def of_parts(parts: int) -> NDArray[np.int64]:
    """Twelve parts of 20 rows, each alike."""
    found = np.zeros((parts, 2), np.int64)
    found[np.arange(12), PARTS] = 20
    return found


def measured(
    in_time: NDArray[np.int64], of_users: NDArray[np.int64], reference: tuple[int, ...] = (5_000, 5_000)
) -> Measured:
    live = in_time.sum(axis=0)
    table = Table("a", np.asarray(reference), live, in_time, of_users, 1.0)
    return features.measure([table], features.likeness_of([], in_time.sum(axis=1), of_users.sum(axis=1)))["a"]


def test_rows_of_a_dozen_users_say_as_much_as_a_dozen_rows() -> None:
    """Eight of twelve are more than a half by chance in a quarter of all cases; 160 of 240 are in none."""
    assert measured(EVENLY, NOBODY).p_value < 1e-5
    assert measured(EVENLY, of_parts(GROUPS)).p_value > 0.1


def test_rows_of_a_dozen_hours_say_as_much_as_a_dozen_rows() -> None:
    by_hour = np.repeat(of_parts(12) // 4, 4, axis=0)
    assert by_hour.sum(axis=0).tolist() == EVENLY.sum(axis=0).tolist()
    assert measured(by_hour, NOBODY).p_value > 0.02


def test_what_differs_by_chance_has_no_effect() -> None:
    """PSI is as large as its degrees of freedom over the rows where nothing has drifted."""
    found = measured(np.tile(np.asarray([[5, 7]]), (10, 1)), NOBODY)
    psi = float(np.diff([50.5 / 121, 70.5 / 121])[0] * np.log(70.5 / 50.5))
    assert found.effect == pytest.approx(psi / 2 - 1 / 120 - 1 / 10_000, abs=1e-3)
    assert measured(np.tile(np.asarray([[9, 10]]), (10, 1)), NOBODY).effect == 0


def test_kinds_that_hardly_came_are_counted_together() -> None:
    known = FeatureReference(name="a", counts=(900, 90, 4, 3, 2, 1), kind=FeatureKind.CATEGORICAL, is_prediction=False)
    live = np.asarray([[90, 8, 0, 0, 1, 1]])
    table = features.table_of(known, lived(live))
    assert sorted(zip(table.reference.tolist(), table.live.tolist(), strict=True)) == [(100, 10), (900, 90)]


def lived(counts: NDArray[np.int64]) -> LiveFeature:
    quality = np.zeros((len(counts), len(QUALITY_COUNTS)), np.int64)
    return LiveFeature(counts, np.zeros((GROUPS, counts.shape[1]), np.int64), quality, np.nan, np.nan, None)


def compared(
    counts: NDArray[np.int64],
    rules: Rules,
    labels: Labels | None = None,
    *,
    overdispersion: float = 1.0,
    accuracy: float | None = None,
) -> tuple[Comparison, dict[str, DriftResult]]:
    """Compare a feature that said two things equally often, and an accuracy."""
    known = FeatureReference(
        name="a", counts=(1_000, 1_000, 0, 0), kind=FeatureKind.CATEGORICAL, is_prediction=True,
        categories=("x", "y"), overdispersion=overdispersion,
    )  # fmt: skip
    reference = Reference(
        uuid4(), "iris", "1", 1, 2_000, {"a": known}, accuracy, 2_000 if accuracy else 0, 0.0, NOW, "me", ""
    )
    rows = counts.sum(axis=1)
    times = [NOW + n * STEP for n in range(len(rows))]
    nobody = np.zeros(GROUPS, np.int64)
    window = LiveWindow(NOW, NOW + len(rows) * STEP, times, rows, 0, nobody, {"a": lived(counts)}, {})
    found = compare(reference, window, rules, labels)
    return found, {result.feature: result for result in found.results}


SHIFTED = np.tile(np.asarray([[9, 11, 0, 0]]), (50, 1))
SAME = np.tile(np.asarray([[10, 10, 0, 0]]), (50, 1))


def test_a_reference_of_alike_rows_proves_less() -> None:
    rules = Rules(effect_floor=0.0)
    alone, alike = (compared(SHIFTED, rules, overdispersion=phi)[1]["a"] for phi in (1.0, 20.0))
    assert alone.drifted
    assert not alike.drifted
    assert alike.effect < alone.effect


def test_an_accuracy_is_as_sure_as_the_references_predictions_are_worth() -> None:
    labels = Labels([20] * 50, [17] * 50)
    alone, alike = (
        compared(SAME, Rules(), labels, overdispersion=phi, accuracy=0.9)[1]["accuracy"] for phi in (1.0, 20.0)
    )
    assert alone.p_value is not None
    assert alike.p_value is not None
    assert alone.p_value < 0.01 < alike.p_value
    assert alone.effect_low is not None
    assert alike.effect_low is not None
    assert alike.effect_low < 0 < alone.effect_low


def test_labels_are_seen_in_waves_that_are_long_beside_the_time_features_stay_alike() -> None:
    table = concept.table_of(0.9, 2_000, 1.0, Labels([20] * 50, [17] * 50))
    assert [len(concept.likeness_of(table, alike).time) for alike in (1.0, 10.0, 50.0)] == [48, 14, 8]
    slow = np.repeat(np.asarray([[16, 4, 0, 0], [4, 16, 0, 0]] * 3), 8, axis=0)
    labels = Labels([20] * 48, [*[17, 15] * 20, *[10] * 8])
    features_still, features_slow = (
        compared(counts, Rules(), labels, accuracy=0.9)[1]["accuracy"].p_value for counts in (SAME[:48], slow)
    )
    assert features_still is not None
    assert features_slow is not None
    assert features_still < 0.5 * features_slow


def test_of_very_many_labels_the_newest_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.monitoring.drift.checks.MOST_LABELS", 100)
    steps = [Totals(Window(NOW + n * STEP, NOW + (n + 1) * STEP), Counts(judged_count=40)) for n in range(5)]
    assert newest(steps) == steps[3:]
    assert newest(steps[:2]) == steps[:2]
    many = [Totals(Window(NOW, NOW + STEP), Counts(judged_count=101))]
    assert newest(many) == many, "one step is judged in any case"
    assert newest([]) == []


def test_labels_that_cannot_be_read_in_time_are_judged_for_their_newest_eighth() -> None:
    steps = [Totals(Window(NOW + n * STEP, NOW + (n + 1) * STEP), Counts(judged_count=n)) for n in range(1, 17)]

    def read(span: Window) -> dict[int, tuple[int, int]]:
        if span.to_time - span.from_time > 2 * STEP:
            raise DeadlineExceeded("too long", reason="STATEMENT_TIMEOUT")
        return {-1: (1, 0), 3: (30, 20)}

    found = labels_of(steps, read)
    assert (found.judged, found.judged_of_users[3], found.correct_of_users[3]) == ([15, 16], 30, 20)
    assert sum(found.judged_of_users) == 30
    assert labels_of(steps[:1], lambda span: read(Window(NOW, NOW + 3 * STEP))) == Labels(), "and none where none can"


def test_a_psi_of_a_fifth_is_the_customs_large_one() -> None:
    told = [gates.verdict(DriftGate.PSI_FIXED, Distances(psi=psi), 0.05).drifted for psi in (0.199, 0.2, 0.201)]
    assert told == [False, True, True]


def test_another_gates_false_alarms_count_the_accuracys() -> None:
    """No PSI of a thousand rows comes to 0.2 by chance, but the accuracy is compared at α beside it."""
    rules = Rules(gate=DriftGate.PSI_FIXED)
    labels = Labels([3] * 50, [2] * 50)
    assert compared(SAME, rules)[0].false_alarm_rate == 0
    found = compared(SAME, rules, labels, accuracy=0.6)[0]
    assert found.false_alarm_rate == pytest.approx(0.025)
    large = compared(SAME, rules, Labels([100] * 50, [60] * 50), accuracy=0.6)[0]
    assert large.false_alarm_rate < 0.001, "a drop that matters is none of chance's there"


def test_what_kept_a_feature_from_being_drift_is_said() -> None:
    usual = compared(SHIFTED, Rules(effect_floor=0.5))[1]["a"]
    assert usual.adjusted_p_value is not None
    assert 0.00275 < usual.adjusted_p_value < 0.05
    assert "is real (p = 0.0" in usual.summary
    assert "below the 0.5 that matter" in usual.summary
    strict = compared(SHIFTED, Rules(alpha=0.00275))[1]["a"]
    assert "which chance explains at the level 0.00275 (p = 0.0" in strict.summary


def test_what_kept_an_accuracy_from_being_a_drop_is_said() -> None:
    found = compared(SAME, Rules(alpha=1e-6), Labels([10] * 20, [8] * 20), accuracy=0.9)[1]["accuracy"]
    assert found.effect == pytest.approx(0.1)
    assert "not dropped as far as can be told" in found.summary
    assert "chance explains at the level 1e-06" in found.summary
    small = replace(found, effect=0.01)
    assert "by more than 5.0 points" in sentences.of_result(small, 1, 0.05)


def test_a_sentence_speaks_of_one_value_as_one_and_writes_a_tiny_p_as_less() -> None:
    moved = BinComparison("1", reference_share=0.542, live_share=0.1, live_count=100)
    category = replace(
        compared(SHIFTED, Rules())[1]["a"],
        kind=FeatureKind.CATEGORICAL,
        bins=[moved],
        status=DriftStatus.DRIFTED,
        adjusted_p_value=1e-9,
    )
    said = sentences.of_result(category, 3, 0.05)
    assert 'the value "1" was 54.2 % of the rows and is 10 % now' in said
    assert ", p < 0.000001 with 3 comparisons" in said
    numbers = replace(category, kind=FeatureKind.NUMERIC, bins=[replace(moved, label="1 to 2")])
    assert "values 1 to 2 were 54.2 % of the rows and are 10 % now" in sentences.of_result(numbers, 3, 0.05)

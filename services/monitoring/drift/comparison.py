"""A window of live data against a reference: every comparison, and what they come to together. Pure, and repeatable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from services.monitoring.configuration.models import DriftConfiguration, DriftGate
from services.monitoring.drift import concept, embeddings, features, gates, sentences
from services.monitoring.drift.adjustment import adjusted
from services.monitoring.drift.distances import OUTSIDE, of_feature
from services.monitoring.drift.features import Likeness, Measured
from services.monitoring.drift.labels import labels_of
from services.monitoring.drift.models import (
    BinComparison,
    Comparison,
    DriftResult,
    DriftStatus,
    DriftType,
    Labels,
    Rules,
    effect_of_psi,
)
from services.monitoring.profiles.models import FeatureKind, FeatureReference, LiveFeature, LiveWindow, Reference

FEWEST_EFFECTIVE_ROWS = 40.0
DEFAULT_MIN_ROWS = DriftConfiguration().min_rows
FEWEST_USERS = 7.0
ACCURACY = "accuracy"
MOST_BIN_BYTES = 4 * 1024 * 1024
"""What the bins of a check take, about; the worst results keep theirs."""
_BIN_BYTES = 40


def compare(reference: Reference, window: LiveWindow, rules: Rules, labels: Labels | None = None) -> Comparison:
    """Compare everything that both sides have: features, predictions, embeddings, and the accuracy."""
    view = _view(reference, window, rules)
    results = [_feature(view, name) for name in view.binned]
    results += [_embedding(view, name) for name in view.embeddings]
    results += _concept(view, labels or Labels())
    decided = _adjusted(results, rules) if rules.gate is DriftGate.PSI_CALIBRATED else results
    told = [
        replace(result, summary=result.summary or sentences.of_result(result, len(decided), rules.alpha))
        for result in decided
    ]
    found = Comparison(
        status=_status(told),
        results=_bounded(sorted(told, key=_order)),
        live_count=window.row_count,
        alpha=rules.alpha,
        gate=rules.gate,
        false_alarm_rate=_false_alarm_rate(view, told),
        summary="",
    )
    return replace(found, summary=sentences.of_comparison(found, view.wanting))


@dataclass(frozen=True, slots=True)
class _View:
    """What the comparisons have in common. `wanting` says in a sentence what there is too little of; empty: nothing."""

    reference: Reference
    window: LiveWindow
    rules: Rules
    binned: Sequence[str]
    embeddings: Sequence[str]
    likeness: Likeness
    measured: Mapping[str, Measured]
    wanting: str

    @property
    def overdispersion(self) -> float:
        """How many rows one that says something new stands for, by the median of the features."""
        found = [each.overdispersion for each in self.measured.values()]
        return max(1.0, median(found)) if found else 1.0


def _view(reference: Reference, window: LiveWindow, rules: Rules) -> _View:
    names = [name for name in reference.features if name not in rules.ignored_features]
    binned = [name for name in names if reference.features[name].kind is not FeatureKind.EMBEDDING]
    vectors = [name for name in names if reference.features[name].kind is FeatureKind.EMBEDDING]
    rows = window.row_count
    if rows < max(rules.min_rows, 1):
        nothing = features.likeness_of([], window.row_counts, window.group_row_counts)
        return _View(
            reference, window, rules, binned, vectors, nothing, {}, sentences.too_few_rows(rows, rules.min_rows)
        )
    tables = [features.table_of(reference.features[name], window.features[name]) for name in binned]
    likeness = features.likeness_of(tables, window.row_counts, window.group_row_counts)
    wanting = _wanting(likeness, rows, rules)
    measured = features.measure(tables, likeness, exactly=not wanting)
    return _View(reference, window, rules, binned, vectors, likeness, measured, wanting)


def _wanting_users(likeness: Likeness, rows: int) -> str:
    few = len(likeness.users) and likeness.user_parts < FEWEST_USERS
    return sentences.too_few_users(rows, likeness.user_parts) if few else ""


def _wanting(likeness: Likeness, rows: int, rules: Rules) -> str:
    if few_users := _wanting_users(likeness, rows):
        return few_users
    effective = rows / likeness.in_time
    # Whoever asks for checks of fewer rows than by default gets them, where rows do not resemble each other.
    fewest = FEWEST_EFFECTIVE_ROWS * min(1.0, rules.min_rows / DEFAULT_MIN_ROWS)
    return sentences.too_alike(rows, effective) if effective < fewest else ""


def _feature(view: _View, name: str) -> DriftResult:
    reference, live = view.reference.features[name], view.window.features[name]
    result = DriftResult(
        type=DriftType.PREDICTION if reference.is_prediction else DriftType.INPUT,
        feature=name,
        kind=reference.kind,
        status=DriftStatus.INSUFFICIENT_DATA,
        gate=view.rules.gate,
        statistic=0.0,
        effect=0.0,
        effect_floor=view.rules.effect_floor,
        reference_count=sum(reference.counts),
        live_count=int(live.counts.sum()),
        bins=_bins(reference, live),
    )
    measured = view.measured.get(name)
    if measured is None or not result.live_count or not result.reference_count:
        return result
    distances = of_feature(reference, live)
    result = replace(
        result,
        statistic=measured.statistic,
        effect=measured.effect,
        overdispersion=measured.overdispersion,
        distances=distances,
    )
    if view.wanting:
        return result
    if view.rules.gate is DriftGate.PSI_CALIBRATED:
        return replace(result, status=DriftStatus.OK, p_value=measured.p_value)
    gate = gates.gate_for(view.rules.gate, distances)
    verdict = gates.verdict(gate, distances, view.rules.alpha)
    status = DriftStatus.DRIFTED if verdict.drifted else DriftStatus.OK
    return replace(
        result, gate=gate, status=status, statistic=verdict.statistic, p_value=verdict.p_value, effect_floor=0.0
    )


def _bins(reference: FeatureReference, live: LiveFeature) -> list[BinComparison]:
    """Both distributions; missing and other only where either side has any."""
    before, now = np.asarray(reference.counts, dtype=np.int64), live.counts.sum(axis=0, dtype=np.int64)
    shown = (before + now) > 0
    shown[:-OUTSIDE] = True
    n, m = max(int(before.sum()), 1), max(int(now.sum()), 1)
    return [
        BinComparison(label, int(before[place]) / n, int(now[place]) / m, int(now[place]))
        for place, label in enumerate(labels_of(reference))
        if shown[place]
    ]


def _embedding(view: _View, name: str) -> DriftResult:
    reference, live = view.reference.features[name], view.window.features[name]
    result = DriftResult(
        type=DriftType.EMBEDDING,
        feature=name,
        kind=FeatureKind.EMBEDDING,
        status=DriftStatus.INSUFFICIENT_DATA,
        gate=view.rules.gate,
        statistic=0.0,
        effect=0.0,
        effect_floor=effect_of_psi(view.rules.effect_floor, DriftType.EMBEDDING),
        reference_count=0 if reference.sample is None else len(reference.sample),
        live_count=0 if live.sample is None else len(live.sample),
    )
    if view.wanting or reference.sample is None or live.sample is None:
        return result
    # Of rows that are alike few are in the sample, and a few of them are less alike.
    share = min(1.0, result.live_count / max(view.window.row_count, 1))
    spread = 1 + (view.overdispersion - 1) * share
    found = embeddings.separation(reference.sample, live.sample, overdispersion=spread)
    if found is None:
        return result
    effect = max(0.0, 2 * (found.auc - 0.5))
    status = DriftStatus.OK
    if view.rules.gate is not DriftGate.PSI_CALIBRATED and found.p_value < view.rules.alpha:
        status = DriftStatus.DRIFTED if effect > result.effect_floor else DriftStatus.OK
    return replace(
        result,
        status=status,
        statistic=found.auc,
        p_value=found.p_value,
        effect=effect,
        overdispersion=found.overdispersion,
    )


def _concept(view: _View, labels: Labels) -> list[DriftResult]:
    """Compare the accuracy where the reference has one; labels may be fewer than rows, or more with feedback alone."""
    reference, rules, judged = view.reference, view.rules, sum(labels.judged)
    if reference.accuracy is None or reference.judged_count < 1:
        return []
    result = DriftResult(
        type=DriftType.CONCEPT,
        feature=ACCURACY,
        kind=None,
        status=DriftStatus.INSUFFICIENT_DATA,
        gate=rules.gate,
        statistic=0.0,
        effect=0.0,
        effect_floor=rules.accuracy_drop,
        reference_count=reference.judged_count,
        live_count=judged,
        bins=_accuracies(reference.accuracy, judged, sum(labels.correct)),
    )
    if judged < rules.min_labels:
        return [result]
    predictions = [each.overdispersion for each in reference.features.values() if each.is_prediction]
    table = concept.table_of(reference.accuracy, reference.judged_count, max([1.0, *predictions]), labels)
    # Of rows that are alike few are judged, and a few of them are less alike.
    share = min(1.0, judged / max(view.window.row_count, 1))
    likeness = concept.likeness_of(table, 1 + (max(1.0, view.likeness.factor) - 1) * share)
    if wanting := _wanting_users(likeness, judged):
        return [replace(result, summary=sentences.too_little_of(ACCURACY, wanting))]
    drop = concept.accuracy_drop(reference.accuracy, table, likeness, alpha=rules.alpha)
    status = DriftStatus.OK
    if rules.gate is not DriftGate.PSI_CALIBRATED and drop.p_value < rules.alpha and drop.value > rules.accuracy_drop:
        status = DriftStatus.DRIFTED
    return [
        replace(
            result,
            status=status,
            statistic=drop.statistic,
            p_value=drop.p_value,
            effect=drop.value,
            effect_low=drop.low,
            effect_high=drop.high,
            overdispersion=drop.overdispersion,
        )
    ]


def _accuracies(accuracy: float, judged: int, correct: int) -> list[BinComparison]:
    live = correct / judged if judged else 0.0
    wrong = judged - correct
    return [
        BinComparison("right", accuracy, live, correct),
        BinComparison("wrong", 1 - accuracy, wrong / judged if judged else 0.0, wrong),
    ]


def _adjusted(results: Sequence[DriftResult], rules: Rules) -> list[DriftResult]:
    """Let all comparisons with enough data be one family: an alarm needs an adjusted p below α, and its effect."""
    values = adjusted([result.p_value for result in results if result.p_value is not None])
    by_place = iter(values)
    return [
        result if result.p_value is None else _judged(replace(result, adjusted_p_value=next(by_place)), rules.alpha)
        for result in results
    ]


def _judged(result: DriftResult, alpha: float) -> DriftResult:
    significant = result.adjusted_p_value is not None and result.adjusted_p_value < alpha
    drifted = significant and result.effect > result.effect_floor
    return replace(result, status=DriftStatus.DRIFTED if drifted else DriftStatus.OK)


def _status(results: Sequence[DriftResult]) -> DriftStatus:
    statuses = {result.status for result in results}
    for status in (DriftStatus.DRIFTED, DriftStatus.OK):
        if status in statuses:
            return status
    return DriftStatus.INSUFFICIENT_DATA


def _bounded(results: Sequence[DriftResult]) -> list[DriftResult]:
    """Leave out the last results' bins where all together are too much to answer with."""
    left, bounded = MOST_BIN_BYTES, []
    for result in results:
        left -= sum(_BIN_BYTES + len(each.label.encode(errors="surrogatepass")) for each in result.bins)
        bounded.append(result if left >= 0 else replace(result, bins=()))
    return bounded


def _order(result: DriftResult) -> tuple[bool, bool, float, str]:
    told = result.status is not DriftStatus.INSUFFICIENT_DATA
    return not result.drifted, not told, -result.effect, result.feature


def _false_alarm_rate(view: _View, results: Sequence[DriftResult]) -> float:
    if view.rules.gate is DriftGate.PSI_CALIBRATED:
        return view.rules.alpha
    decided = [result for result in results if result.status is not DriftStatus.INSUFFICIENT_DATA]
    compared = [
        gates.Compared(
            reference=view.reference.features[result.feature],
            gate=result.gate,
            reference_rows=result.reference_count / max(1.0, view.reference.features[result.feature].overdispersion),
            live_rows=result.live_count / view.overdispersion,
        )
        for result in decided
        if result.type in (DriftType.INPUT, DriftType.PREDICTION)
    ]
    none = 1 - gates.false_alarm_rate(compared, view.rules.alpha)
    for result in decided:
        if result.type is DriftType.CONCEPT:
            none *= 1 - concept.false_alarm_rate(result, view.rules.alpha)
        elif result.type is DriftType.EMBEDDING:
            none *= 1 - view.rules.alpha
    return 1 - none

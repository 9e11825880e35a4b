"""What came out, in sentences for people."""

from __future__ import annotations

from services.monitoring.configuration.models import DriftGate
from services.monitoring.drift.models import BinComparison, Comparison, DriftResult, DriftStatus, DriftType
from services.monitoring.profiles.models import FeatureKind

_NAMED = 3
_GATES = {
    DriftGate.PSI_FIXED: ("PSI", "at least 0.2"),
    DriftGate.KS: ("the p of Kolmogorov and Smirnov's test", "below the level"),
    DriftGate.CHI_SQUARE: ("the p of the χ² test", "below the level"),
    DriftGate.WASSERSTEIN: ("Wasserstein's distance over σ", "at least 0.1"),
    DriftGate.JENSEN_SHANNON: ("Jensen and Shannon's distance", "at least 0.1"),
}
_BINS = {"missing": "missing values", "other": "values that the reference does not know"}
_WHAT = {
    DriftType.INPUT: "input",
    DriftType.PREDICTION: "predictions",
    DriftType.CONCEPT: "accuracy",
    DriftType.EMBEDDING: "embeddings",
}


def too_few_rows(rows: int, least: int) -> str:
    """Say that rows are wanting."""
    return f"{_rows(rows)} with features came, and {least} are needed: wait, or take a longer window"


def too_few_users(rows: int, users: float) -> str:
    """Say that users are."""
    return (
        f"{_rows(rows)} came from so few users that they are worth about {users:.0f}; "
        f"what few users do says nothing of the rest: take a longer window"
    )


def too_alike(rows: int, effective: float) -> str:
    """Say that rows repeat what their neighbours say, or that the data changed in mid-window."""
    return (
        f"{_rows(rows)} came, and neighbours in time are so alike, in most features, that they say no more than "
        f"{effective:.0f} would: either values change slowly, or all changed within the window; "
        "take a longer window, or one that begins later"
    )


def too_little_of(feature: str, wanting: str) -> str:
    """Say of one comparison what is wanting."""
    return f"Too little data to say whether {feature} has drifted: {wanting}."


def of_result(result: DriftResult, compared: int, alpha: float) -> str:
    """Say what one comparison came to, at the level of its check."""
    if result.status is DriftStatus.INSUFFICIENT_DATA:
        return _too_little(result)
    if result.type is DriftType.CONCEPT:
        return _accuracy(result, compared, alpha)
    if result.type is DriftType.EMBEDDING:
        return _vectors(result, compared, alpha)
    verdict = "has drifted" if result.drifted else "has not drifted as far as can be told"
    return f"{result.feature} {verdict}: {_moved(result)}{_why(result, compared, alpha)}."


def _too_little(result: DriftResult) -> str:
    if result.type is DriftType.EMBEDDING:
        return too_little_of(
            result.feature,
            f"{_count(result.live_count, 'vector')} came, {result.reference_count:,} of the reference. Both sides must "
            "name their users, some dozens of them: send user_id, and name the group column when you make the profile",
        )
    rows = _count(result.live_count, "labelled row" if result.type is DriftType.CONCEPT else "row")
    return too_little_of(result.feature, rows)


def _moved(result: DriftResult) -> str:
    moved = max(result.bins, key=lambda each: abs(each.live_share - each.reference_share), default=None)
    if moved is None:
        return ""
    what, one = _bin(moved, result.kind)
    was, now = ("was", "is") if one else ("were", "are")
    before, after = _percent(moved.reference_share), _percent(moved.live_share)
    return f"{what} {was if result.drifted else now} {before} of the rows and {now} {after} now; "


def _bin(moved: BinComparison, kind: FeatureKind | None) -> tuple[str, bool]:
    """Name the values of a bin, and say whether they are one."""
    if moved.label in _BINS:
        return _BINS[moved.label], False
    if kind in (FeatureKind.CATEGORICAL, FeatureKind.BOOLEAN):
        return f'the value "{moved.label}"', True
    return f"values {moved.label}", False


def _why(result: DriftResult, compared: int, alpha: float) -> str:
    if result.gate is not DriftGate.PSI_CALIBRATED:
        name, limit = _GATES[result.gate]
        shown = result.statistic if result.p_value is None else result.p_value
        return f"{name} is {shown:.3g}, and {limit} is drift"
    size = f"PSI beyond chance is {result.effect:.3f} (0.2 is the custom for a large shift)"
    if result.drifted:
        return f"{size}, {_p(result)} with {_comparisons(compared)} allowed for"
    return f"{size}, {_kept_from(result, alpha, f'below the {result.effect_floor:g} that matter')}"


def _kept_from(result: DriftResult, alpha: float, small: str) -> str:
    """Say why it is no drift: its p, or its effect."""
    p_value = _decisive(result)
    if p_value is not None and p_value < alpha:
        return f"which is real ({_p(result)}) and {small}"
    return f"which chance explains at the level {alpha:.3g} ({_p(result)})"


def _accuracy(result: DriftResult, compared: int, alpha: float) -> str:
    before, now = (result.bins[0].reference_share, result.bins[0].live_share) if result.bins else (0.0, 0.0)
    span = ""
    if result.effect_low is not None and result.effect_high is not None:
        low, high = _points(result.effect_low), _points(result.effect_high)
        span = f", a drop of {_points(result.effect)} (between {low} and {high})"
    now_of = f"{_percent(now)} of {_count(result.live_count, 'labelled row')}"
    told = f"the model was right in {_percent(before)} and is in {now_of}{span}"
    if result.drifted:
        return f"Accuracy has dropped: {told}, {_p(result)} with {_comparisons(compared)} allowed for."
    if result.effect <= result.effect_floor:
        return f"Accuracy has not dropped by more than {_points(result.effect_floor)} as far as can be told: {told}."
    return f"Accuracy has not dropped as far as can be told: {told}, {_kept_from(result, alpha, 'small')}."


def _vectors(result: DriftResult, compared: int, alpha: float) -> str:
    told = f"a classifier tells old from new vectors with an AUC of {result.statistic:.2f} (0.5 is by chance)"
    if result.drifted:
        return f"{result.feature} has drifted: {told}, {_p(result)} with {_comparisons(compared)} allowed for."
    small = f"an effect of {result.effect:.2f}, below the {result.effect_floor:.2f} that matter"
    return f"{result.feature} has not drifted as far as can be told: {told}, {_kept_from(result, alpha, small)}."


def of_comparison(comparison: Comparison, wanting: str) -> str:
    """Say what a check came to."""
    if comparison.status is DriftStatus.INSUFFICIENT_DATA:
        return (
            f"Too little data to say: {wanting}." if wanting else "Too little data to say: there is nothing to compare."
        )
    count = f"{comparison.compared_count} comparison{'s' * (comparison.compared_count != 1)}"
    over = f"over {_rows(comparison.live_count)}"
    note = f" Of the features nothing can be said: {wanting}." if wanting else ""
    if comparison.status is DriftStatus.OK:
        return f"No drift in {count} {over}; a check without drift says so in all but {_false(comparison)}.{note}"
    drifted = [result for result in comparison.results if result.drifted]
    kinds = " and ".join(_WHAT[kind] for kind in comparison.drifted_types)
    names = ", ".join(result.feature for result in drifted[:_NAMED])
    more = f" and {len(drifted) - _NAMED} more" if len(drifted) > _NAMED else ""
    return (
        f"Drift of {kinds}: {names}{more}, {len(drifted)} of {count} {over}; "
        f"checks without drift say this in {_false(comparison)}. {drifted[0].summary}{note}"
    )


def _false(comparison: Comparison) -> str:
    most = "at most " if comparison.gate is DriftGate.PSI_CALIBRATED else "about "
    return f"{most}{_percent(comparison.false_alarm_rate)} of cases"


def _comparisons(count: int) -> str:
    return "this one comparison" if count == 1 else f"{count} comparisons"


def _rows(count: int) -> str:
    return _count(count, "row")


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _decisive(result: DriftResult) -> float | None:
    return result.p_value if result.adjusted_p_value is None else result.adjusted_p_value


def _p(result: DriftResult) -> str:
    value = _decisive(result)
    return "p = none" if value is None else f"p = {value:.2g}" if value >= 1e-6 else "p < 0.000001"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"

"""What a rule reads out of totals and checks: its value, and why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter

from penstock.durations import write_duration
from services.monitoring.alerts.conditions import Reading, how_many
from services.monitoring.alerts.mistakes import server_error_count, valid_count
from services.monitoring.alerts.models import Rule
from services.monitoring.drift.models import Distances, DriftCheck, DriftResult, DriftStatus
from services.monitoring.quality.models import QualityCheck, QualityFinding, QualityIssue, QualityStatus
from services.monitoring.rollups.models import Counts, Totals

_NAMED = 3
_NAME_CHARS = 64
_COUNTS = ("inference_count", "feedback_count", "judged_count")
_RATES = ("error_rate", "server_error_rate")
_OF_FEEDBACK = ("accuracy", "average_feedback_lag_s")
_P_VALUES = ("p_value", "adjusted_p_value", "ks_p_value", "chi_square_p_value")
"""The smaller, the further from the reference; of all else, the larger."""
_DISTANCES = frozenset(Distances.__dataclass_fields__)
_ISSUES: Mapping[str, QualityIssue] = {
    "missing_rate": QualityIssue.MISSING,
    "type_rate": QualityIssue.TYPE,
    "schema_rate": QualityIssue.SCHEMA,
    "range_rate": QualityIssue.RANGE,
    "unknown_category_rate": QualityIssue.UNKNOWN_CATEGORY,
    "outlier_rate": QualityIssue.OUTLIER,
    "duplicate_rate": QualityIssue.DUPLICATE,
    "constant_rate": QualityIssue.CONSTANT,
    "stale_s": QualityIssue.STALE,
    "not_finite_rate": QualityIssue.NOT_FINITE,
}


def of_totals(rule: Rule, totals: Totals, without_version: Counts | None = None) -> Reading:
    """Read how a version did, or a model as a whole.

    With `without_version`, the calls that failed before a version was chosen, their share of all is read: what versions
    answered with errors is told of them.
    """
    counted = _counted(rule, totals)
    if counted < rule.min_count:
        came = f"{how_many(rule.metric, counted)} came over {write_duration(rule.window)}"
        return Reading(None, f"{came}, and min_count is {rule.min_count}")
    if rule.metric not in _RATES:
        value, cause = _number(rule, totals), ""
    else:
        failed, of = _failed(rule, without_version or totals.counts), _calls(rule, totals)
        value = failed / of if of else None
        cause = f"{failed} of {of} calls failed before a version was chosen" if without_version else ""
    if value is not None:
        return Reading(float(value), cause=cause)
    return Reading(None, f"{_nothing(rule, totals)} over {write_duration(rule.window)}")


def of_drift(rule: Rule, check: DriftCheck | None, now: datetime) -> Reading:
    """Read what the last check by schedule found, as far as the rule is about it."""
    if check is None or check.window.to_time <= now - rule.window:
        return Reading(None, f"there was no drift check of the last {write_duration(rule.window)}")
    results = [
        result
        for result in check.results
        if rule.drift_type in (None, result.type)
        and rule.feature in ("", result.feature)
        and result.status is not DriftStatus.INSUFFICIENT_DATA
    ]
    if not results:
        return Reading(None, "the latest drift check has too little data for it", check_id=check.id)
    if rule.metric in ("effect", "drifted_count"):
        drifted = sorted((each for each in results if each.drifted), key=lambda each: each.effect, reverse=True)
        value = len(drifted) if rule.metric == "drifted_count" else max((each.effect for each in drifted), default=0.0)
        return Reading(float(value), cause=_drifted(drifted), check_id=check.id)
    return _furthest(rule.metric, results, check)


def of_quality(rule: Rule, check: QualityCheck | None, now: datetime) -> Reading:
    """Read what the last check by schedule found, as far as the rule is about it."""
    if check is None or check.window.to_time <= now - rule.window:
        return Reading(None, f"there was no quality check of the last {write_duration(rule.window)}")
    if check.status is QualityStatus.INSUFFICIENT_DATA:
        return Reading(None, "the latest quality check had too little data", check_id=check.id)
    findings = [each for each in check.findings if rule.feature in ("", each.feature)]
    if rule.metric == "violation_count":
        violations = [each for each in findings if each.violated]
        return Reading(float(len(violations)), cause=_violated(violations), check_id=check.id)
    issue = _ISSUES[rule.metric]
    worst = max((each for each in findings if each.issue is issue), key=lambda each: each.value, default=None)
    if worst is None:
        return Reading(0.0, check_id=check.id)
    return Reading(worst.value, cause=_shown(worst.feature), check_id=check.id)


def _counted(rule: Rule, totals: Totals) -> int:
    """Give what `min_count` is compared with: what the metric is an average over."""
    if rule.metric == "accuracy":
        return totals.counts.judged_count
    if rule.metric == "average_feedback_lag_s":
        return totals.counts.feedback_count
    return _calls(rule, totals)


def _number(rule: Rule, totals: Totals) -> float | None:
    if rule.metric == "error_count":
        return _failed(rule, totals.counts)
    value: float | None = attrgetter(f"counts.{rule.metric}" if rule.metric in _COUNTS else rule.metric)(totals)
    return value


def _failed(rule: Rule, counts: Counts) -> int:
    """Count the failures that a rule is about."""
    if rule.metric == "server_error_rate":
        return server_error_count(counts)
    return counts.errors.get(rule.error_code, 0) if rule.error_code else counts.error_count


def _calls(rule: Rule, totals: Totals) -> int:
    """Count the predictions that a rule is about: what its failures are a share of."""
    return valid_count(totals.counts) if rule.metric == "server_error_rate" else totals.counts.inference_count


def _nothing(rule: Rule, totals: Totals) -> str:
    if not _calls(rule, totals):
        return "no prediction came"
    if rule.metric in _OF_FEEDBACK:
        return "no feedback came"
    return "no prediction had one" if rule.metric == "average_confidence" else "no prediction succeeded"


def _furthest(metric: str, results: Iterable[DriftResult], check: DriftCheck) -> Reading:
    """Read a number that every comparison has: that of the feature that is furthest from the reference by it."""
    read = attrgetter(f"distances.{metric}" if metric in _DISTANCES else metric)
    found = [(read(result), result) for result in results if read(result) is not None]
    if not found:
        return Reading(None, f"the latest drift check has no {metric} for it", check_id=check.id)
    furthest: Callable[..., tuple[float, DriftResult]] = min if metric in _P_VALUES else max
    value, result = furthest(found, key=lambda each: each[0])
    return Reading(float(value), cause=_shown(result.feature), check_id=check.id)


def _drifted(drifted: Sequence[DriftResult]) -> str:
    return _few([f"{_shown(each.feature)} by {each.effect:.3g}" for each in drifted])


def _violated(violations: Sequence[QualityFinding]) -> str:
    return _few([f"{each.issue.name.lower()} {_shown(each.feature)}".rstrip() for each in violations])


def _shown(feature: str) -> str:
    """Give a feature's name as a message may have it: events name features as they like, at any length."""
    return "".join(each if each.isprintable() else "?" for each in feature[:_NAME_CHARS])


def _few(texts: Sequence[str]) -> str:
    shown = ", ".join(texts[:_NAMED])
    return f"{shown} and {len(texts) - _NAMED} more" if len(texts) > _NAMED else shown

"""Conditions: which metrics there are, what a rule says in words, and whether a value meets it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from penstock.durations import write_duration
from services.monitoring.alerts.life import Finding, Verdict
from services.monitoring.alerts.models import AlertType, MissingData, Operator, RuleDraft, Target

MIN_WINDOW = timedelta(minutes=1)
MAX_WINDOW = timedelta(days=7)
_BUCKET = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Metric:
    """What can be compared.

    Attributes:
        least: no value is below this.
        most: no value is above this.
        unit: as it is written after a value.
        adds_up: it is a count: the whole's is the sum of its parts', and 0 where there is no traffic. Of all others the
            whole's lies between its parts'.
        by_feature: it can be asked of one feature.
        by_code: it can be asked of one error code.
        of_calls: it is told of calls that failed before a version was chosen, too.
        min_window: over less it says nothing.
    """

    type: AlertType
    least: float = 0.0
    most: float = math.inf
    unit: str = ""
    adds_up: bool = False
    by_feature: bool = False
    by_code: bool = False
    of_calls: bool = False
    min_window: timedelta = MIN_WINDOW


_LATENCY = Metric(AlertType.LATENCY, unit=" ms")
# Feedback comes later than its prediction, and is counted in buckets of the prediction's time.
_JUDGED = Metric(AlertType.ERROR_RATE, most=1.0, min_window=_BUCKET)
_FEEDBACK = Metric(AlertType.ERROR_RATE, adds_up=True, min_window=_BUCKET)
_DRIFT = Metric(AlertType.DRIFT, by_feature=True, min_window=_BUCKET)
_DRIFT_SHARE = replace(_DRIFT, most=1.0)
_QUALITY = Metric(AlertType.DATA_QUALITY, most=1.0, by_feature=True, min_window=_BUCKET)

METRICS: Mapping[str, Metric] = {
    "average_latency_ms": _LATENCY,
    "max_latency_ms": _LATENCY,
    "p50_latency_ms": _LATENCY,
    "p95_latency_ms": _LATENCY,
    "p99_latency_ms": _LATENCY,
    "error_rate": Metric(AlertType.ERROR_RATE, most=1.0, by_code=True, of_calls=True),
    "server_error_rate": Metric(AlertType.ERROR_RATE, most=1.0, of_calls=True),
    "error_count": Metric(AlertType.ERROR_RATE, adds_up=True, by_code=True),
    "inference_count": Metric(AlertType.ERROR_RATE, adds_up=True),
    "throughput_per_s": Metric(AlertType.ERROR_RATE, unit=" per second", adds_up=True),
    "accuracy": _JUDGED,
    "average_confidence": Metric(AlertType.ERROR_RATE, most=1.0),
    "average_feedback_lag_s": Metric(AlertType.ERROR_RATE, unit=" s", min_window=_BUCKET),
    "feedback_count": _FEEDBACK,
    "judged_count": _FEEDBACK,
    "effect": _DRIFT,
    "drifted_count": _DRIFT,
    "p_value": _DRIFT_SHARE,
    "adjusted_p_value": _DRIFT_SHARE,
    "psi": _DRIFT,
    "ks_statistic": _DRIFT_SHARE,
    "ks_p_value": _DRIFT_SHARE,
    "chi_square": _DRIFT,
    "chi_square_p_value": _DRIFT_SHARE,
    "wasserstein": _DRIFT,
    "jensen_shannon": _DRIFT_SHARE,
    "violation_count": replace(_QUALITY, most=math.inf),
    "missing_rate": _QUALITY,
    "type_rate": _QUALITY,
    "schema_rate": _QUALITY,
    "range_rate": _QUALITY,
    "unknown_category_rate": _QUALITY,
    "outlier_rate": _QUALITY,
    "not_finite_rate": _QUALITY,
    "constant_rate": _QUALITY,
    "stale_s": replace(_QUALITY, most=math.inf, unit=" s"),
    "duplicate_rate": replace(_QUALITY, by_feature=False),
}

_COMPARE: Mapping[Operator, Callable[[float, float], bool]] = {
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
}
SIGNS: Mapping[Operator, str] = {
    Operator.GREATER: ">",
    Operator.GREATER_OR_EQUAL: ">=",
    Operator.LESS: "<",
    Operator.LESS_OR_EQUAL: "<=",
}
_COUNTED: Mapping[str, tuple[str, str]] = {
    "accuracy": ("judged row", "judged rows"),
    "average_feedback_lag_s": ("row with feedback", "rows with feedback"),
    "server_error_rate": ("valid prediction", "valid predictions"),
}
_CHECKED = (AlertType.DRIFT, AlertType.DATA_QUALITY)


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric's value for one version; None where there is none, and `why` says why there is none.

    `cause` names what brought the value about, `check_id` the check that found it.
    """

    value: float | None
    why: str = ""
    cause: str = ""
    check_id: UUID | None = None


def holds(rule: RuleDraft, value: float) -> bool:
    """Compare a value with the rule's threshold."""
    return _COMPARE[rule.operator](value, rule.threshold)


def written(metric: str, value: float) -> str:
    """Write a value as people read it, with its unit."""
    return f"{value:.6g}{METRICS[metric].unit}"


def in_words(rule: RuleDraft) -> str:
    """Write a rule's condition: `p99_latency_ms over 5m > 200 ms for 10m`."""
    of = _narrowed(rule)
    kind = f" ({rule.drift_type.name.lower()} drift)" if rule.drift_type else ""
    span = f"in a check of the last {write_duration(rule.window)}" if rule.type in _CHECKED else _over(rule)
    limit = f"{SIGNS[rule.operator]} {written(rule.metric, rule.threshold)}"
    hold = f" for {write_duration(rule.hold)}" if rule.hold else ""
    count = f", from {how_many(rule.metric, rule.min_count)} on" if rule.min_count else ""
    return f"{rule.metric}{of}{kind} {span} {limit}{hold}{count}"


def how_many(metric: str, count: int) -> str:
    """Write how many there are of what a metric is taken over, which `min_count` counts: `1 prediction`."""
    one, many = _COUNTED.get(metric, ("prediction", "predictions"))
    return f"{count:,} {one if count == 1 else many}"


def judge(rule: RuleDraft, target: Target, reading: Reading) -> Finding:
    """Say what a rule makes of a reading."""
    if reading.value is None or not math.isfinite(reading.value):
        return _missing(rule, target, reading)
    met = holds(rule, reading.value)
    value, threshold = written(rule.metric, reading.value), written(rule.metric, rule.threshold)
    of = _narrowed(rule)
    span = "in the latest check" if rule.type in _CHECKED else _over(rule)
    limit = f"{SIGNS[rule.operator]} {threshold}" if met else f"no longer {SIGNS[rule.operator]} {threshold}"
    cause = f" ({reading.cause})" if met and reading.cause else ""
    message = f"{target}: {rule.metric}{of} {span} is {value}, {limit}{cause}"
    return Finding(Verdict.HOLDS if met else Verdict.CLEAR, reading.value, message, reading.check_id)


_MISSING = {
    MissingData.IGNORE: Verdict.UNKNOWN,
    MissingData.ALERT: Verdict.HOLDS,
    MissingData.RESOLVE: Verdict.CLEAR,
}


def _missing(rule: RuleDraft, target: Target, reading: Reading) -> Finding:
    message = f"{target}: {rule.metric} has no value: {reading.why}"
    return Finding(_MISSING[rule.missing_data], None, message, reading.check_id)


def _narrowed(rule: RuleDraft) -> str:
    return f" of {rule.feature or rule.error_code}" if rule.feature or rule.error_code else ""


def _over(rule: RuleDraft) -> str:
    return f"over {write_duration(rule.window)}"

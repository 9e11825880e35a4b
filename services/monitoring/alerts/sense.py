"""Whether a rule makes sense. One that could never fire, or would always, or asks for what is not there, is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta

from penstock.durations import write_duration
from services.common.errors import InvalidArgument
from services.monitoring.alerts.conditions import MAX_WINDOW, METRICS, SIGNS, Metric, written
from services.monitoring.alerts.models import AlertType, MissingData, Operator, RuleDraft
from services.monitoring.drift.models import Distances, DriftType
from services.monitoring.window_checks.window import LONGEST_WINDOW

MAX_HOLD = timedelta(hours=24)
MIN_REPEAT, MAX_REPEAT = timedelta(minutes=5), timedelta(days=7)
MAX_CHANNELS = 20
MAX_MIN_COUNT = 1_000_000_000
_COUNTED = (AlertType.LATENCY, AlertType.ERROR_RATE)

MADE_LATE = timedelta(minutes=10)
"""How much older than their interval the last checks may be for a moment: made in a round, each takes a while."""

_NO_PSI = (DriftType.CONCEPT, DriftType.EMBEDDING)
"""Whose effect is 1 at most, and which have none of the distances."""
_DISTANCES = frozenset(Distances.__dataclass_fields__)

Intervals = Mapping[AlertType, timedelta]
"""How often checks of a type are made by schedule."""


def check_rule(rule: RuleDraft, intervals: Intervals, quality_window: timedelta = LONGEST_WINDOW) -> None:
    """See that a rule makes sense; raises InvalidArgument naming the field, and saying why (INVALID_RULE).

    `quality_window` is the longest that quality checks of its models and versions look at.
    """
    if rule.version and not rule.model:
        raise refused("version", f"got {rule.version!r} without a model; name the model that it is a version of")
    metric = _check_metric(rule)
    _check_threshold(rule, metric, _most(rule, metric, quality_window))
    _check_window(rule, metric, intervals)
    _check_narrowing(rule, metric)
    _check_counts(rule, metric)
    _check_sending(rule)


def least_window(rule: RuleDraft, interval: timedelta) -> timedelta:
    """Give the shortest window that a rule may have over checks that come so often.

    Where a moment without a check so young would be an alert by itself, it is longer than the interval.
    """
    late = max(MADE_LATE - rule.hold, timedelta()) if rule.missing_data is MissingData.ALERT else timedelta()
    return min(interval + late, MAX_WINDOW) if interval else timedelta()


def refused(field: str, description: str) -> InvalidArgument:
    """Make the error for one field of a rule."""
    return InvalidArgument.field(f"rule.{field}", description, reason="INVALID_RULE")


def _check_metric(rule: RuleDraft) -> Metric:
    metric = METRICS.get(rule.metric)
    if metric is None or metric.type is not rule.type:
        came = "is no metric" if metric is None else f"is a metric of type {metric.type.name}"
        allowed = ", ".join(name for name, each in METRICS.items() if each.type is rule.type)
        raise refused("metric", f"{rule.metric[:64]!r} {came}; rules of type {rule.type.name} have {allowed}")
    return metric


def _most(rule: RuleDraft, metric: Metric, quality_window: timedelta) -> float:
    """Give what no value of a metric is above, as far as the rule asks for it."""
    if rule.metric == "stale_s":
        return quality_window.total_seconds()
    of_one = rule.metric == "drifted_count" and (rule.feature or rule.drift_type is DriftType.CONCEPT)
    return 1.0 if of_one or (rule.metric == "effect" and rule.drift_type in _NO_PSI) else metric.most


def _check_threshold(rule: RuleDraft, metric: Metric, most: float) -> None:
    if not math.isfinite(rule.threshold):
        raise refused("threshold", f"got {rule.threshold}; a finite number is allowed")
    if metric.most == 1 and not 0 <= rule.threshold <= 1:
        raise refused("threshold", f"got {rule.threshold:g}; {rule.metric} is 0 to 1: write 0.05 for 5 %")
    sense = _never_or_always(rule.operator, rule.threshold, metric.least, most)
    if sense:
        span = f"at least {metric.least:g}" if math.isinf(most) else f"{metric.least:g} to {most:g}"
        condition = f"{rule.metric} {SIGNS[rule.operator]} {written(rule.metric, rule.threshold)}"
        raise refused("threshold", f"{condition} {sense} holds, since it is {span}; choose another threshold")


def _never_or_always(operator: Operator, threshold: float, least: float, most: float) -> str:
    """Say whether the condition holds for no value that the metric can have, or for each."""
    match operator:
        case Operator.GREATER:
            never, always = threshold >= most, threshold < least
        case Operator.GREATER_OR_EQUAL:
            never, always = threshold > most, threshold <= least
        case Operator.LESS:
            never, always = threshold <= least, threshold > most
        case Operator.LESS_OR_EQUAL:
            never, always = threshold < least, threshold >= most
    return "never" if never else "always" if always else ""


def _check_window(rule: RuleDraft, metric: Metric, intervals: Intervals) -> None:
    if not metric.min_window <= rule.window <= MAX_WINDOW:
        allowed = f"{write_duration(metric.min_window)} to {write_duration(MAX_WINDOW)}"
        raise refused("window", f"got {write_duration(rule.window)}; {rule.metric} is taken over {allowed}")
    if rule.hold > MAX_HOLD:
        raise refused("for", f"got {write_duration(rule.hold)}; 0s to {write_duration(MAX_HOLD)} are allowed")
    interval = intervals.get(rule.type, timedelta())
    least = least_window(rule, interval)
    if rule.window < least:
        often = "most of the time" if rule.window < interval else "now and then"
        raise refused(
            "window",
            f"got {write_duration(rule.window)}, and checks come every {write_duration(interval)}: {often} there would "
            f"be none so young; take at least {write_duration(least)}, or have checks made more often",
        )


def _check_narrowing(rule: RuleDraft, metric: Metric) -> None:
    if rule.drift_type is not None and rule.type is not AlertType.DRIFT:
        raise refused("drift_type", f"a rule of type {rule.type.name} has none; leave it unset")
    if rule.feature and not metric.by_feature:
        raise refused("feature", f"{rule.metric} is not counted by feature; leave it empty")
    if rule.error_code and not metric.by_code:
        raise refused("error_code", f"{rule.metric} is not counted by error code; leave it empty")
    if rule.metric in _DISTANCES and rule.drift_type in _NO_PSI:
        kind = rule.drift_type.name
        raise refused("drift_type", f"{rule.metric} compares bins, and {kind} drift has none; name INPUT or PREDICTION")
    if rule.drift_type is DriftType.CONCEPT and rule.feature not in ("", "accuracy"):
        raise refused("feature", f"got {rule.feature!r}; concept drift is of the accuracy, not of a feature")


def _check_counts(rule: RuleDraft, metric: Metric) -> None:
    if not 0 <= rule.min_count <= MAX_MIN_COUNT:
        raise refused("min_count", f"got {rule.min_count}; 0 to {MAX_MIN_COUNT:,} are allowed")
    if rule.min_count and rule.type not in _COUNTED:
        raise refused("min_count", f"a rule of type {rule.type.name} has none: its checks have a least sample")
    if rule.min_count and metric.adds_up:
        raise refused("min_count", f"{rule.metric} is a count itself; leave it 0")
    if metric.adds_up and rule.missing_data is not MissingData.IGNORE:
        raise refused(
            "missing_data",
            f"{rule.metric} has a value without traffic too, 0; compare with that, and leave it unset",
        )


def _check_sending(rule: RuleDraft) -> None:
    if len(rule.channels) > MAX_CHANNELS:
        raise refused("channels", f"got {len(rule.channels)}; at most {MAX_CHANNELS} are allowed")
    if len(set(rule.channels)) < len(rule.channels):
        raise refused("channels", "one is named twice; name each once")
    if not MIN_REPEAT <= rule.repeat_interval <= MAX_REPEAT:
        allowed = f"{write_duration(MIN_REPEAT)} to {write_duration(MAX_REPEAT)}"
        raise refused("repeat_interval", f"got {write_duration(rule.repeat_interval)}; {allowed} is allowed")

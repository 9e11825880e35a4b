"""The values that rules compare, read once a turn however many rules ask for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from operator import attrgetter

from penstock.durations import write_duration
from services.monitoring.alerts.conditions import Reading
from services.monitoring.alerts.models import AlertType, MissingData, Operator, Rule, Target
from services.monitoring.alerts.sources import Sources
from services.monitoring.drift.models import DriftCheck, DriftResult, DriftStatus
from services.monitoring.models import Window
from services.monitoring.quality.models import QualityCheck, QualityFinding, QualityIssue, QualityStatus
from services.monitoring.rollups.models import Totals

LOOK_BACK = timedelta(hours=24)
"""Rules that miss traffic look for versions that had some within this long."""
_NAMED = 3
_NAME_CHARS = 64
_COUNTS = ("inference_count", "error_count")
_TRAFFIC = ("inference_count", "throughput_per_s")
_BELOW = (Operator.LESS, Operator.LESS_OR_EQUAL)
_ISSUES = {
    "missing_rate": QualityIssue.MISSING,
    "type_rate": QualityIssue.TYPE,
    "range_rate": QualityIssue.RANGE,
    "unknown_category_rate": QualityIssue.UNKNOWN_CATEGORY,
    "outlier_rate": QualityIssue.OUTLIER,
    "duplicate_rate": QualityIssue.DUPLICATE,
}


def misses_traffic(rule: Rule) -> bool:
    """Say whether a rule is about traffic that does not come."""
    return rule.missing_data is MissingData.ALERT or (rule.metric in _TRAFFIC and rule.operator in _BELOW)


class Values:
    """What rules see at one moment."""

    def __init__(self, sources: Sources, now: datetime) -> None:
        self._sources = sources
        self._now = now
        self._models: dict[timedelta, Collection[str]] = {}
        self._versions: dict[tuple[str, timedelta], Collection[str]] = {}
        self._totals: dict[tuple[Target, timedelta], Totals] = {}
        self._drift_checks: dict[Target, DriftCheck | None] = {}
        self._quality_checks: dict[Target, QualityCheck | None] = {}

    def targets(self, rule: Rule) -> set[Target]:
        """Name the versions that a rule is judged for: those with traffic in its window.

        A rule about traffic that does not come is judged for the version that it names, or, of a model without any
        traffic in the window, for those that had some within LOOK_BACK. Where predictions failed before a version was
        chosen, errors are judged for the model as a whole too: the empty version.
        """
        if rule.version and misses_traffic(rule):
            return {Target(rule.model, rule.version)}
        span = max(rule.window, LOOK_BACK) if misses_traffic(rule) else rule.window
        models = [rule.model] if rule.model else self._models_in(span)
        found = {Target(model, version) for model in models for version in self._answering(model, rule.window, span)}
        if rule.type is not AlertType.ERROR_RATE:
            found = {target for target in found if target.version}
        return {target for target in found if rule.version in ("", target.version)}

    def _answering(self, model: str, window: timedelta, span: timedelta) -> Collection[str]:
        """Name the versions of a window; where none answered in it, also those of the longer span before its end."""
        lately = self._versions_in(model, window)
        return lately if any(lately) else {*lately, *self._versions_in(model, span)}

    def replaced(self, rule: Rule, target: Target) -> bool:
        """Say whether others answer in a version's place: then it is no longer judged, and is not missed."""
        if rule.version and misses_traffic(rule):
            return False
        answering = self._versions_in(target.model, rule.window)
        return target.version not in answering and any(answering)  # the empty version answers in nobody's place

    def read(self, rule: Rule, target: Target) -> Reading:
        """Read a rule's metric for a version."""
        match rule.type:
            case AlertType.DRIFT:
                return self._drift(rule, target)
            case AlertType.DATA_QUALITY:
                return self._quality(rule, target)
            case _:
                return self._total(rule, target)

    def _total(self, rule: Rule, target: Target) -> Reading:
        key = (target, rule.window)
        if key not in self._totals:
            self._totals[key] = self._sources.metrics.total(target.model, target.version, self._window(rule.window))
        totals = self._totals[key]
        counted, what = _counted(rule, totals)
        if counted < rule.min_count:
            span = write_duration(rule.window)
            return Reading(None, f"{counted} {what} came over {span}, and min_count is {rule.min_count}")
        value: float | None = attrgetter(f"counts.{rule.metric}" if rule.metric in _COUNTS else rule.metric)(totals)
        if value is not None:
            return Reading(float(value))
        return Reading(None, f"{_nothing(rule, totals)} over {write_duration(rule.window)}")

    def _drift(self, rule: Rule, target: Target) -> Reading:
        if target not in self._drift_checks:
            self._drift_checks[target] = self._sources.drift.latest(target.model, target.version)
        check = self._drift_checks[target]
        if check is None or check.window.to_time <= self._now - rule.window:
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
        drifted = sorted((each for each in results if each.drifted), key=lambda each: each.effect, reverse=True)
        value = len(drifted) if rule.metric == "drifted_count" else max((each.effect for each in drifted), default=0.0)
        return Reading(float(value), cause=_drifted(drifted), check_id=check.id)

    def _quality(self, rule: Rule, target: Target) -> Reading:
        if target not in self._quality_checks:
            self._quality_checks[target] = self._sources.quality.latest(target.model, target.version)
        check = self._quality_checks[target]
        if check is None or check.window.to_time <= self._now - rule.window:
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

    def _window(self, span: timedelta) -> Window:
        return Window(self._now - span, self._now)

    def _models_in(self, span: timedelta) -> Collection[str]:
        if span not in self._models:
            self._models[span] = self._sources.metrics.models(self._window(span))
        return self._models[span]

    def _versions_in(self, model: str, span: timedelta) -> Collection[str]:
        key = (model, span)
        if key not in self._versions:
            self._versions[key] = self._sources.metrics.versions(model, self._window(span))
        return self._versions[key]


def _counted(rule: Rule, totals: Totals) -> tuple[int, str]:
    """Give what `min_count` is compared with: what the metric is an average over."""
    if rule.metric == "accuracy":
        return totals.counts.judged_count, "judged rows"
    if rule.metric == "average_feedback_lag_s":
        return totals.counts.feedback_count, "rows with feedback"
    return totals.counts.inference_count, "predictions"


def _nothing(rule: Rule, totals: Totals) -> str:
    if not totals.counts.inference_count:
        return "no prediction came"
    if rule.metric in ("accuracy", "average_feedback_lag_s"):
        return "no feedback came"
    return "no prediction had one" if rule.metric == "average_confidence" else "no prediction succeeded"


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

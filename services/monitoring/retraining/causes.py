"""What of all that is found may raise a retraining request. Pure; docs/monitoring.md tells users."""

from __future__ import annotations

import math
from collections.abc import Sequence

from services.monitoring.alerts.models import Alert, AlertType, Operator, Rule
from services.monitoring.configuration.models import Effective
from services.monitoring.drift.models import DriftCheck, DriftResult, DriftType, effect_of_psi
from services.monitoring.retraining.models import Cause, Reason

MAX_FEATURES_NAMED = 20
_INPUT = (DriftType.INPUT, DriftType.EMBEDDING)
_BELOW = (Operator.LESS, Operator.LESS_OR_EQUAL)


def of_check(check: DriftCheck, effective: Effective) -> Cause | None:
    """Give the cause that lies in a drift check: concept drift before input drift, of the configured effect or more.

    Concept drift's effect is the fall of the accuracy, held against `drift.accuracy_drop`. What the model says may
    drift because the world does, and be right: prediction drift alone raises nothing.
    """
    drop, psi = effective.drift.accuracy_drop, effective.retraining.drift_effect
    found = sorted(
        (result for result in check.results if result.drifted), key=lambda result: result.effect, reverse=True
    )
    fallen = [result for result in found if result.type is DriftType.CONCEPT and result.effect >= drop]
    drifted = [result for result in found if result.type in _INPUT and result.effect >= effect_of_psi(psi, result.type)]
    if fallen:
        return _cause(check, Reason.ACCURACY_DROP, "accuracy_drop", drop, fallen, effective)
    if drifted:
        least = effect_of_psi(psi, drifted[0].type)
        return _cause(check, Reason.DRIFT_DETECTED, "drift_effect", least, drifted, effective)
    return None


def of_alert(alert: Alert, rule: Rule, effective: Effective) -> Cause | None:
    """Give the cause that lies in an alert: drift or a rate of server errors of the configured size, or an accuracy
    too low.

    Other alerts of drift raise nothing themselves, and belong to what their check raises. Calls that failed before a
    version was chosen raise nothing, nor does a rate of all errors or of one: no training mends its callers' mistakes.
    """
    value = alert.value
    if value is None or not math.isfinite(value) or not alert.target.version:
        return None
    reason = _reason(rule, value, effective)
    belongs = rule.type is AlertType.DRIFT and alert.check_id is not None
    if reason is None and not belongs:
        return None
    return Cause(
        model=alert.target.model,
        version=alert.target.version,
        reason=reason or Reason.DRIFT_DETECTED,
        details={
            "metric": rule.metric,
            "value": value,
            "threshold": alert.threshold,
            "rule": alert.rule_name,
            "condition": alert.condition,
            "summary": alert.message,
        },
        alert_id=alert.id,
        check_id=alert.check_id,
        raises=reason is not None,
    )


def _reason(rule: Rule, value: float, effective: Effective) -> Reason | None:
    if rule.type is AlertType.DRIFT:
        return _reason_of_drift(rule, value, effective)
    if rule.metric == "server_error_rate" and rule.operator not in _BELOW and value >= effective.retraining.error_rate:
        return Reason.ERROR_RATE_THRESHOLD
    if rule.metric == "accuracy" and rule.operator in _BELOW:
        return Reason.ACCURACY_DROP
    return None


def _reason_of_drift(rule: Rule, value: float, effective: Effective) -> Reason | None:
    if rule.metric != "effect":
        return None
    if rule.drift_type is DriftType.CONCEPT:
        return Reason.ACCURACY_DROP if value >= effective.drift.accuracy_drop else None
    if rule.drift_type not in _INPUT:
        return None
    large = value >= effect_of_psi(effective.retraining.drift_effect, rule.drift_type)
    return Reason.DRIFT_DETECTED if large else None


def _cause(
    check: DriftCheck,
    reason: Reason,
    metric: str,
    threshold: float,
    results: Sequence[DriftResult],
    effective: Effective,
) -> Cause:
    return Cause(
        model=check.model,
        version=check.version,
        reason=reason,
        details={
            "metric": metric,
            "value": results[0].effect,
            "threshold": threshold,
            "features": [_storable(result.feature) for result in results[:MAX_FEATURES_NAMED]],
            "feature_count": len(results),
            "from_time": check.window.from_time.isoformat(),
            "to_time": check.window.to_time.isoformat(),
            "summary": _storable(check.summary),
        },
        check_id=check.id,
        # Without traffic no later check follows, and what this one saw has left the window by then.
        end_time=check.create_time + effective.drift.interval + effective.drift.window,
    )


def _storable(text: str) -> str:
    """Leave out what a name may hold and jsonb does not."""
    return text.replace("\0", "")

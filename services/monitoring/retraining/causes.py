"""What of all that is found may raise a retraining request. Pure; docs/monitoring.md tells users."""

from __future__ import annotations

import math
from collections.abc import Sequence

from services.monitoring.alerts.models import Alert, AlertType, Operator, Rule
from services.monitoring.configuration.models import RetrainingConfiguration
from services.monitoring.drift.models import DriftCheck, DriftResult, DriftType
from services.monitoring.retraining.models import Cause, Reason

MAX_FEATURES_NAMED = 20
_INPUT = (DriftType.INPUT, DriftType.EMBEDDING)
_RAISING = (*_INPUT, DriftType.CONCEPT)
_BELOW = (Operator.LESS, Operator.LESS_OR_EQUAL)


def of_check(check: DriftCheck, configuration: RetrainingConfiguration) -> Cause | None:
    """Give the cause that lies in a drift check: concept drift before input drift, of the configured effect or more.

    What the model says may drift because the world does, and be right: prediction drift alone raises nothing.
    """
    large = [result for result in check.results if result.drifted and result.effect >= configuration.drift_effect]
    fallen = [result for result in large if result.type is DriftType.CONCEPT]
    drifted = sorted(
        (result for result in large if result.type in _INPUT), key=lambda result: result.effect, reverse=True
    )
    if fallen:
        return _cause(check, Reason.ACCURACY_DROP, "accuracy_drop", fallen, configuration)
    if drifted:
        return _cause(check, Reason.DRIFT_DETECTED, "drift_effect", drifted, configuration)
    return None


def of_alert(alert: Alert, rule: Rule, configuration: RetrainingConfiguration) -> Cause | None:
    """Give the cause that lies in an alert: drift or an error rate of the configured size, or an accuracy too low.

    Other alerts of drift raise nothing themselves, and belong to what their check raises.
    """
    value = alert.value
    if value is None or not math.isfinite(value):
        return None
    reason = _reason(rule, value, configuration)
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


def _reason(rule: Rule, value: float, configuration: RetrainingConfiguration) -> Reason | None:
    if rule.type is AlertType.DRIFT:
        large = rule.metric == "effect" and value >= configuration.drift_effect
        if not large or rule.drift_type not in _RAISING:
            return None
        return Reason.ACCURACY_DROP if rule.drift_type is DriftType.CONCEPT else Reason.DRIFT_DETECTED
    if rule.metric == "error_rate" and rule.operator not in _BELOW and value >= configuration.error_rate:
        return Reason.ERROR_RATE_THRESHOLD
    if rule.metric == "accuracy" and rule.operator in _BELOW:
        return Reason.ACCURACY_DROP
    return None


def _cause(
    check: DriftCheck,
    reason: Reason,
    metric: str,
    results: Sequence[DriftResult],
    configuration: RetrainingConfiguration,
) -> Cause:
    return Cause(
        model=check.model,
        version=check.version,
        reason=reason,
        details={
            "metric": metric,
            "value": results[0].effect,
            "threshold": configuration.drift_effect,
            "features": [_storable(result.feature) for result in results[:MAX_FEATURES_NAMED]],
            "feature_count": len(results),
            "from_time": check.window.from_time.isoformat(),
            "to_time": check.window.to_time.isoformat(),
            "summary": _storable(check.summary),
        },
        check_id=check.id,
    )


def _storable(text: str) -> str:
    """Leave out what a name may hold and jsonb does not."""
    return text.replace("\0", "")

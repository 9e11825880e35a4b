"""Alert rules: what is watched, from where on it is too much, and who is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any, TypeAlias

from penstock.alerts import AlertType, Severity
from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.api.monitoring.v1 import drift_pb2
from penstock.durations import duration_text
from penstock.errors import FieldViolation, InvalidArgument
from penstock.ids import uuid7
from penstock.monitoring_connection import MonitoringConnected, page_size_of
from penstock.paging import pages
from penstock.values import enum_number

Operator: TypeAlias = "pb.Operator.ValueType | str"
"""`>`, `>=`, `<` or `<=`, by number or by name in any case."""
Duration: TypeAlias = "timedelta | str | None"
SIGNS: dict[str, pb.Operator.ValueType] = {
    ">": pb.OPERATOR_GREATER,
    ">=": pb.OPERATOR_GREATER_OR_EQUAL,
    "<": pb.OPERATOR_LESS,
    "<=": pb.OPERATOR_LESS_OR_EQUAL,
}
METRICS: dict[pb.AlertType.ValueType, tuple[str, ...]] = {
    pb.ALERT_TYPE_LATENCY: (
        "average_latency_ms",
        "max_latency_ms",
        "p50_latency_ms",
        "p95_latency_ms",
        "p99_latency_ms",
    ),
    pb.ALERT_TYPE_ERROR_RATE: (
        "error_rate",
        "server_error_rate",
        "error_count",
        "inference_count",
        "throughput_per_s",
        "accuracy",
        "average_confidence",
        "average_feedback_lag_s",
        "feedback_count",
        "judged_count",
    ),
    pb.ALERT_TYPE_DRIFT: (
        "effect",
        "drifted_count",
        "p_value",
        "adjusted_p_value",
        "psi",
        "ks_statistic",
        "ks_p_value",
        "chi_square",
        "chi_square_p_value",
        "wasserstein",
        "jensen_shannon",
    ),
    pb.ALERT_TYPE_DATA_QUALITY: (
        "violation_count",
        "missing_rate",
        "type_rate",
        "schema_rate",
        "range_rate",
        "unknown_category_rate",
        "outlier_rate",
        "not_finite_rate",
        "constant_rate",
        "stale_s",
        "duplicate_rate",
    ),
}
"""What a rule may watch, by its type."""
_ENUMS: dict[str, Any] = {
    "type": pb.AlertType,
    "severity": pb.Severity,
    "missing_data": pb.MissingData,
    "drift_type": drift_pb2.DriftType,
}
_DURATIONS = ("window", "for", "repeat_interval")


class AlertRulesClient(MonitoringConnected):
    """Rules, for all models or for one, or a version of it, where they take the place of the global one of the name."""

    def create(
        self,
        name: str,
        metric: str,
        operator: Operator,
        threshold: float,
        *,
        window: Duration,
        severity: Severity,
        model: str = "",
        version: str = "",
        alert_type: AlertType = None,
        for_: Duration = None,
        drift_type: drift_pb2.DriftType.ValueType | str | None = None,
        feature: str = "",
        error_code: str = "",
        min_count: int = 0,
        missing_data: pb.MissingData.ValueType | str | None = None,
        channels: Iterable[str] = (),
        repeat_interval: Duration = None,
        description: str = "",
        enabled: bool = True,
        request_id: str = "",
    ) -> pb.AlertRule:
        """Make a rule; where nobody knows its model, its `warnings` say so.

        Args:
            name: 1 to 100 characters.
            metric: what is compared; `METRICS` has all.
            operator: how.
            threshold: with what; a rate's is 0 to 1.
            window: over how long the metric is taken: 1 minute to 7 days. Of drift and data quality the latest check
                counts, if it is no older.
            severity: how bad it is.
            model: only this model; empty: every model, each by itself.
            version: only this version; empty: counts of the model as a whole, all else of every version with traffic.
            alert_type: what it watches; None: what the metric says.
            for_: how long the condition must hold before the alert fires: up to 24 hours; None: no time.
            drift_type: of drift only: `input`, `prediction`, `concept` or `embedding`; None: any.
            feature: of drift and data quality: only this feature.
            error_code: of error_rate and error_count: only failures of this code.
            min_count: fewer predictions in the window are no value.
            missing_data: what no value means: `ignore` (as None), `alert` or `resolve`.
            channels: whom to tell, by the channels' names.
            repeat_interval: sent again so often while it fires and nobody has acknowledged it; None: 4 hours.
            description: for people; at most 1,000 characters.
            enabled: a rule that is off is not judged.
            request_id: the same again gives the first result for 7 days; empty: a new one.

        Raises:
            InvalidArgument: the rule makes no sense (INVALID_RULE, CHANNEL_NOT_FOUND); `violations` says where.
            AlreadyExists: there is one of this name for the same model and version (RULE_EXISTS).
        """
        rule = pb.AlertRule(
            name=name,
            enabled=enabled,
            type=enum_number("alert_type", pb.AlertType, alert_type) or type_of(metric),
            severity=enum_number("severity", pb.Severity, severity),
            model=model,
            version=version,
            metric=metric,
            operator=operator_number(operator),
            threshold=threshold,
            window=duration_text(window),
            drift_type=enum_number("drift_type", drift_pb2.DriftType, drift_type),
            feature=feature,
            error_code=error_code,
            min_count=min_count,
            missing_data=enum_number("missing_data", pb.MissingData, missing_data),
            channels=channels,
            repeat_interval=duration_text(repeat_interval),
            description=description,
        )
        setattr(rule, "for", duration_text(for_))
        request = pb.CreateAlertRuleRequest(rule=rule, request_id=request_id or uuid7())
        return self._connection.unary(self._connection.stub.CreateAlertRule, request).rule

    def update(self, rule_id: str, **changes: Any) -> pb.AlertRule:
        """Change what is named of a rule, and leave the rest: `update(id, threshold=250, channels=["ops"])`.

        The names are those of `create` (and `alert_type` for `type`, `for_` for `for`). Somebody else's change in
        between is not overwritten. With another condition or severity its open alerts are resolved: each keeps what it
        fired under, and others begin where the new condition holds.

        Raises:
            NotFound: there is no such rule (RULE_NOT_FOUND).
            Aborted: somebody changed it at the same time (ETAG_MISMATCH).
            InvalidArgument: as of `create`; or there is no such field (UNKNOWN_FIELD).
        """
        return self.replace(changed_rule(self.get(rule_id), changes))

    def replace(self, rule: pb.AlertRule) -> pb.AlertRule:
        """Replace a rule whole, by its id; with its etag only if nobody changed it since."""
        request = pb.UpdateAlertRuleRequest(rule=rule)
        return self._connection.unary(self._connection.stub.UpdateAlertRule, request).rule

    def delete(self, rule_id: str) -> None:
        """Delete a rule: its open alerts are resolved, their history stays. Raises NotFound; never retried."""
        self._connection.unary(self._connection.stub.DeleteAlertRule, pb.DeleteAlertRuleRequest(id=rule_id))

    def get(self, rule_id: str) -> pb.AlertRule:
        """Give a rule; raises NotFound (RULE_NOT_FOUND)."""
        return self._connection.unary(self._connection.stub.GetAlertRule, pb.GetAlertRuleRequest(id=rule_id)).rule

    def list(self, *, model: str = "", version: str = "", limit: int | None = None) -> Iterator[pb.AlertRule]:
        """List rules by name, fetched as they are iterated; of a model or version: those that hold for it."""

        def fetch(token: str) -> pb.ListAlertRulesResponse:
            request = pb.ListAlertRulesRequest(
                model=model, version=version, page_size=page_size_of(limit), page_token=token
            )
            return self._connection.unary(self._connection.stub.ListAlertRules, request)

        return islice((rule for page in pages(fetch) for rule in page.rules), limit)

    def changes(self, *, model: str = "", rule_id: str = "", limit: int | None = None) -> Iterator[pb.AlertRuleChange]:
        """List what was done to rules, the newest first, fetched as they are iterated; of a model's own, or of one.

        Raises:
            NotFound: what is given is no id of any rule (RULE_NOT_FOUND).
        """

        def fetch(token: str) -> pb.ListAlertRuleChangesResponse:
            request = pb.ListAlertRuleChangesRequest(
                model=model, rule_id=rule_id, page_size=page_size_of(limit), page_token=token
            )
            return self._connection.unary(self._connection.stub.ListAlertRuleChanges, request)

        return islice((change for page in pages(fetch) for change in page.changes), limit)


def type_of(metric: str) -> pb.AlertType.ValueType:
    """Say what a rule on a metric watches; UNSPECIFIED where there is no such metric, which the service refuses."""
    return next((kind for kind, metrics in METRICS.items() if metric in metrics), pb.ALERT_TYPE_UNSPECIFIED)


def operator_number(operator: Operator) -> pb.Operator.ValueType:
    """Find an operator by its sign or its name; raises InvalidArgument (UNKNOWN_NAME)."""
    if isinstance(operator, str) and operator in SIGNS:
        return SIGNS[operator]
    return enum_number("operator", pb.Operator, operator)


def changed_rule(rule: pb.AlertRule, changes: dict[str, Any]) -> pb.AlertRule:
    """Give a rule with some of its fields changed; see `AlertRulesClient.update`."""
    changed = pb.AlertRule()
    changed.CopyFrom(rule)
    for said, value in changes.items():
        name = {"alert_type": "type", "for_": "for"}.get(said, said)
        if name not in pb.AlertRule.DESCRIPTOR.fields_by_name:
            sentence = f"a rule has no {said!r}; it has {', '.join(pb.AlertRule.DESCRIPTOR.fields_by_name)}"
            raise InvalidArgument(sentence, reason="UNKNOWN_FIELD", violations=[FieldViolation(said, sentence)])
        changed.ClearField(name)  # type: ignore[arg-type]  # checked above
        changed.MergeFrom(pb.AlertRule(**{name: _field(name, value)}))
    if "metric" in changes and "alert_type" not in changes and "type" not in changes:
        changed.type = type_of(changed.metric)
    return changed


def _field(name: str, value: Any) -> Any:
    if name == "operator":
        return operator_number(value)
    if name in _ENUMS:
        return enum_number(name, _ENUMS[name], value)
    return duration_text(value) if name in _DURATIONS else value

"""Alerts, and the silences that keep them from being sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeAlias

from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.ids import uuid7
from penstock.monitoring_connection import MonitoringConnected, page_size_of
from penstock.paging import pages
from penstock.values import enum_number, to_timestamp

Severity: TypeAlias = "pb.Severity.ValueType | str | None"
"""`critical`, `warning` or `info`, by number or by name in any case."""
AlertType: TypeAlias = "pb.AlertType.ValueType | str | None"
"""`latency`, `error_rate`, `drift` or `data_quality`, by number or by name in any case."""
OPEN = ("pending", "firing")
"""The states of an alert that is not over."""


class AlertsClient(MonitoringConnected):
    """Alerts: a rule's condition holding for a version, from when it began to when it ended."""

    def get(self, alert_id: str) -> pb.Alert:
        """Give an alert with its history; raises NotFound (ALERT_NOT_FOUND)."""
        request = pb.GetAlertRequest(id=alert_id)
        return self._connection.unary(self._connection.stub.GetAlert, request).alert

    def list(
        self,
        *,
        model: str = "",
        version: str = "",
        severity: Severity = None,
        states: Iterable[pb.AlertState.ValueType | str] = (),
        alert_type: AlertType = None,
        limit: int | None = None,
    ) -> Iterator[pb.Alert]:
        """List alerts without their history, the newest first, fetched as they are iterated.

        Args:
            model: only of this model.
            version: only of this version.
            severity: only this one.
            states: only `pending`, `firing` or `resolved`; none: all. `OPEN` are those that are not over.
            alert_type: only this one.
            limit: so many at most; None: all.
        """
        wanted = [enum_number("states", pb.AlertState, state) for state in states]
        how_bad = enum_number("severity", pb.Severity, severity)
        kind = enum_number("alert_type", pb.AlertType, alert_type)

        def fetch(token: str) -> pb.ListAlertsResponse:
            request = pb.ListAlertsRequest(
                model=model,
                version=version,
                severity=how_bad,
                states=wanted,
                type=kind,
                page_size=page_size_of(limit),
                page_token=token,
            )
            return self._connection.unary(self._connection.stub.ListAlerts, request)

        return islice((alert for page in pages(fetch) for alert in page.alerts), limit)

    def acknowledge(self, alert_id: str, *, note: str = "") -> pb.Alert:
        """Say that somebody has it in hand: it is not sent again until it is resolved. Again: the last note counts.

        Raises:
            FailedPrecondition: it is over (ALERT_RESOLVED).
        """
        request = pb.AcknowledgeAlertRequest(id=alert_id, note=note)
        return self._connection.unary(self._connection.stub.AcknowledgeAlert, request).alert


class SilencesClient(MonitoringConnected):
    """Silences: alerts that match are kept, and sent to nobody."""

    def create(
        self,
        until: datetime | timedelta,
        *,
        note: str,
        model: str = "",
        version: str = "",
        rule_name: str = "",
        severity: Severity = None,
        without_version: bool = False,
        begin_time: datetime | None = None,
        request_id: str = "",
    ) -> pb.Silence:
        """Silence alerts that are all of what is given; where nobody knows the model, its `warnings` say so.

        Args:
            until: up to then, or for so long; at most 30 days.
            note: why; required, at most 1,000 characters.
            model: only of this model.
            version: only of this version.
            rule_name: only of the rule of this name.
            severity: only this one.
            without_version: only alerts of the model as a whole, which have no version.
            begin_time: from here on; None: now.
            request_id: the same again gives the first result for 7 days; empty: a new one.

        Raises:
            InvalidArgument: it would end before it began, be too long, or has no note (INVALID_SILENCE).
        """
        end = (begin_time or datetime.now(UTC)) + until if isinstance(until, timedelta) else until
        silence = pb.Silence(
            model=model,
            version=version,
            rule_name=rule_name,
            severity=enum_number("severity", pb.Severity, severity),
            begin_time=to_timestamp("begin_time", begin_time),
            end_time=to_timestamp("until", end),
            note=note,
            without_version=without_version,
        )
        request = pb.CreateSilenceRequest(silence=silence, request_id=request_id or uuid7())
        return self._connection.unary(self._connection.stub.CreateSilence, request).silence

    def end(self, silence_id: str) -> pb.Silence:
        """End a silence now; raises NotFound (SILENCE_NOT_FOUND)."""
        request = pb.EndSilenceRequest(id=silence_id)
        return self._connection.unary(self._connection.stub.EndSilence, request).silence

    def list(self, *, ended: bool = False, limit: int | None = None) -> Iterator[pb.Silence]:
        """List silences, the newest first, fetched as they are iterated; `ended`: those that are over too."""

        def fetch(token: str) -> pb.ListSilencesResponse:
            request = pb.ListSilencesRequest(ended=ended, page_size=page_size_of(limit), page_token=token)
            return self._connection.unary(self._connection.stub.ListSilences, request)

        return islice((silence for page in pages(fetch) for silence in page.silences), limit)

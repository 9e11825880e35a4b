"""Alerts: listed, looked at and acknowledged by people; counted and found by other parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from services.common import pages
from services.common.errors import NotFound
from services.common.keys import caller
from services.monitoring.alerts import life
from services.monitoring.alerts.models import Acknowledgement, Alert, AlertEvent, AlertFilters, OpenCount, Severity
from services.monitoring.alerts.silences import position_of
from services.monitoring.alerts.store.transaction import AlertStore, Tables

Clock = Callable[[], datetime]
DEFAULT_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class ShownAlert:
    """An alert as it is shown: `silenced` now, and its history where one alert was asked for."""

    alert: Alert
    silenced: bool
    history: Sequence[AlertEvent] = ()


class Alerts:
    """See the module."""

    def __init__(self, store: AlertStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def find(self, alert_id: UUID) -> Alert | None:
        """Find an alert; None where there is none, or it was pending and never fired."""
        with self._store.read() as tables:
            return tables.alerts.find(alert_id)

    def open_counts(self) -> list[OpenCount]:
        """Count the alerts that fire, by model and severity."""
        with self._store.read() as tables:
            shown = self._shown(tables, tables.alerts.firing())
        counts: defaultdict[tuple[str, Severity], list[bool]] = defaultdict(list)
        for each in shown:
            attended = each.silenced or each.alert.acknowledgement is not None
            counts[each.alert.target.model, each.alert.severity].append(not attended)
        return [OpenCount(*key, len(unattended), sum(unattended)) for key, unattended in counts.items()]

    def get(self, alert_id: UUID) -> ShownAlert:
        """Give an alert with its history; raises NotFound (ALERT_NOT_FOUND)."""
        with self._store.read() as tables:
            alert = _found(tables.alerts.find(alert_id), alert_id)
            return self._shown(tables, [alert], tables.alerts.history(alert_id))[0]

    def page(self, filters: AlertFilters, *, size: int, token: str) -> tuple[Sequence[ShownAlert], str]:
        """List alerts, the newest first, and the token of the next page; empty on the last.

        Raises:
            InvalidArgument: the size or the token.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = asdict(filters)
        before = position_of(pages.decode(token, bound_to))
        with self._store.read() as tables:
            found = tables.alerts.page(filters, before=before, limit=size + 1)
            shown = self._shown(tables, found[:size])
        return shown, "" if len(found) <= size else pages.encode([str(found[size - 1].id)], bound_to)

    def acknowledge(self, alert_id: UUID, note: str) -> ShownAlert:
        """Say that somebody has taken an alert in hand.

        Raises:
            NotFound: ALERT_NOT_FOUND.
            FailedPrecondition: it has ended (ALERT_RESOLVED).
        """
        with self._store.write() as tables:
            alert = _found(tables.alerts.lock(alert_id), alert_id)
            alert, event = life.acknowledge(alert, Acknowledgement(self._clock(), caller().name, note))
            tables.alerts.save([(alert, [event])])
            return self._shown(tables, [alert])[0]

    def _shown(self, tables: Tables, alerts: Sequence[Alert], history: Sequence[AlertEvent] = ()) -> list[ShownAlert]:
        now = self._clock()
        silences = tables.silences.active(now)
        return [ShownAlert(each, any(silence.covers(each, now) for silence in silences), history) for each in alerts]


def _found(alert: Alert | None, alert_id: UUID) -> Alert:
    if alert is None:
        raise NotFound(
            f"there is no alert {alert_id}: it was pending and went away before it fired, or is past its retention",
            reason="ALERT_NOT_FOUND",
        )
    return alert

"""Keeping what comes of judging: states, history, what is told and who else is to hear, in one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from services.monitoring.alerts.life import Step
from services.monitoring.alerts.models import Alert, AlertState, Rule
from services.monitoring.alerts.notices import due_channels, is_repeat, news_of
from services.monitoring.alerts.store.transaction import Tables
from services.monitoring.notifications.channels import Channels
from services.monitoring.notifications.models import Notification
from services.monitoring.retraining.requests import RetrainingRequests


@dataclass(frozen=True, slots=True)
class Change:
    """A step of an alert of a rule; `before` is the alert as it was, None where there was none."""

    rule: Rule
    before: Alert | None
    step: Step


class Ledger:
    """See the module."""

    def __init__(self, channels: Channels, retraining: RetrainingRequests) -> None:
        self._channels = channels
        self._retraining = retraining

    def write(self, tables: Tables, changes: Iterable[Change], now: datetime) -> None:
        """Keep what changes of alerts, under the locks of their rules.

        All that a channel is to hear of a model goes out as one message. It is in the outbox exactly if the steps are
        kept: neither a crash nor another replica makes it none, or two.
        """
        silences = tables.silences.active(now)
        fired: list[Alert] = []
        saved: list[tuple[Alert, Step]] = []
        told: defaultdict[tuple[str, str], list[Alert]] = defaultdict(list)
        behind = _Behind(tables)
        for change in changes:
            alert = change.step.alert
            if alert is None:
                if change.before is not None:
                    tables.alerts.forget(change.before.id)
                continue
            due = [
                channel
                for channel in due_channels(alert, change.rule, silences, now)
                if not (is_repeat(alert, channel) and behind.is_of(alert.target.model, channel))
            ]
            for channel in due:
                told[alert.target.model, channel].append(alert)
            alert = replace(alert, told={**alert.told, **dict.fromkeys(due, now)}) if due else alert
            saved.append((alert, change.step))
            if change.step.fired:
                fired.append(alert)
        tables.alerts.save((alert, step.events) for alert, step in saved)
        for alert in fired:
            self._retraining.consider_alert(tables.connection, alert)
        self._tell(tables, told)

    def _tell(self, tables: Tables, told: dict[tuple[str, str], list[Alert]]) -> None:
        """Put a message a model and channel; a channel that was deleted since hears nothing more."""
        there = tables.rules.channels_there({channel for _, channel in told}) if told else set()
        for (_, channel), alerts in told.items():
            if channel in there:
                alerts.sort(key=lambda each: (each.state is not AlertState.FIRING, -each.severity.value))
                news = [news_of(alert, channel) for alert in alerts]
                self._channels.notify(tables.connection, [channel], Notification(news))


class _Behind:
    """Which channels have not heard yet what was put before, asked for once and only where something is to be repeated.

    A receiver that was away for a day is not to hear a day of repeats: the newest follows once the first has arrived.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._waiting: frozenset[tuple[str, str]] | None = None

    def is_of(self, model: str, channel: str) -> bool:
        """Say whether something of a model waits for a channel."""
        if self._waiting is None:
            self._waiting = self._tables.alerts.waiting()
        return (model, channel) in self._waiting

"""Keeping what comes of judging: states, history, what is told and who else is to hear, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from services.monitoring.alerts.life import Step
from services.monitoring.alerts.models import Alert, AlertState, Rule
from services.monitoring.alerts.notices import is_due, news_of
from services.monitoring.alerts.store.transaction import Tables
from services.monitoring.notifications.channels import Channels
from services.monitoring.notifications.models import Notification
from services.monitoring.retraining.requests import RetrainingRequests


class Ledger:
    """See the module."""

    def __init__(self, channels: Channels, retraining: RetrainingRequests) -> None:
        self._channels = channels
        self._retraining = retraining

    def write(self, tables: Tables, rule: Rule, steps: Iterable[tuple[Alert | None, Step]], now: datetime) -> None:
        """Keep steps of a rule's alerts, each with the alert before it, under the lock of the rule.

        What is to be told goes out as one message a channel. It is in the outbox exactly if the step is kept: neither
        a crash nor another replica makes it none, or two.
        """
        silences = tables.silences.active(now)
        told: list[Alert] = []
        for before, step in steps:
            alert = step.alert
            if alert is None:
                if before is not None:
                    tables.alerts.forget(before.id)
                continue
            if rule.channels and is_due(alert, rule, silences, now):
                told.append(alert)
                alert = replace(alert, send_time=now)
            tables.alerts.save(alert, step.events)
            if step.fired:
                self._retraining.consider_alert(tables.connection, alert)
        if told:
            told.sort(key=lambda each: each.state is not AlertState.FIRING)
            self._channels.notify(tables.connection, rule.channels, Notification([news_of(each) for each in told]))

"""Replicas that judge alert rules over a real PostgreSQL, on what a test says is read, by a clock that it sets."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from prometheus_client import CollectorRegistry

from penstock.ids import uuid7
from services.common.addresses import AddressRules, AllowedHosts
from services.common.outbox import Outbox
from services.common.outbox.webhooks import Webhooks
from services.common.postgres import Database
from services.common.sealing import Seal
from services.monitoring.alerts.alerts import Alerts
from services.monitoring.alerts.evaluation import Evaluation
from services.monitoring.alerts.keeping import Keeping
from services.monitoring.alerts.ledger import Ledger
from services.monitoring.alerts.metrics import JudgingMetrics
from services.monitoring.alerts.models import Alert, AlertFilters, RequestKey, Rule, RuleDraft, SilenceDraft
from services.monitoring.alerts.rules import Rules
from services.monitoring.alerts.silences import Silences
from services.monitoring.alerts.store.transaction import AlertStore
from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.store import ConfigurationStore
from services.monitoring.models import Retention
from services.monitoring.notifications.apprise_sender import AppriseSender
from services.monitoring.notifications.channels import Channels
from services.monitoring.notifications.senders import Senders
from services.monitoring.notifications.store import ChannelStore
from services.monitoring.retraining.requests import RetrainingRequests
from services.monitoring.retraining.store.causes import CauseStore
from services.monitoring.retraining.store.labels import LabelStore
from services.monitoring.retraining.store.related import RelatedRequests
from services.monitoring.retraining.store.requests import RequestStore
from services.monitoring.store.chores import ChoreStore
from tests.alerting import NOON, Readings

GAP = timedelta(minutes=1)
_CHANNEL = """
INSERT INTO monitoring.channels (name, kind, shown_url, plain, updated_by)
VALUES (%(name)s, 'webhook', 'https://receiver.test', '{}', 'ada') ON CONFLICT DO NOTHING
"""
_TAKE = """
INSERT INTO monitoring.chores (name, holder, lease_time) VALUES ('alerts', %(holder)s, now() + interval '1 minute')
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lease_time = excluded.lease_time
"""


@dataclass
class SetClock:
    """A clock that shows what it is set to."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        """Tell the time."""
        return self.now

    def forward(self, span: timedelta) -> None:
        """Let time pass."""
        self.now += span


class Replica:
    """One monitoring process, as far as alerts go. Replicas share a database, or a clock, as a test has it."""

    def __init__(self, database: Database, readings: Readings, clock: SetClock) -> None:
        self.database, self.readings, self.clock = database, readings, clock
        store = AlertStore(database)
        self.configurations = configurations = Configurations(ConfigurationStore(database), clock)
        rules = AddressRules(AllowedHosts.parse(""))
        senders = Senders(rules, Webhooks(rules, ca_file=None), AppriseSender("", 1), frozenset())
        self.channels = Channels(
            database, ChannelStore(database), Outbox(database, "monitoring"), Seal(None), senders, senders, clock
        )
        retraining = RetrainingRequests(
            RequestStore(database),
            RelatedRequests(database),
            CauseStore(database),
            LabelStore(database),
            configurations,
            Retention(30),
            clock,
            lambda: None,
        )
        ledger = Ledger(self.channels, retraining)
        self.rules = Rules(store, self.channels, configurations, ledger, clock)
        self.channels.keep_while(self.rules.naming)
        configurations.also_check(self.rules.blinded)
        self.alerts = Alerts(store, clock)
        self.silences = Silences(store, clock)
        self.registry = CollectorRegistry()
        metrics = JudgingMetrics(self.registry)
        self.evaluation = Evaluation(store, readings.sources, configurations, ledger, metrics, clock, longest_gap=GAP)
        self.keeping = Keeping(store, clock, kept=timedelta(days=365))

    def new_turn(self) -> Turn:
        """A turn that nobody ends, and nobody's but this replica's: a lease that another has is taken from it."""
        holder = uuid4()
        self.execute(_TAKE, holder=holder)
        return Turn(ChoreStore(self.database), "alerts", holder, threading.Event())

    def turn(self, after: timedelta = timedelta()) -> None:
        """Judge every rule, some time later."""
        self.clock.forward(after)
        self.evaluation.take(self.new_turn())

    def create(self, draft: RuleDraft) -> Rule:
        """Make a rule, and the channels that it tells."""
        for channel in draft.channels:
            self.create_channel(channel)
        return self.rules.create(draft, RequestKey("ada", "CreateAlertRule", "", ""))

    def create_channel(self, name: str) -> None:
        """Make a channel, where there is none of that name."""
        self.execute(_CHANNEL, name=name)

    def silence(self, length: timedelta, **matching: Any) -> UUID:
        """Silence alerts from now on."""
        given: dict[str, Any] = {"model": "", "version": "", "rule_name": "", "severity": None, **matching}
        made = SilenceDraft(**given, begin_time=None, end_time=self.clock.now + length, note="maintenance")
        return self.silences.create(made, RequestKey("ada", "CreateSilence", "", "")).id

    def listed(self) -> list[Alert]:
        """Give all alerts, the newest first."""
        shown, _ = self.alerts.page(AlertFilters(), size=1_000, token="")
        return [each.alert for each in shown]

    def states(self) -> list[str]:
        """Give the states of all alerts, the oldest first."""
        return [alert.state.name for alert in reversed(self.listed())]

    def sent(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Give what was told, in order: to which channel, and of each alert its version and how it stands."""
        rows = self.execute("SELECT destination, body FROM monitoring.outbox ORDER BY put_number")
        return [(row["destination"], [_told(alert) for alert in json.loads(row["body"])["alerts"]]) for row in rows]

    def deliver(self) -> None:
        """Have all that waits arrive."""
        self.execute("UPDATE monitoring.outbox SET state = 'DELIVERED', end_time = now() WHERE state = 'WAITING'")

    def execute(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        """Look into the database, or change something in it."""
        with self.database.transaction() as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []


def _told(alert: dict[str, Any]) -> tuple[str, str]:
    state = "REPEATED" if alert["repeated"] else alert["state"]
    return f"{alert['model']} {alert['version']}".strip(), f"FLAPPING {state}" if alert["flapping"] else state


def an_id() -> UUID:
    """An id that nothing has."""
    return UUID(uuid7(datetime(2026, 1, 1, tzinfo=UTC)))

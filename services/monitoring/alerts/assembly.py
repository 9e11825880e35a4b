"""Putting this part of monitoring together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from threading import BoundedSemaphore

from services.common.server import Service
from services.monitoring.alerts.alerts import Alerts
from services.monitoring.alerts.doubts import AlertDoubts
from services.monitoring.alerts.evaluation import Evaluation
from services.monitoring.alerts.keeping import Keeping
from services.monitoring.alerts.ledger import Ledger
from services.monitoring.alerts.metrics import JudgingMetrics
from services.monitoring.alerts.registered import Registered
from services.monitoring.alerts.rules import Rules
from services.monitoring.alerts.servicer import service
from services.monitoring.alerts.silences import Silences
from services.monitoring.alerts.sources import Sources
from services.monitoring.alerts.store.transaction import AlertStore
from services.monitoring.configuration.doubts import Doubts
from services.monitoring.configuration.store import FeatureStore
from services.monitoring.parts import Parts
from services.monitoring.registry_reader import RegistryReader

KEEPING_INTERVAL_S = 3_600.0
_MIN_GAP = timedelta(minutes=1)


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, add its chores, and give what it serves."""
    settings, clock = parts.settings, parts.clock
    store = AlertStore(parts.database)
    ledger = Ledger(parts.channels, parts.retraining)
    rules = Rules(store, parts.channels, parts.configurations, ledger, clock)
    parts.channels.keep_while(rules.naming)
    parts.configurations.also_check(rules.blinded)
    parts.alerts = Alerts(store, clock)
    interval = timedelta(milliseconds=settings.alert_interval_ms)
    ask = partial(RegistryReader, parts.client, BoundedSemaphore(1), with_trainer=False)
    sources = Sources(parts.totals, parts.drift, parts.quality, Registered(ask))
    metrics = JudgingMetrics(parts.registry)
    evaluation = Evaluation(
        store, sources, parts.configurations, ledger, metrics, clock, longest_gap=max(4 * interval, _MIN_GAP)
    )
    parts.chores.add("alerts", evaluation.take, interval_s=interval.total_seconds())
    keeping = Keeping(store, clock, kept=timedelta(days=settings.alert_retention_days))
    parts.chores.add("alerts.keeping", keeping.take, interval_s=KEEPING_INTERVAL_S)
    doubts = AlertDoubts(Doubts(parts.known_models, FeatureStore(parts.database)), rules)
    return (service(rules, parts.alerts, Silences(store, clock), doubts),)

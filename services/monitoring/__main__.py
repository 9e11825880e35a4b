"""Monitoring's process: `python -m services.monitoring` serves; with `migrate` it only brings its schema up to date."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from penstock.api.monitoring.v1 import monitoring_pb2_grpc
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.migrate import migrate
from services.common.postgres import Database
from services.common.process import run
from services.common.server import Server, Service
from services.common.traces import open_traces
from services.monitoring.chores import Chores
from services.monitoring.composition import assemble
from services.monitoring.counters import IngestCounters
from services.monitoring.events import EventLog
from services.monitoring.feedback import FeedbackLog
from services.monitoring.inferences import Inferences
from services.monitoring.models import Retention
from services.monitoring.parts import Parts
from services.monitoring.quarantine import Quarantine
from services.monitoring.retention import KEEP, keep_days
from services.monitoring.servicer import ENDLESS, NAME, ROLES, MonitoringServicer
from services.monitoring.settings import MonitoringSettings
from services.monitoring.store.chores import ChoreStore
from services.monitoring.store.days import Days
from services.monitoring.store.events import EventStore
from services.monitoring.store.feedback import FeedbackStore
from services.monitoring.store.inferences import InferenceStore
from services.monitoring.store.present import DatabaseClock
from services.monitoring.store.quarantine import QuarantineStore

SCHEMA = "monitoring"
MIGRATIONS = Path(__file__).with_name("migrations")


def migrate_schema(settings: MonitoringSettings) -> tuple[str, ...]:
    """Bring the schema up to date; names what was applied."""
    return migrate(settings.database_url.get_secret_value(), SCHEMA, MIGRATIONS)


def build(settings: MonitoringSettings, stack: ExitStack) -> Server:
    """Build monitoring on what its settings name; what is opened on the way, the stack closes."""
    keys = KeyRing(settings.keys_file)
    keys.open()
    database = stack.enter_context(Database.from_settings(settings, name="penstock-monitoring"))
    days, retention = Days(database), Retention(settings.retention_days)
    metrics = MetricsServer(settings.host, settings.metrics_port)
    chores = Chores(ChoreStore(database))
    kept = timedelta(days=settings.retention_days)
    chores.add(KEEP, lambda _: keep_days(days, kept), interval_s=settings.retention_interval_ms / 1000)
    parts = Parts(settings, stack, database, utc_now, retention, days, chores, metrics.registry)
    services = assemble(parts)
    chores.open()
    stack.callback(chores.close)
    events = EventStore(database, days, quarantine_max_events=settings.quarantine_max_events)
    present = DatabaseClock(database)
    servicer = MonitoringServicer(
        EventLog(events, retention, IngestCounters(metrics.registry), present),
        FeedbackLog(FeedbackStore(database, days), retention, present),
        Inferences(InferenceStore(database), parts.metrics, retention, utc_now),
        parts.known_models,
        Quarantine(QuarantineStore(database)),
    )
    service = Service(
        name=NAME,
        register=partial(monitoring_pb2_grpc.add_MonitoringServiceServicer_to_server, servicer),
        roles=ROLES,
        endless=ENDLESS,
    )
    traces = open_traces("monitoring", settings, stack)
    return Server(settings, (service, *services), keys=keys, metrics=metrics, checks=(database.check,), traces=traces)


def utc_now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(run("monitoring", sys.argv[1:], MonitoringSettings, build, migrate=migrate_schema))

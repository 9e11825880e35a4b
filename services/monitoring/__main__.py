"""The monitoring process: `python -m services.monitoring` migrates and serves, `… migrate` only migrates."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from penstock.api.monitoring.v1.monitoring_pb2_grpc import add_MonitoringServiceServicer_to_server
from services.common import logs
from services.common.errors import DomainError
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.migrate import migrate
from services.common.postgres import Database
from services.common.server import Server, Service
from services.monitoring.counters import IngestCounters
from services.monitoring.events import EventLog
from services.monitoring.feedback import FeedbackLog
from services.monitoring.inferences import Inferences
from services.monitoring.models import Retention
from services.monitoring.retention import DayKeeper
from services.monitoring.servicer import ENDLESS, NAME, ROLES, MonitoringServicer
from services.monitoring.settings import MonitoringSettings
from services.monitoring.store.days import Days
from services.monitoring.store.events import EventStore
from services.monitoring.store.feedback import FeedbackStore
from services.monitoring.store.inferences import InferenceStore

MIGRATIONS = Path(__file__).parent / "migrations"
_log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


def open_server(settings: MonitoringSettings, stack: ExitStack) -> tuple[Server, int]:
    """Build and open everything, closed in reverse by `stack`; returns the server and its gRPC port."""
    database = stack.enter_context(Database.from_settings(settings, name="penstock-monitoring"))
    days = Days(database)
    retention = Retention(settings.retention_days)
    keeper = DayKeeper(days, retention, utc_now, interval_s=settings.retention_interval_ms / 1000)
    keeper.open()
    stack.callback(keeper.close)
    keys = KeyRing(settings.keys_file)
    keys.open()
    metrics = MetricsServer(settings.host, settings.metrics_port)
    events = EventStore(database, days, quarantine_max_events=settings.quarantine_max_events)
    servicer = MonitoringServicer(
        EventLog(events, retention, IngestCounters(metrics.registry), utc_now),
        FeedbackLog(FeedbackStore(database, days), retention, utc_now),
        Inferences(InferenceStore(database), retention, utc_now),
    )
    service = Service(
        name=NAME,
        register=partial(add_MonitoringServiceServicer_to_server, servicer),
        roles=ROLES,
        endless=ENDLESS,
    )
    server = Server(settings, [service], keys=keys, metrics=metrics, checks=(database.check,))
    port = server.open()
    stack.callback(server.close)
    return server, port


def main(arguments: Sequence[str]) -> int:
    """Run the process; returns its exit code."""
    if list(arguments) not in ([], ["migrate"]):
        sys.stderr.write("usage: python -m services.monitoring [migrate]\n")
        return 2
    settings = MonitoringSettings()  # type: ignore[call-arg] # pydantic-settings reads the rest from the environment
    logs.configure("monitoring", settings.log_level)
    try:
        for name in migrate(settings.database_url.get_secret_value(), "monitoring", MIGRATIONS):
            _log.info("migrated", migration=name)
        if not arguments:
            with ExitStack() as stack:
                server, _ = open_server(settings, stack)
                server.wait()
    except DomainError as error:
        _log.error("not started", reason=error.reason, message=error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What tests of live profiles ask a service, its store and the chore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from services.common.postgres import Database
from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.store import ConfigurationStore
from services.monitoring.models import Retention
from services.monitoring.profiles.live import Recounts
from services.monitoring.profiles.references import References
from services.monitoring.profiles.store.live import LiveStore
from services.monitoring.profiles.store.profiles import ProfileStore
from services.monitoring.store.days import Days, by_time
from tests.profiles import Service, iris_columns, iris_csv

NEVER = {"profile_interval_ms": 3_600_000, "rollup_interval_ms": 3_600_000}
AGE_S = 900.0


@contextmanager
def store_of(service: Service) -> Iterator[LiveStore]:
    with Database(service.monitoring.database_url, pool_size=4) as database:
        yield LiveStore(database, Days(database, [by_time("live_profiles")]))


def execute(service: Service, statement: str, *values: object) -> None:
    with psycopg.connect(service.monitoring.database_url, autocommit=True) as connection:
        connection.execute(statement.encode(), values)


def marks(service: Service) -> int:
    return int(service.monitoring.query("SELECT count(*) FROM monitoring.profile_marks")[0][0])


def settled(service: Service) -> bool:
    """Whether all is counted that a new profile has had marked."""
    waiting = service.monitoring.query(
        "SELECT (SELECT count(*) FROM monitoring.profile_marks), (SELECT count(recount_day) FROM "
        "monitoring.profile_attachments), (SELECT count(*) FROM monitoring.chores WHERE name = 'profiles' "
        "AND lease_time > now())"
    )
    return waiting == [(0, 0, 0)]


def mark_all(service: Service) -> None:
    """Mark what has been counted, as the rollups do when more of it comes."""
    execute(
        service,
        "INSERT INTO monitoring.profile_marks SELECT model, version, start_time FROM monitoring.live_profiles",
    )


def iris(service: Service, **more: Any) -> pb.Profile:
    return service.upload(iris_csv(), columns=iris_columns(), **more)


def rows(service: Service, profile: pb.Profile) -> int:
    return service.live(profile.id).row_count


class _Going(Turn):
    def __init__(self) -> None:
        """Of nobody: there is no lease."""

    def renew(self) -> bool:
        return True


def turn() -> Turn:
    return _Going()


def recounts_of(service: Service, store: LiveStore, *, now: datetime | None = None) -> Recounts:
    stack = ExitStack()
    database = stack.enter_context(Database(service.monitoring.database_url, pool_size=2))
    return Recounts(
        store,
        References(ProfileStore(database)),
        Configurations(ConfigurationStore(database), lambda: datetime.now(UTC)),
        Retention(30),
        Days(database, [by_time("live_profiles")]),
        lambda: now or datetime.now(UTC),
        retention_days=90,
        open_interval=timedelta(minutes=1),
    )

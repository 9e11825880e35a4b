"""Drift by schedule, over its socket: who checks when, how often, and of what that is counted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc
import psycopg
import pytest

from penstock.api.monitoring.v1 import drift_pb2 as pb
from penstock.api.monitoring.v1 import profiles_pb2
from tests.drift import OFTEN, connected, rows
from tests.monitoring import eventually, reason, serve

pytestmark = pytest.mark.slow
INVALID = grpc.StatusCode.INVALID_ARGUMENT
DRIFTED = pb.DRIFT_STATUS_DRIFTED


def test_two_replicas_check_by_schedule_once_and_at_a_stricter_level(clone_database: Callable[[str], str]) -> None:
    database_url = clone_database("monitoring")
    with (
        serve(database_url, **OFTEN) as monitoring,
        serve(database_url, **OFTEN),
        connected(monitoring) as drift,
    ):
        drift.send(rows(300, 2, shift=2.0))
        drift.profile(rows(2_000, 1))
        eventually(lambda: len(drift.listed().checks) > 0)
        # Each replica looks for what is due twenty times a second; several turns of both are waited for.
        turns = "SELECT lease_time FROM monitoring.chores WHERE name = 'drift'"
        seen = set()

        def several() -> bool:
            seen.add(monitoring.query(turns)[0])
            return len(seen) > 5

        eventually(several)
        (check,) = drift.listed().checks
        assert check.trigger == pb.TRIGGER_SCHEDULE
        assert check.alpha == pytest.approx(0.25 / 91)
        assert drift.stub.GetDriftCheck(pb.GetDriftCheckRequest(id=check.id)).check.results
        due = "SELECT due_time > now() + interval '5 hours' FROM monitoring.drift_schedule"
        assert monitoring.query(due) == [(True,)]


def test_a_check_whose_time_has_come_again_is_made_again(clone_database: Callable[[str], str]) -> None:
    with serve(clone_database("monitoring"), **OFTEN) as monitoring, connected(monitoring) as drift:
        drift.send(rows(300, 2, shift=2.0))
        drift.profile(rows(2_000, 1))
        eventually(lambda: drift.counted(300).status == DRIFTED)

        def scheduled() -> list[pb.DriftCheck]:
            return [check for check in drift.listed().checks if check.trigger == pb.TRIGGER_SCHEDULE]

        eventually(lambda: len(scheduled()) == 1)
        with psycopg.connect(monitoring.database_url) as connection:
            connection.execute("UPDATE monitoring.drift_schedule SET due_time = now() - interval '1 second'")
        eventually(lambda: len(scheduled()) == 2)
        assert scheduled()[0].status == DRIFTED


def test_no_interval_is_spent_on_a_check_of_what_is_not_counted_yet(clone_database: Callable[[str], str]) -> None:
    """After an outage, a restart or an attachment another replica may count for a while: here one that is stuck."""
    with serve(clone_database("monitoring"), **OFTEN) as monitoring, connected(monitoring) as drift:
        held = """
        INSERT INTO monitoring.chores
        SELECT name, gen_random_uuid(), now() + interval '1 hour' FROM unnest('{rollups,profiles}'::text[]) AS name
        ON CONFLICT (name) DO UPDATE SET lease_time = excluded.lease_time, holder = excluded.holder
        """
        with psycopg.connect(monitoring.database_url) as connection:
            connection.execute(held)
        drift.send(rows(300, 2, shift=2.0))
        drift.profile(rows(2_000, 1))
        waiting = "SELECT wait_time IS NOT NULL FROM monitoring.drift_schedule"
        eventually(lambda: monitoring.query(waiting) == [(True,)])
        assert not drift.listed().checks
        with psycopg.connect(monitoring.database_url) as connection:
            connection.execute("UPDATE monitoring.chores SET lease_time = now() WHERE name IN ('rollups', 'profiles')")
        eventually(lambda: len(drift.listed().checks) == 1)
        (check,) = drift.listed().checks
        assert (check.trigger, check.status) == (pb.TRIGGER_SCHEDULE, DRIFTED)
        assert monitoring.query(waiting) == [(False,)]


def test_the_next_check_by_schedule_may_be_made_before_its_time(clone_database: Callable[[str], str]) -> None:
    with serve(clone_database("monitoring"), **OFTEN) as monitoring, connected(monitoring) as drift:
        drift.send(rows(300, 2, shift=2.0))
        drift.profile(rows(2_000, 1))
        eventually(lambda: drift.counted(300).status == DRIFTED)
        eventually(lambda: monitoring.query("SELECT count(*) FROM monitoring.drift_schedule") == [(1,)])
        waiting = "SELECT FROM monitoring.rollup_marks WHERE granularity = 1"
        waiting += " UNION ALL SELECT FROM monitoring.profile_marks"
        eventually(lambda: monitoring.query(waiting) == [])
        check = drift.check(as_scheduled=True)
        assert (check.trigger, check.status) == (pb.TRIGGER_SCHEDULE, DRIFTED)
        assert check.alpha == pytest.approx(0.25 / 91)
        last = "SELECT check_id::text, due_time > now() + interval '5 hours 59 minutes' FROM monitoring.drift_schedule"
        assert monitoring.query(last) == [(check.id, True)], "rules judge it, and the next comes a whole interval later"
        for end in ("from_time", "to_time"):
            window: dict[str, Any] = {end: datetime.now(UTC)}
            asked = partial(drift.check, as_scheduled=True, **window)
            assert reason(asked) == (INVALID, "INVALID_WINDOW")
        drift.send(rows(60, 4), version="2.0.0")
        drift.profiles.AttachProfile(profiles_pb2.AttachProfileRequest(id=check.profile_id, version="2.0.0"))
        eventually(lambda: drift.check(as_scheduled=True).alpha == pytest.approx(0.125 / 91))

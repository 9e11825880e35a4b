"""Alerts when processes die, the database goes away and clocks are wrong: one alert, and each change told once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Aborted, DomainError, NotFound, Unavailable
from services.common.postgres import Database
from services.monitoring.models import Window
from services.monitoring.rollups.totals import EveryTotal
from tests.alert_replicas import Replica, SetClock
from tests.alerting import HOUR, IRIS, MINUTE, SECOND, Readings, counted, draft
from tests.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
TURN = 15 * SECOND
CloneDatabase = Callable[[str], str]
OPEN_WITHOUT_A_RULE = """
SELECT count(*) AS count FROM monitoring.alerts
WHERE state <> 'RESOLVED' AND rule_id NOT IN (SELECT rule_id FROM monitoring.alert_rules)
"""


@pytest.fixture
def url(clone_database: CloneDatabase) -> str:
    return clone_database("monitoring")


@pytest.fixture
def replica(url: str) -> Iterator[Replica]:
    """A replica that sees no error yet, and a rule about them that tells one channel."""
    with Database(url, pool_size=6) as database:
        made = Replica(database, Readings({IRIS: counted(0)}), SetClock())
        made.execute("DELETE FROM monitoring.alert_rules")
        made.create(draft(channels=("ops",)))
        yield made


@pytest.mark.slow  # a process a place
@pytest.mark.parametrize("where", ["telling", "kept"])
def test_a_kill_in_mid_turn_loses_no_message_and_makes_no_second(url: str, replica: Replica, where: str) -> None:
    for told, (errors, state) in enumerate(((50, "FIRING"), (0, "RESOLVED"))):
        now = replica.clock.now.isoformat()
        command = [sys.executable, "-m", "tests.faults.alert_judge", url, where, str(errors), now]
        killed = subprocess.run(command, cwd=ROOT, timeout=240, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(replica.sent()) == told + (where == "kept")
        replica.readings.counts[IRIS] = counted(errors)
        replica.turn(TURN)
        assert replica.states() == [state]
        assert replica.sent()[-1] == ("ops", [("iris 1.0.0", state)])
        assert len(replica.sent()) == told + 1


@pytest.mark.slow  # PostgreSQL is stopped and started
def test_a_database_that_goes_away_in_mid_turn_leaves_nothing_half_done(own_postgres_server: PostgresServer) -> None:
    with Database(own_postgres_server.clone("monitoring"), pool_size=4, pool_wait_s=0.5) as database:
        replica = Replica(database, Readings({IRIS: counted(50)}), SetClock())
        replica.execute("DELETE FROM monitoring.alert_rules")
        replica.create(draft(channels=("ops",)))  # durable, though this server is told to forget
        put = replica.channels.notify

        def put_and_cut(*given: Any) -> None:
            put(*given)
            own_postgres_server.stop()

        replica.channels.notify = put_and_cut  # type: ignore[method-assign, assignment] # cut where it hurts most
        for _ in range(2):
            with pytest.raises(Unavailable):
                replica.turn()
        replica.channels.notify = put  # type: ignore[method-assign] # as it was
        own_postgres_server.start()
        _until_it_answers(replica)
        assert (replica.states(), len(replica.sent())) == (["FIRING"], 1)


def _until_it_answers(replica: Replica) -> None:
    for _ in range(100):
        with suppress(Unavailable):
            replica.turn(TURN)
            return
    pytest.fail("the database did not come back")


def test_rules_that_are_deleted_and_changed_while_replicas_judge_leave_no_alert_behind(replica: Replica) -> None:
    """Whoever comes first: no open alert is without its rule, or there twice, and each end that is told had a begin."""
    replica.readings.counts[IRIS] = counted(50)
    stop = threading.Event()

    def judge() -> int:
        turns, own = 0, Replica(replica.database, replica.readings, replica.clock)
        while not stop.is_set():
            with suppress(Aborted):
                own.turn()
            turns += 1
        return turns

    with ThreadPoolExecutor(2) as pool:
        judges = [pool.submit(judge) for _ in range(2)]
        for number in range(30):
            (rule,), _ = replica.rules.page("", "", size=0, token="")
            with suppress(Aborted):
                replica.rules.update(rule.id, draft(channels=("ops",), enabled=number % 3 > 0), "")
            replica.rules.delete(rule.id)
            assert replica.execute(OPEN_WITHOUT_A_RULE) == [{"count": 0}]
            with pytest.raises(NotFound):
                replica.rules.delete(rule.id)
            replica.create(draft(channels=("ops",)))
        stop.set()
        assert all(each.result(60) for each in judges)
    standing = 0
    for _, told in replica.sent():
        for _, state in told:
            standing += 1 if state.endswith("FIRING") else -1
            assert standing in (0, 1)


@pytest.mark.parametrize("ahead", [timedelta(days=400), -timedelta(days=400), 40 * SECOND, -40 * SECOND])
def test_a_replica_with_a_wrong_clock_fires_nothing_early_and_if_only_a_little_wrong_tells_nothing_twice(
    replica: Replica, ahead: timedelta
) -> None:
    replica.create(draft(name="waits", hold=10 * MINUTE, channels=("slack",), repeat_interval=timedelta(days=7)))
    wrong = Replica(replica.database, replica.readings, SetClock(replica.clock.now + ahead))
    replica.readings.counts[IRIS] = counted(50)
    for number in range(8):
        with suppress(DomainError):
            (wrong if number % 2 else replica).turn(MINUTE)
    told = [channel for channel, _ in replica.sent()]
    assert "slack" not in told
    if abs(ahead) < HOUR:
        assert told == ["ops"]


class Cut(Readings):
    """Metrics that can't be read."""

    def every(self, window: Window, *, latencies: bool) -> EveryTotal:
        """Be away."""
        raise Unavailable("the database is away", reason="DATABASE_UNAVAILABLE")


def test_an_outage_of_what_is_read_resolves_nothing(replica: Replica) -> None:
    replica.readings.counts[IRIS] = counted(50)
    replica.turn()
    blind = Replica(replica.database, Cut(replica.readings.counts), replica.clock)
    with pytest.raises(Unavailable):
        blind.turn(TURN)
    assert replica.states() == ["FIRING"]

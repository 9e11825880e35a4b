"""Rollups when data comes late, replicas race, days are gone, PostgreSQL stops, or they are killed: always right."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.ids import time_of
from services.common.errors import Unavailable
from services.monitoring.models import FeedbackReport
from services.monitoring.retention import keep_days
from services.monitoring.rollups.models import FINEST_FIRST
from services.monitoring.rollups.plan import SETTLE
from services.monitoring.store import days
from services.monitoring.store.days import Days
from services.monitoring.store.feedback import _append
from tests.monitoring import Monitoring, eventually, labels, new_event, serve
from tests.postgres import PostgresServer
from tests.rollups import Rollups, leave_to_the_test, lock_day, rollups

ROOT = Path(__file__).resolve().parents[2]
FIVE, HOUR, DAY = FINEST_FIRST
CloneDatabase = Callable[[str], str]


@pytest.fixture
def url(clone_database: CloneDatabase) -> str:
    return clone_database("monitoring")


@pytest.fixture
def monitoring(url: str) -> Iterator[Monitoring]:
    """A service that leaves the rollups to the test."""
    leave_to_the_test(url)
    with serve(url) as running:
        yield running


@pytest.fixture
def rolled(url: str) -> Iterator[Rollups]:
    with rollups(url) as found:
        yield found


@contextmanager
def held(url: str, event: pb.InferenceEvent) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Let recounts of this event's day count, and not write: they wait for a lock until the block ends."""
    with closing(psycopg.connect(url)) as blocker:
        lock_day(blocker, url, time_of(event.inference_id))
        yield blocker


def waiting(url: str, what: str = 'INSERT INTO monitoring."rollups%') -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE ltrim(query, E'\\n') LIKE %s AND wait_event_type = 'Lock'",
            [what],
        )
        return int((found.fetchone() or (0,))[0])


def counted(rolled: Rollups) -> int:
    return sum(row["inference_count"] for row in rolled.rows(FIVE))


def test_what_comes_while_its_bucket_is_counted_is_counted_next(
    monitoring: Monitoring, rolled: Rollups, url: str
) -> None:
    first, late = (new_event(age_s=7_200, prediction=labels(1)) for _ in range(2))
    late.inference_id = first.inference_id[:-1] + ("0" if first.inference_id[-1] != "0" else "1")
    monitoring.record(first)
    rolled.recount()
    monitoring.record(new_event(inference_id=first.inference_id[:-2] + "ff"))
    with ThreadPoolExecutor(1) as pool:
        with held(url, first):
            running = pool.submit(rolled.recount)
            eventually(lambda: waiting(url) == 1)
            assert monitoring.record(late) == ["STORED"]
            monitoring.feedback(first.inference_id, actual=1)
        running.result(60)
    rolled.recount()
    assert rolled.marks() == 0
    assert counted(rolled) == 3
    assert rolled.total(hours=3).counts.correct_count == 1


def test_two_replicas_that_count_the_same_bucket_at_once_count_it_once(
    monitoring: Monitoring, rolled: Rollups, url: str
) -> None:
    event = new_event(age_s=7_200)
    monitoring.record(event, *(new_event(age_s=7_200) for _ in range(20)))
    rolled.keep()
    with rollups(url) as other, ThreadPoolExecutor(2) as pool:
        with held(url, event):
            replicas = [pool.submit(one.recount) for one in (rolled, other)]
            eventually(lambda: waiting(url) == 1 and waiting(url, "DELETE FROM monitoring.rollup_marks%") == 1)
        for running in replicas:
            running.result(60)
    assert counted(rolled) == 21
    assert rolled.marks() == 0
    assert [row["inference_count"] for row in rolled.rows(DAY)] in ([21], [])


def test_many_replicas_and_senders_at_once_end_in_the_right_counts(
    monitoring: Monitoring, rolled: Rollups, url: str
) -> None:
    batches = [[new_event(age_s=3_600 + number % 1_200) for number in range(30)] for _ in range(20)]
    done = threading.Event()

    def keep_counting() -> None:
        with rollups(url) as mine:
            while not done.is_set():
                mine.recount()

    with ThreadPoolExecutor(6) as pool:
        counting = [pool.submit(keep_counting) for _ in range(3)]
        sending = [pool.submit(monitoring.record, *batch) for batch in batches]
        for one in sending:
            assert set(one.result(60)) == {"STORED"}
        done.set()
        for each in counting:
            each.result(60)
    rolled.recount()
    assert (counted(rolled), rolled.marks()) == (600, 0)
    assert sum(row["inference_count"] for row in rolled.rows(HOUR)) == 600


def test_feedback_and_its_event_that_are_stored_at_once_are_counted_together(
    monitoring: Monitoring, rolled: Rollups
) -> None:
    event = new_event(age_s=7_200, prediction=labels(1))
    told = FeedbackReport(UUID(event.inference_id), 0, 1, None, datetime.now(UTC))
    Days(rolled.database).ensure([time_of(event.inference_id).date()])
    with rolled.database.transaction() as connection:
        _append(connection, told, "1", "someone")  # it sees no event …
        monitoring.record(event)  # … which comes, …
        rolled.recount()  # … and whose mark is gone before the feedback is there
        assert [row["feedback_count"] for row in rolled.rows(FIVE)] == [0]
    rolled.recount()
    assert [row["correct_count"] for row in rolled.rows(FIVE)] == [1]


def test_a_bucket_whose_events_were_dropped_stays_as_it_was(monitoring: Monitoring, rolled: Rollups) -> None:
    old = [new_event(age_s=10 * 86_400, prediction=labels(1)) for _ in range(3)]
    monitoring.record(*old)
    rolled.recount()
    before = [rolled.rows(granularity) for granularity in FINEST_FIRST]
    monitoring.feedback(old[0].inference_id, actual=1)  # marks the bucket, and then its day goes
    Days(rolled.database).drop_before(datetime.now(UTC).date())
    rolled.recount()
    assert rolled.marks() == 0
    assert [rolled.rows(granularity) for granularity in FINEST_FIRST] == before
    assert rolled.total(days=12).counts.inference_count == 3
    with pytest.raises(Exception, match="dropped just now"):
        monitoring.record(old[0])
    assert monitoring.record(old[0]) == ["STORED"]  # the day is made again, and holds less than it did
    rolled.recount()
    assert rolled.marks() == 0
    assert [rolled.rows(granularity) for granularity in FINEST_FIRST] == before


def test_a_day_that_someone_else_dropped_is_gone_too(monitoring: Monitoring, rolled: Rollups) -> None:
    old = new_event(age_s=3 * 86_400)
    monitoring.record(old)
    rolled.recount()
    before = rolled.rows(FIVE)
    monitoring.feedback(old.inference_id, correct=True)
    with rolled.database.transaction() as connection:
        connection.execute(f"DROP TABLE monitoring.inferences_{time_of(old.inference_id):%Y%m%d}".encode())
    rolled.recount()
    assert (rolled.marks(), rolled.rows(FIVE)) == (0, before)


def test_a_partition_of_rollups_that_is_missing_is_made_again(monitoring: Monitoring, rolled: Rollups) -> None:
    event = new_event(age_s=7_200)
    monitoring.record(event)
    rolled.recount()
    with rolled.database.transaction() as connection:
        connection.execute(f"DROP TABLE monitoring.rollups_five_minutes_{time_of(event.inference_id):%Y%m%d}".encode())
    monitoring.record(new_event(inference_id=event.inference_id[:-2] + "ff"))
    rolled.recount()
    assert (counted(rolled), rolled.marks()) == (2, 0)


def test_each_granularity_goes_after_its_own_retention_and_the_coarser_answer(
    monitoring: Monitoring, rolled: Rollups
) -> None:
    old, new = new_event(age_s=20 * 86_400), new_event(age_s=7_200)
    monitoring.record(old, new)
    rolled.configure(five_minute_retention=timedelta(days=25))
    rolled.recount()
    assert len(rolled.rows(FIVE)) == 2
    rolled.configure(five_minute_retention=timedelta(days=10), hourly_retention=timedelta(days=15))
    rolled.keep()
    over = time_of(new.inference_id).date() < rolled.now.date()  # after midnight its day has a rollup too
    assert [len(rolled.rows(granularity)) for granularity in FINEST_FIRST] == [1, 1, 1 + over]
    found = rolled.total(days=25)
    assert found.counts.inference_count == 2
    # A retention that was made longer brings nothing back: what is coarser is not counted from what is no more.
    rolled.configure(five_minute_retention=timedelta(days=25), hourly_retention=timedelta(days=90))
    late = new_event(inference_id=old.inference_id[:-2] + "ff")
    assert monitoring.record(late) == ["STORED"]
    rolled.recount()
    assert rolled.marks() == 0
    assert rolled.total(days=25).counts.inference_count == 3


def test_a_late_event_of_a_day_without_buckets_is_counted_in_its_hour(monitoring: Monitoring, rolled: Rollups) -> None:
    old = new_event(age_s=20 * 86_400)
    monitoring.record(old, new_event())
    rolled.recount()
    assert [len(rolled.rows(granularity)) for granularity in FINEST_FIRST] == [0, 1, 1]
    monitoring.record(new_event(inference_id=old.inference_id[:-2] + "ff"))
    rolled.recount()
    assert [row["inference_count"] for row in (*rolled.rows(HOUR), *rolled.rows(DAY))] == [2, 2]


@pytest.mark.parametrize("ahead", [timedelta(days=31), timedelta(days=3_650)])
def test_a_replica_whose_clock_is_far_ahead_drops_nothing_and_counts_all(
    monitoring: Monitoring, rolled: Rollups, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    events = [new_event(age_s=age_s, prediction=labels(1)) for age_s in (7_200, 2 * 86_400, 10 * 86_400)]
    monitoring.record(*events)
    rolled.now = datetime.now(UTC) + ahead
    for shift in (timedelta(), ahead):  # a replica's clock, and then the database's as well
        monkeypatch.setattr(days, "_PRESENT", days._PRESENT.replace("now()", f"now() + interval '{shift.days} days'"))
        rolled.keep()
        keep_days(Days(rolled.database), timedelta(days=30))
        monitoring.feedback(events[0].inference_id, actual=1)
        rolled.recount()
    assert [len(rolled.rows(granularity)) for granularity in FINEST_FIRST] == [3, 3, 3]
    assert monitoring.query("SELECT count(*) FROM monitoring.inferences") == [(3,)]
    assert monitoring.query("SELECT * FROM monitoring.dropped_days") == []


def test_clocks_that_jump_lose_nothing(monitoring: Monitoring, rolled: Rollups) -> None:
    ahead, now = new_event(age_s=-240), new_event()
    monitoring.record(ahead, now)
    for jump in (timedelta(hours=5), timedelta(hours=-30), timedelta(minutes=1)):
        rolled.now = datetime.now(UTC) + jump
        rolled.recount()
        monitoring.record(new_event())
    rolled.now = datetime.now(UTC) + timedelta(minutes=20)
    rolled.recount()
    assert (counted(rolled), rolled.marks()) == (5, 0)
    assert rolled.total(hours=1).counts.inference_count == 5
    # Only hours and days that are not over yet wait.
    spans = {each.value: each.span for each in (HOUR, DAY)}
    marks = monitoring.query("SELECT granularity, start_time FROM monitoring.rollup_marks")
    assert [mark for mark in marks if mark[1] + spans[mark[0]] <= rolled.now - SETTLE] == []


def replay(seed: int) -> tuple[list[pb.InferenceEvent], list[pb.RecordFeedbackRequest]]:
    dice = random.Random(seed)
    bursts = [dice.uniform(600, 70 * 3_600) for _ in range(12)]
    events = [
        new_event(
            age_s=dice.choice(bursts) + dice.uniform(0, 200),
            model=dice.choice(["iris", "wine"]),
            version=dice.choice(["1", "2"]),
            latency_ms=dice.lognormvariate(1, 2),
            confidence=dice.random(),
            error_code="INTERNAL" if dice.random() < 0.1 else "",
            prediction=labels(dice.randrange(3)),
        )
        for _ in range(10_000)
    ]
    told_at = Timestamp(seconds=int(datetime.now(UTC).timestamp()))
    told = [
        pb.RecordFeedbackRequest(inference_id=event.inference_id, correct=dice.random() < 0.8, feedback_time=told_at)
        for event in dice.sample(events, 100)
    ]
    return events, told


@pytest.mark.slow
def test_a_replay_in_any_order_against_another_copy_gives_identical_rollups(clone_database: CloneDatabase) -> None:
    events, told = replay(11)
    now, tables = datetime.now(UTC), []
    for seed in (1, 2):
        dice, url = random.Random(seed), clone_database("monitoring")
        leave_to_the_test(url)
        left = [*dice.sample(events, len(events)), *dice.sample(events, 1_000)]
        with serve(url) as monitoring, rollups(url, now=now) as rolled:
            reports = dice.sample(told, len(told))
            while left:
                batch, left = left[: (size := dice.randrange(1, 1_000))], left[size:]
                monitoring.record(*batch)
                for report in reports[:20]:
                    monitoring.stub.RecordFeedback(report, timeout=60)
                reports = reports[20:]
                if dice.random() < 0.1:
                    rolled.recount()
            for report in reports:
                monitoring.stub.RecordFeedback(report, timeout=60)
            rolled.recount()
            tables.append([rolled.rows(granularity) for granularity in FINEST_FIRST])
    assert sum(row["inference_count"] for row in tables[0][0]) == 10_000
    assert sum(row["feedback_count"] for row in tables[0][0]) == 100
    assert all(tables[0])
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_postgres_stops_in_mid_rollup_and_the_next_turn_makes_it_whole(own_postgres_server: PostgresServer) -> None:
    url = own_postgres_server.clone("monitoring")
    leave_to_the_test(url)
    events = [new_event(age_s=7_200) for _ in range(50)]
    with serve(url) as monitoring:
        monitoring.record(*events)
        with rollups(url) as rolled, ThreadPoolExecutor(1) as pool:
            rolled.keep()
            with closing(psycopg.connect(url)) as blocker:
                lock_day(blocker, url, time_of(events[0].inference_id))
                running = pool.submit(rolled.recount)
                eventually(lambda: waiting(url) == 1)
                own_postgres_server.stop()
            with pytest.raises(Unavailable):
                running.result(60)
            own_postgres_server.start()
    with rollups(url) as rolled:
        assert counted(rolled) == 0
        rolled.recount()
        assert (counted(rolled), rolled.marks()) == (50, 0)


@pytest.mark.slow
def test_killed_in_mid_rollup_it_counts_whole_when_it_is_back(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.clone("monitoring")
    leave_to_the_test(url)
    events = [new_event(age_s=7_200) for _ in range(50)]
    with serve(url) as monitoring:
        monitoring.record(*events)
    free(url)
    with rollups(url) as rolled:
        rolled.keep()
        with held(url, events[0]), service(url, tmp_path) as process:
            eventually(lambda: waiting(url) == 1, within_s=60)
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        with service(url, tmp_path):
            # The dead one's lease of the chore runs out first.
            free(url)
            eventually(lambda: counted(rolled) == 50, within_s=60)
        assert [row["inference_count"] for row in rolled.rows(FIVE)] == [50]
    postgres_server.drop(url)


def free(url: str) -> None:
    """Have every lease run out now."""
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE monitoring.chores SET lease_time = now()")


@contextmanager
def service(url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service as its users do, with an eager chore."""
    environment = {
        **os.environ,
        "PENSTOCK_DATABASE_URL": url,
        "PENSTOCK_REGISTRY_ADDRESS": "127.0.0.1:1",
        "PENSTOCK_PORT": "0",
        "PENSTOCK_METRICS_PORT": "0",
        "PENSTOCK_ROLLUP_INTERVAL_MS": "50",
    }
    with (folder / "monitoring.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.monitoring"], env=environment, cwd=ROOT, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)

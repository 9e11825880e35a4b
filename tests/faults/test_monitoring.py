"""Monitoring when others race it, PostgreSQL goes away, or it is killed: stored once, or not at all."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import psycopg
import pytest

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.cli.embedded.ports import free_port
from services.common.errors import Aborted
from services.common.postgres import Database
from services.monitoring.retention import keep_days
from services.monitoring.store.days import Days
from tests.monitoring import Monitoring, answered, connect, eventually, labels, new_event, outcome, reason, serve
from tests.postgres import PostgresServer

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = (
    "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'monitoring.inferences'::regclass ORDER BY 1"
)
HOLD = """
INSERT INTO monitoring.inferences (
    inference_id, event_time, latency_ms, row_count, model, version, framework, request_id, user_id, session_id,
    error_code
)
VALUES (%s, now(), 0, 1, '', '', '', '', '', '', '')
"""
CloneDatabase = Callable[[str], str]


def stored(monitoring: Monitoring) -> int:
    """Count the events that are there, each id once."""
    ((count, ids),) = monitoring.query("SELECT count(*), count(DISTINCT inference_id) FROM monitoring.inferences")
    assert count == ids
    return int(count)


def test_senders_of_the_same_events_at_once_store_each_once(clone_database: CloneDatabase) -> None:
    events = [new_event(age_s=86_400 * (n % 3)) for n in range(600)]
    orders = [events, events[::-1], events[1::2] + events[::2], events[300:] + events[:300]]
    with serve(clone_database("monitoring")) as monitoring, ThreadPoolExecutor(4) as pool:
        outcomes = [one for batch in pool.map(lambda order: monitoring.record(*order), orders) for one in batch]
        assert (outcomes.count("STORED"), outcomes.count("DUPLICATE")) == (600, 1800)
        assert stored(monitoring) == 600


def test_senders_in_opposite_orders_wait_for_each_other_and_never_in_a_circle(clone_database: CloneDatabase) -> None:
    url = clone_database("monitoring")
    events = [new_event(age_s=60 - n) for n in range(3)]
    with serve(url) as monitoring, ThreadPoolExecutor(2) as pool, psycopg.connect(url) as blocker:
        monitoring.record(new_event())  # the day is there
        blocker.execute(HOLD, [events[1].inference_id])
        one, other = pool.submit(monitoring.record, *events), pool.submit(monitoring.record, *events[::-1])
        eventually(lambda: in_copy(url) == 2)
        blocker.rollback()
        assert sorted([one.result(60), other.result(60)]) == [["DUPLICATE"] * 3, ["STORED"] * 3]


def test_replicas_that_meet_new_days_at_once_make_each_once(clone_database: CloneDatabase) -> None:
    url = clone_database("monitoring")
    batches = [[new_event(age_s=86_400 * day) for day in range(25)] for _ in range(6)]
    with serve(url) as one, serve(url) as other, ThreadPoolExecutor(6) as pool:
        replicas = [one, other] * 3
        done = list(pool.map(lambda replica, batch: replica.record(*batch), replicas, batches))
        assert done == [["STORED"] * 25] * 6
        assert stored(one) == 150


def test_days_past_their_retention_go_with_their_feedback(clone_database: CloneDatabase) -> None:
    url = clone_database("monitoring")
    with serve(url, retention_days=30) as monitoring:
        old, new = new_event(age_s=10 * 86_400), new_event()
        monitoring.record(old, new)
        monitoring.feedback(old.inference_id, actual=1)
        monitoring.feedback(new.inference_id, actual=1)
    with serve(url, retention_days=5, retention_interval_ms=50) as monitoring:
        day = datetime.now(UTC).date() - timedelta(days=10)
        eventually(lambda: (f"monitoring.inferences_{day:%Y%m%d}",) not in monitoring.query(PARTITIONS))
        assert monitoring.record(old) == ["EVENT_TOO_OLD"]
        assert monitoring.query("SELECT count(*) FROM monitoring.feedback") == [(1,)]
        assert stored(monitoring) == 1


def test_a_day_that_another_replica_dropped_is_made_again(clone_database: CloneDatabase) -> None:
    url = clone_database("monitoring")
    with serve(url, retention_interval_ms=60_000) as monitoring:
        old = new_event(age_s=10 * 86_400)
        assert monitoring.record(old) == ["STORED"]
        with Database(url) as database:
            eventually(lambda: _dropped(Days(database)))
        assert reason(lambda: monitoring.record(old)) == (UNAVAILABLE, "PARTITION_MISSING")
        assert monitoring.record(old) == ["STORED"]


def _dropped(days: Days) -> bool:
    """Drop all days before this one; False where a chore of the service reads just then, which is to be tried again."""
    try:
        return bool(days.drop_before(datetime.now(UTC).date()))
    except Aborted:
        return False


@pytest.mark.slow  # it waits a second for the lock
def test_a_long_read_delays_the_dropping_and_nobody_else(clone_database: CloneDatabase) -> None:
    url = clone_database("monitoring")
    with serve(url, retention_interval_ms=60_000) as monitoring, psycopg.connect(url) as reader:
        monitoring.record(new_event(age_s=10 * 86_400), new_event())
        reader.execute("SELECT count(*) FROM monitoring.inferences")
        with Database(url) as database:
            with pytest.raises(Aborted):
                keep_days(Days(database), timedelta(days=5))
            assert monitoring.record(new_event()) == ["STORED"]
            reader.rollback()
            keep_days(Days(database), timedelta(days=5))
        assert stored(monitoring) == 2


@pytest.mark.slow
def test_postgres_goes_away_in_mid_batch_and_nothing_is_half_stored(own_postgres_server: PostgresServer) -> None:
    url = own_postgres_server.clone("monitoring")
    first, second = [[new_event(prediction=labels(1)) for _ in range(100)] for _ in range(2)]
    batches = [pb.RecordEventsRequest(batch_id=n, events=events) for n, events in enumerate((first, second))]
    with serve(url) as monitoring:
        proceed = threading.Event()

        def requests() -> Iterator[pb.RecordEventsRequest]:
            yield batches[0]
            proceed.wait(60)
            yield batches[1]

        answers = monitoring.stub.RecordEvents(requests(), timeout=60)
        assert [outcome(result) for result in next(answers).results] == ["STORED"] * 100
        # The second batch is held up on its way in, and PostgreSQL stopped under it.
        with closing(psycopg.connect(url)) as blocker:
            blocker.execute(f"LOCK TABLE monitoring.inferences_{datetime.now(UTC):%Y%m%d}".encode())
            proceed.set()
            eventually(lambda: in_copy(url) == 1)
            own_postgres_server.stop()
        assert reason(lambda: next(answers))[0] is UNAVAILABLE
        assert reason(monitoring.metrics) == (UNAVAILABLE, "DATABASE_UNAVAILABLE")
        own_postgres_server.start()
        eventually(lambda: answered(monitoring.metrics))
        assert stored(monitoring) == 100
        assert monitoring.record(*second) == ["STORED"] * 100
        assert monitoring.record(*first) == ["DUPLICATE"] * 100
        assert stored(monitoring) == 200


def in_copy(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND wait_event_type = 'Lock'"
        )
        return int((found.fetchone() or (0,))[0])


class MuteProxy:
    """A TCP proxy that, once `mute`, passes what clients say and swallows every answer."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.mute = False

    def __enter__(self) -> MuteProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            target = socket.create_connection(("127.0.0.1", self._target_port))
            threading.Thread(target=self._pump, args=[client, target, False], daemon=True).start()
            threading.Thread(target=self._pump, args=[target, client, True], daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65_536):
                if not (answers and self.mute):
                    sink.sendall(data)
        except OSError:
            pass  # one side is gone, which the other is told now
        finally:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@contextmanager
def process(url: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service as its users do, in a process of its own."""
    environment = {
        **os.environ,
        "PENSTOCK_DATABASE_URL": url,
        "PENSTOCK_REGISTRY_ADDRESS": "127.0.0.1:1",
        "PENSTOCK_PORT": str(port),
        "PENSTOCK_METRICS_PORT": "0",
        "PENSTOCK_DRAIN_GRACE_MS": "1000",
    }
    with log.open("ab") as output:
        service = subprocess.Popen(
            [sys.executable, "-m", "services.monitoring"], env=environment, cwd=ROOT, stdout=output, stderr=output
        )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(60)
        yield service
    finally:
        service.kill()
        service.wait(60)


@pytest.mark.slow
def test_killed_between_the_commit_and_the_answer_it_stores_once(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.empty()  # it migrates by itself
    events = [new_event() for _ in range(500)]
    log = tmp_path / "monitoring.log"
    port = free_port()
    with process(url, port, log) as service, MuteProxy(port) as proxy, connect(url, proxy.port) as through:
        assert through.record(new_event()) == ["STORED"]
        proxy.mute = True
        answers = through.stub.RecordEvents(iter([pb.RecordEventsRequest(events=events)]), timeout=60)
        eventually(lambda: stored(through) == 501)
        service.send_signal(signal.SIGKILL)
        service.wait(60)
        assert reason(lambda: next(answers))[0] is UNAVAILABLE
    port = free_port()
    with process(url, port, log), connect(url, port) as again:
        assert again.record(*events) == ["DUPLICATE"] * 500
        assert stored(again) == 501
    postgres_server.drop(url)


@pytest.mark.slow
def test_a_drain_ends_the_stream_and_leaves_in_order(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.clone("monitoring")
    port, log = free_port(), tmp_path / "monitoring.log"
    done = threading.Event()

    def requests() -> Iterator[pb.RecordEventsRequest]:
        yield pb.RecordEventsRequest(events=[new_event()])
        done.wait(60)

    with process(url, port, log) as service, connect(url, port) as monitoring:
        answers = monitoring.stub.RecordEvents(requests(), timeout=60)
        assert outcome(next(answers).results[0]) == "STORED"
        service.terminate()
        assert reason(lambda: next(answers)) == (UNAVAILABLE, "DRAINING")
        done.set()
        assert service.wait(60) == 0
        assert stored(monitoring) == 1
    postgres_server.drop(url)


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code"), [(["migrate"], 0), (["sing"], 2)])
def test_the_command_migrates_or_says_how_it_is_called(empty_database: str, arguments: list[str], code: int) -> None:
    environment = {**os.environ, "PENSTOCK_DATABASE_URL": empty_database}
    command = [sys.executable, "-m", "services.monitoring", *arguments]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, timeout=240, check=False)
    assert ended.returncode == code, ended.stderr
    with psycopg.connect(empty_database) as connection:
        found = connection.execute("SELECT to_regclass('monitoring.inferences') IS NOT NULL").fetchone()
    assert found == (code == 0,)

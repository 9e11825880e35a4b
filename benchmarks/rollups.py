"""Rollups: a day of ten million events asked for, percentiles beside NumPy's, and a million events replayed.

    python -m benchmarks rollups [--day | --percentiles | --replay]

- day: the time of a `ListMetrics` and of a `GetMetrics` over 24 hours in which a model predicted ten million times. The
  rollups are written by COPY, with the histograms of real draws; the events of the buckets that an answer reads raw,
  the first and the open one, are real rows, as many as there would be. Then the same with a late label waiting in each
  bucket, and what it takes to count a bucket anew: after a label, and after an event.
- percentiles: merged from 288 buckets, log-normal and bimodal, against NumPy's "inverted_cdf" on all the raw values.
- replay: a million events, and feedback for some, are sent to two databases in different orders and batches through
  gRPC; the rollups must be equal to the last digit. It takes some minutes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psycopg
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray
from pydantic import SecretStr

from benchmarks.harness import running, wait_until
from penstock.api.monitoring.v1 import metrics_pb2, monitoring_pb2
from penstock.api.monitoring.v1.metrics_pb2_grpc import MetricsServiceStub
from penstock.api.monitoring.v1.monitoring_pb2_grpc import MonitoringServiceStub
from penstock.cli.embedded.ports import free_port
from penstock.cli.embedded.postgres import PostgresCluster
from penstock.ids import time_of, uuid7
from services.common.postgres import Database
from services.monitoring.__main__ import build, migrate_schema
from services.monitoring.rollups.assembly import RECOUNT
from services.monitoring.rollups.latency import BIN_WIDTH, Latencies
from services.monitoring.rollups.models import FINEST_FIRST, Counts, Granularity, Mark
from services.monitoring.rollups.plan import Kept
from services.monitoring.rollups.store import rows
from services.monitoring.rollups.store.recounts import RecountStore
from services.monitoring.settings import MonitoringSettings
from services.monitoring.store.days import Days, by_time

EVENTS_A_DAY = 10_000_000
BUCKET = Granularity.FIVE_MINUTES.span
SEED = 20_261_121
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def log_normal(generator: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Draw latencies as one model has them."""
    return generator.lognormal(2.0, 1.0, size)


def bimodal(generator: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Draw latencies of cache hits around 0.4 ms, and of misses around 80 ms."""
    hits = generator.random(size) < 0.7
    return np.where(hits, generator.normal(0.4, 0.05, size).clip(0.01), generator.normal(80, 12, size).clip(1))


def counted(values: NDArray[np.float64]) -> Latencies:
    """Count as PostgreSQL does it."""
    bins, counts = np.unique(np.ceil(np.log(values) / BIN_WIDTH).astype(int), return_counts=True)
    return Latencies(tuple(bins.tolist()), tuple(counts.tolist()))


def percentiles() -> None:
    """Show the largest errors."""
    generator = np.random.default_rng(SEED)
    for draw in (log_normal, bimodal):
        parts = [draw(generator, int(generator.integers(1_000, 20_000))) for _ in range(288)]
        merged, raw = Latencies.merged(map(counted, parts)), np.concatenate(parts)
        errors = []
        for percent in range(1, 101):
            exact = float(np.percentile(raw, percent, method="inverted_cdf"))
            errors.append(abs((merged.percentile(percent) or 0) - exact) / exact)
        print(
            f"{draw.__name__:>10}: {raw.size:,} latencies in {len(merged.bins)} bins of 288 buckets; error of the "
            f"percentiles 1 to 100: at most {max(errors):.2%}, p50 {errors[49]:.2%}, p95 {errors[94]:.2%}, "
            f"p99 {errors[98]:.2%}"
        )


@contextmanager
def postgres() -> Iterator[Callable[[str], str]]:
    """Run a PostgreSQL of our own with its usual durability; gives a maker of databases with our schema."""
    with tempfile.TemporaryDirectory(prefix="penstock-rollups-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o711)
        cluster, port = PostgresCluster(folder / "cluster"), free_port()
        cluster.create()
        stack.enter_context(running(cluster.command(port), cluster.environment, folder / "postgres.log"))
        wait_until(lambda: cluster.is_ready(port), "PostgreSQL did not come up")

        def made(database: str) -> str:
            with psycopg.connect(cluster.url(port), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {database}".encode())
            url = cluster.url(port, database)
            migrate_schema(settings(url))
            return url

        yield made


def settings(url: str) -> MonitoringSettings:
    """Give settings for a service of the benchmark's own."""
    return MonitoringSettings(
        database_url=SecretStr(url), port=0, metrics_port=0, rollup_interval_ms=1_000, access_log_share=0
    )


@contextmanager
def served(url: str) -> Iterator[grpc.Channel]:
    """Serve within this process, and connect."""
    with ExitStack() as stack:
        server = build(settings(url), stack)
        port = server.open()
        stack.callback(server.close)
        yield stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))


def day(rounds: int) -> None:
    """Show how long answers over a day take, without and with late labels all over it, and what a label costs."""
    with postgres() as made:
        url = made("day")
        seed_rollups(url)
        with psycopg.connect(url) as connection:  # the chore is left to this benchmark
            connection.execute(
                "INSERT INTO monitoring.chores VALUES (%s, gen_random_uuid(), now() + interval '1 day')", [RECOUNT]
            )
        with served(url) as channel:
            monitoring = MonitoringServiceStub(channel)
            edges = send_edges(monitoring)
            print(f"a day of {EVENTS_A_DAY:,} events of one model in two versions; {len(edges):,} of them are rows")
            show(rounds, questions(monitoring, MetricsServiceStub(channel)))
            with psycopg.connect(url) as connection:
                connection.execute(
                    "INSERT INTO monitoring.feedback_marks (start_time, model, version) "
                    "SELECT start_time, model, version FROM monitoring.rollups_five_minutes"
                )
            print("with a late label waiting in each of its buckets, of both versions:")
            show(rounds, questions(monitoring, MetricsServiceStub(channel)))
            with Database(url) as database:
                show(rounds, recounts(database, monitoring, edges[0]))


def show(rounds: int, asked: dict[str, Callable[[], Any]]) -> None:
    """Print how long each takes."""
    for name, ask in asked.items():
        ask()
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            ask()
            taken.append((time.perf_counter() - began) * 1_000)
        print(f"{name:>30}: median {statistics.median(taken):6.1f} ms, worst {max(taken):6.1f} ms")


def questions(monitoring: MonitoringServiceStub, metrics: MetricsServiceStub) -> dict[str, Callable[[], Any]]:
    """Give what is asked of a day."""
    return {
        "ListMetrics by hour": lambda: metrics.ListMetrics(
            metrics_pb2.ListMetricsRequest(model="iris", granularity=metrics_pb2.GRANULARITY_HOUR)
        ),
        "ListMetrics by 5 minutes": lambda: metrics.ListMetrics(
            metrics_pb2.ListMetricsRequest(model="iris", granularity=metrics_pb2.GRANULARITY_FIVE_MINUTES)
        ),
        "GetMetrics": lambda: monitoring.GetMetrics(
            monitoring_pb2.GetMetricsRequest(model="iris", from_time=timestamp(datetime.now(UTC) - timedelta(days=1)))
        ),
        "GetRealtimeMetrics": lambda: metrics.GetRealtimeMetrics(metrics_pb2.GetRealtimeMetricsRequest(model="iris")),
    }


def recounts(
    database: Database, monitoring: MonitoringServiceStub, labelled: monitoring_pb2.InferenceEvent
) -> dict[str, Callable[[], Any]]:
    """Give the recount of a bucket of 35,000 events in which one label came, and that of one in which an event did."""
    days = Days(database, (by_time(rows.TABLES[Granularity.FIVE_MINUTES]),))
    store = RecountStore(database, days)
    kept = Kept(a_day_ago() - timedelta(days=9), dict.fromkeys(FINEST_FIRST, a_day_ago() - timedelta(days=9)))
    monitoring.RecordFeedback(monitoring_pb2.RecordFeedbackRequest(inference_id=labelled.inference_id, correct=True))
    start_time = Granularity.FIVE_MINUTES.floor(time_of(labelled.inference_id))
    mark = Mark(Granularity.FIVE_MINUTES, start_time, "iris", labelled.version)

    def once(recount: Callable[[Mark, Kept], None], table: str) -> None:
        with database.transaction() as connection:
            values = {"start": mark.start_time, "model": mark.model, "version": mark.version}
            columns = "granularity, start_time" if table == "rollup_marks" else "start_time"
            one = "1, %(start)s" if table == "rollup_marks" else "%(start)s"
            statement = (
                f"INSERT INTO monitoring.{table} ({columns}, model, version) VALUES ({one}, %(model)s, %(version)s)"
            )
            connection.execute(statement.encode(), values)
        recount(mark, kept)

    return {
        "recount after a label": lambda: once(store.recount_feedback, "feedback_marks"),
        "recount after an event": lambda: once(store.recount, "rollup_marks"),
    }


def seed_rollups(url: str) -> None:
    """Write two days of rollups of two versions, all granularities, as if each event had been counted."""
    generator, now = np.random.default_rng(SEED), datetime.now(UTC)
    size = EVENTS_A_DAY // 288 // 2
    first = Granularity.DAY.floor(now) - timedelta(days=2)
    until = Granularity.FIVE_MINUTES.floor(now)
    with Database(url) as database:
        days = Days(database, (by_time(rows.TABLES[Granularity.FIVE_MINUTES]),))
        days.ensure([(first + timedelta(days=number)).date() for number in range(4)])
        spans: dict[tuple[Granularity, datetime, str], list[Counts]] = {}
        start = first
        while start < until:
            for version in ("1", "2"):
                found = Counts(
                    inference_count=size,
                    row_count=size,
                    latencies=counted(log_normal(generator, size)),
                    latency_max_ms=90,
                )
                for granularity in FINEST_FIRST:
                    begin = granularity.floor(start)
                    if begin + granularity.span <= until:
                        spans.setdefault((granularity, begin, version), []).append(found)
            start += BUCKET
        with database.transaction() as connection:
            for (granularity, begin, version), several in spans.items():
                rows.write(connection, Mark(granularity, begin, "iris", version), Counts.merged(several))


def send_edges(monitoring: MonitoringServiceStub) -> list[monitoring_pb2.InferenceEvent]:
    """Store the events of the bucket that began a day ago and of the last five minutes, and give them, oldest first."""
    now = datetime.now(UTC)
    number = EVENTS_A_DAY // 288
    generator = random.Random(SEED)
    times = [now - timedelta(seconds=generator.uniform(0, 300)) for _ in range(number)]
    edge = Granularity.FIVE_MINUTES.floor(now - timedelta(days=1))
    times += [edge + timedelta(seconds=generator.uniform(0, 300)) for _ in range(number)]
    events = [event(time, generator) for time in sorted(times)]
    send(monitoring, events, 1_000)
    return events


def timestamp(time: datetime) -> Timestamp:
    """Say a time as the contract does."""
    return Timestamp(seconds=int(time.timestamp()))


def a_day_ago() -> datetime:
    return datetime.now(UTC) - timedelta(days=1)


def event(time: datetime, dice: random.Random) -> monitoring_pb2.InferenceEvent:
    """Make an event of some time."""
    return monitoring_pb2.InferenceEvent(
        inference_id=uuid7(time),
        model="iris",
        version=dice.choice("12"),
        framework="onnx",
        confidence=dice.random(),
        latency_ms=dice.lognormvariate(2, 1),
        error_code="INTERNAL" if dice.random() < 0.02 else "",
        row_count=1,
    )


def send(monitoring: MonitoringServiceStub, events: list[monitoring_pb2.InferenceEvent], size: int) -> None:
    """Stream events, so many a batch."""
    batches = (
        monitoring_pb2.RecordEventsRequest(events=events[begin : begin + size]) for begin in range(0, len(events), size)
    )
    for _ in monitoring.RecordEvents(batches):
        pass


def replay(count: int) -> None:
    """Send the same events to two databases, and compare the rollups."""
    dice, now = random.Random(SEED), datetime.now(UTC)
    with postgres() as made:
        events = [event(now - timedelta(seconds=dice.uniform(600, 3 * 86_400)), dice) for _ in range(count)]
        told = [
            monitoring_pb2.RecordFeedbackRequest(
                inference_id=each.inference_id, correct=dice.random() < 0.9, feedback_time=timestamp(now)
            )
            for each in dice.sample(events, count // 1_000)
        ]
        tables = []
        for number, size in enumerate((1_000, 700)):
            dice.shuffle(events)
            url = made(f"copy_{number}")
            began = time.monotonic()
            with served(url) as channel:
                monitoring = MonitoringServiceStub(channel)
                for report in told[: len(told) // 2]:  # some before their events
                    monitoring.RecordFeedback(report)
                send(monitoring, events, size)
                for report in told[len(told) // 2 :]:
                    monitoring.RecordFeedback(report)
                sent_s = time.monotonic() - began
                with psycopg.connect(url, autocommit=True) as connection:
                    began = time.monotonic()
                    while left_of(connection, "granularity = 1"):
                        time.sleep(0.2)
                    counted_s = time.monotonic() - began
            # Hours and days have intervals of their own: a service that begins counts them at once.
            with served(url), psycopg.connect(url, autocommit=True) as connection:
                now = datetime.now(UTC)
                for granularity in (Granularity.HOUR, Granularity.DAY):
                    current = granularity.floor(now) - granularity.span * (granularity is Granularity.HOUR)
                    while left_of(connection, f"granularity = {granularity.value} AND start_time < '{current}'"):
                        time.sleep(0.2)
                tables.append([contents(connection, granularity) for granularity in FINEST_FIRST])
            print(f"copy {number + 1}: {count:,} events sent in {sent_s:.0f} s, rolled up {counted_s:.0f} s after that")
    same = tables[0] == tables[1]
    counted_events = sum(row[3] for row in tables[0][0])
    print(f"{sum(map(len, tables[0])):,} rollups of {counted_events:,} events, identical: {same}")
    if not same or counted_events != count:
        raise SystemExit("the copies differ")


def ask(connection: psycopg.Connection[Any], statement: str) -> list[tuple[Any, ...]]:
    """Look into a database."""
    return connection.execute(statement.encode()).fetchall()


def left_of(connection: psycopg.Connection[Any], condition: str) -> int:
    """Count the marks that wait."""
    ((count,),) = ask(
        connection,
        f"SELECT (SELECT count(*) FROM monitoring.rollup_marks WHERE {condition}) "
        "+ (SELECT count(*) FROM monitoring.feedback_marks) + (SELECT count(*) FROM monitoring.early_feedback)",
    )
    return int(count)


def contents(connection: psycopg.Connection[Any], granularity: Granularity) -> list[tuple[Any, ...]]:
    """Give a table whole."""
    return ask(connection, f"SELECT * FROM monitoring.{rows.TABLES[granularity]} ORDER BY model, version, start_time")


def main() -> None:
    """Run what is asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("day", "percentiles", "replay"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--events", type=int, default=1_000_000, help="events to replay")
    options = parser.parse_args()
    chosen = options.day or options.percentiles or options.replay
    if options.percentiles or not chosen:
        percentiles()
    if options.day or not chosen:
        day(options.rounds)
    if options.replay or not chosen:
        replay(options.events)


if __name__ == "__main__":
    main()

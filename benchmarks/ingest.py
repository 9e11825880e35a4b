"""Event ingestion through gRPC against a bare psycopg COPY into the same indexed table.

All sides write events alike, interleaved, into a partition emptied before each turn, on one PostgreSQL with its usual
durability. The service runs in a process of its own and commits a thousand events at a time; the bare COPY writes rows
with psycopg's own row writer, once in transactions of a thousand and once in a single one.
Run it by `.venv/bin/python -m benchmarks ingest --events 100000`.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import psycopg

from benchmarks.harness import DEADLINE_S, running, wait_until
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.api.monitoring.v1.monitoring_pb2_grpc import MonitoringServiceStub
from penstock.api.tensors.v1.tensors_pb2 import DataType, Tensor, TensorList
from penstock.cli.embedded.ports import free_port
from penstock.cli.embedded.postgres import PostgresCluster
from penstock.ids import time_of, uuid7

BATCH = 1_000
COLUMNS = {
    "inference_id": "uuid",
    "event_time": "timestamptz",
    "latency_ms": "float8",
    "row_count": "int4",
    "confidence": "float8",
    "model": "text",
    "version": "text",
    "framework": "text",
    "request_id": "text",
    "user_id": "text",
    "session_id": "text",
    "error_code": "text",
    "features": "bytea",
    "prediction": "bytea",
    "outcomes": "text[]",
}
Rows = Sequence[Sequence[tuple[Any, ...]]]


def new_batch() -> pb.RecordEventsRequest:
    """A thousand predictions of an iris classifier."""
    return pb.RecordEventsRequest(events=[new_event() for _ in range(BATCH)])


def new_event() -> pb.InferenceEvent:
    floats, label = DataType.DATA_TYPE_FP32, random.randrange(3)
    features = Tensor(name="x", datatype=floats, shape=[1, 4], raw=random.randbytes(16))
    labels = Tensor(name="label", datatype=DataType.DATA_TYPE_INT64, shape=[1], raw=struct.pack("<q", label))
    scores = Tensor(name="scores", datatype=floats, shape=[1, 3], raw=struct.pack("<3f", 0.1, 0.2, 0.7))
    return pb.InferenceEvent(
        inference_id=uuid7(),
        model="iris",
        version="1.0.0",
        framework="onnx",
        user_id=f"user-{random.randrange(1000)}",
        session_id=f"session-{random.randrange(5000)}",
        features=pb.Payload(tensors=TensorList(tensors=[features])),
        prediction=pb.Payload(tensors=TensorList(tensors=[labels, scores])),
        confidence=0.7,
        latency_ms=random.lognormvariate(0, 1),
        row_count=1,
    )


def as_row(event: pb.InferenceEvent) -> tuple[Any, ...]:
    label = struct.unpack("<q", event.prediction.tensors.tensors[0].raw)[0]
    return (
        UUID(event.inference_id),
        time_of(event.inference_id),
        event.latency_ms,
        event.row_count,
        event.confidence,
        event.model,
        event.version,
        event.framework,
        event.inference_id,
        event.user_id,
        event.session_id,
        event.error_code,
        event.features.SerializeToString(),
        event.prediction.SerializeToString(),
        [str(label)],
    )


def copy(connection: psycopg.Connection[Any], table: str, rows: Rows, *, whole: bool) -> None:
    """COPY batches of rows, each in a transaction of its own, or all in one."""
    statement = f"COPY {table} ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
    for batch in [[row for some in rows for row in some]] if whole else rows:
        with connection.transaction(), connection.cursor() as cursor, cursor.copy(statement.encode()) as writer:
            writer.set_types(list(COLUMNS.values()))
            for row in batch:
                writer.write_row(row)


def send(stub: MonitoringServiceStub, batches: Sequence[pb.RecordEventsRequest]) -> None:
    """Stream the batches, and see that every event was stored."""
    stored = sum(
        sum(result.outcome == pb.EVENT_OUTCOME_STORED for result in response.results)
        for response in stub.RecordEvents(iter(batches), timeout=600)
    )
    if stored != sum(len(batch.events) for batch in batches):
        raise SystemExit(f"only {stored} events were stored")


@contextmanager
def suite(folder: Path) -> Iterator[tuple[MonitoringServiceStub, psycopg.Connection[Any]]]:
    """Run PostgreSQL and the service, and connect to both."""
    with ExitStack() as stack:
        cluster, database_port, port = PostgresCluster(folder / "cluster"), free_port(), free_port()
        cluster.create()
        command = cluster.command(database_port)
        stack.enter_context(running(command, cluster.environment, folder / "postgres.log"))
        wait_until(lambda: cluster.is_ready(database_port), "PostgreSQL did not come up")
        environment = {
            **os.environ,
            "PENSTOCK_DATABASE_URL": cluster.url(database_port),
            "PENSTOCK_PORT": str(port),
            "PENSTOCK_METRICS_PORT": "0",
        }
        service = [sys.executable, "-m", "services.monitoring"]
        stack.enter_context(running(service, environment, folder / "monitoring.log"))
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
        grpc.channel_ready_future(channel).result(DEADLINE_S)
        connection = stack.enter_context(psycopg.connect(cluster.url(database_port), autocommit=True))
        yield MonitoringServiceStub(channel), connection


def measure(events: int, rounds: int) -> dict[str, list[float]]:
    """Give the events per second of each side in each round."""
    rates: dict[str, list[float]] = {"gRPC": [], "COPY by the thousand": [], "one COPY": []}
    with tempfile.TemporaryDirectory(prefix="penstock-ingest-") as name:
        Path(name).chmod(0o711)
        with suite(Path(name)) as (stub, connection):
            send(stub, [new_batch()])
            table = f"monitoring.inferences_{datetime.now(UTC):%Y%m%d}"
            for _ in range(rounds):
                for side, taken in rates.items():
                    batches = [new_batch() for _ in range(events // BATCH)]
                    rows = [] if side == "gRPC" else [[as_row(event) for event in batch.events] for batch in batches]
                    connection.execute(f"TRUNCATE {table}".encode())
                    connection.execute("CHECKPOINT")
                    started = time.perf_counter()
                    if side == "gRPC":
                        send(stub, batches)
                    else:
                        copy(connection, table, rows, whole=side == "one COPY")
                    taken.append(events / (time.perf_counter() - started))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, help="events a turn, a multiple of 1000")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    medians = {side: statistics.median(taken) for side, taken in measure(options.events, options.rounds).items()}
    for side, rate in medians.items():
        print(f"{side:22} {rate:10,.0f} events/s   gRPC / this: {medians['gRPC'] / rate:.2f}")


if __name__ == "__main__":
    main()

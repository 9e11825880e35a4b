"""What an event costs the process that predicts, in µs of its CPU: made, spooled, read back, sent and answered for.

    python -m benchmarks.events

Every microsecond here is one under the interpreter lock of the predictions. The receiver is another process that
answers STORED and keeps nothing. What making the events themselves takes is measured without a spool, and shown apart.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import grpc
import numpy as np

from penstock import Client
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.api.monitoring.v1.monitoring_pb2_grpc import (
    MonitoringServiceServicer,
    add_MonitoringServiceServicer_to_server,
)
from penstock.ids import uuid7
from services.inference.events.encoding import encode
from services.inference.events.events import Event, EventLog, MonitoringSender
from services.inference.events.spool import Spool
from services.inference.models import Caller, ResolvedVersion, Signature

RATE_PER_S = 4_000
ROUND_S = 3.0
ROUNDS = 5
INPUTS = {"X": np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)}
OUTPUTS = {"label": np.array([0]), "probabilities": np.array([[0.9, 0.1, 0.0]], np.float32)}
VERSION = ResolvedVersion("iris", "1.0.0", 1, "onnx", "production", Signature((), ()))
CALLER = Caller()


class _Sink(MonitoringServiceServicer):
    def RecordEvents(  # noqa: N802
        self,
        request_iterator: Iterator[pb.RecordEventsRequest],
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> Iterator[pb.RecordEventsResponse]:
        stored = pb.EventResult(outcome=pb.EVENT_OUTCOME_STORED)
        for request in request_iterator:
            yield pb.RecordEventsResponse(batch_id=request.batch_id, results=[stored] * len(request.events))


def _serve(said: Connection) -> None:
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 2**26)])
    add_MonitoringServiceServicer_to_server(_Sink(), server)  # type: ignore[abstract] # the other RPCs are not called
    said.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    said.recv()


def _feed(log: EventLog, count: int) -> None:
    """Make events at an even rate, ten at a time."""
    began = time.monotonic()
    for number in range(0, count, 10):
        for _ in range(10):
            event = Event(uuid7(), "iris", CALLER)
            event.resolved, event.inputs, event.outputs = VERSION, INPUTS, OUTPUTS
            event.confidences, event.latency_ms = [0.9], 0.25
            log.record(event)
        ahead_s = began + number / RATE_PER_S - time.monotonic()
        if ahead_s > 0:
            time.sleep(ahead_s)


def _cpu_us(address: str | None) -> float:
    """One round: µs of this process's CPU for each event; without an address nothing is kept of them."""
    count = int(RATE_PER_S * ROUND_S)
    if address is None:
        began = time.process_time_ns()
        _feed(EventLog(None), count)
        return (time.process_time_ns() - began) / count / 1000
    with tempfile.TemporaryDirectory() as folder, Client(monitoring=address, token="") as client:
        spool = Spool[Event](Path(folder), encode, MonitoringSender(client))
        spool.open()
        began = time.process_time_ns()
        _feed(EventLog(spool), count)
        assert spool.close(60), "not all were answered for"
        spent = time.process_time_ns() - began
        assert spool.status.delivery.delivered == count
    return spent / count / 1000


def main() -> None:
    """Measure, and print the medians."""
    ours, theirs = multiprocessing.Pipe()
    sink = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    sink.start()
    address = f"127.0.0.1:{ours.recv()}"
    made, whole = [], []
    for _ in range(ROUNDS):
        made.append(_cpu_us(None))
        whole.append(_cpu_us(address))
    ours.send(None)
    sink.join()
    print(f"{RATE_PER_S:,} events/s for {ROUND_S:g} s, medians of {ROUNDS}, µs of CPU an event")
    print(f"made: {median(made):.1f}   spooled and sent: {median(whole) - median(made):.1f}")


if __name__ == "__main__":
    main()

"""Streams beside unary calls: 32 requests in flight, on one pinned core, from one client.

h2load sends unary calls only; the streams, and unary calls once more for comparison, come from a Python client on the
other core, which takes about as much time for a request as the server does.
Run it by `.venv/bin/python -m benchmarks streams`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from benchmarks.contenders.contender import PATH, Contender
from benchmarks.contenders.suite import running_suite
from benchmarks.harness import claim_cores, interleave, pin
from benchmarks.load import require_h2load, send
from benchmarks.workloads import WORKLOADS, Workload
from penstock.api.inference.v1 import inference_pb2
from penstock.tensors import to_tensor

IN_FLIGHT = 32
TRITON_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
OUR_STREAM = "/penstock.api.inference.v1.InferenceService/PredictStream"
console = Console()


def main() -> None:
    """Measure, and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=["iris", "minilm"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a window lasts")
    options = parser.parse_args()
    require_h2load()
    cores = claim_cores()
    table = Table("model", "client", "calls", "requests/s", "x unary of the same client")
    settings = {"PENSTOCK_INFERENCE_WORKERS": "1", "PENSTOCK_RUNTIME_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        Path(name).chmod(0o711)  # as root, PostgreSQL's own user passes through
        workloads = [WORKLOADS[model]() for model in options.models]
        with running_suite(Path(name), workloads) as suite:
            for workload in workloads:
                with suite.server("Penstock", workload, settings) as server:
                    for process in server.processes:
                        pin(process.pid, cores.server)
                    ways = ways_of(server, workload, suite.key)
                    taken = interleave(list(ways), partial(_take, ways, options.seconds), options.rounds)
                    rates = {way: statistics.median(values) for way, values in taken.items()}
                    for (client, calls), rate in rates.items():
                        base = rates[client, "unary, 32 in flight"]
                        table.add_row(workload.name, client, calls, f"{rate:,.0f}", f"{rate / base:.2f}")
    console.print(table)


Way = Callable[[int], float]
"""Sends so many requests; gives the rate."""


def _take(ways: dict[tuple[str, str], Way], seconds: float, way: tuple[str, str]) -> float:
    rate = ways[way](4 * IN_FLIGHT)
    return ways[way](max(4 * IN_FLIGHT, int(rate * seconds)))


def ways_of(server: Contender, workload: Workload, key: str) -> dict[tuple[str, str], Way]:
    """Give the ways to send requests, by client and kind of call."""
    call = server.ask()
    channel = grpc.insecure_channel(server.address)
    metadata = (("authorization", f"Bearer {key}"),)
    ours = inference_pb2.PredictRequest(model=workload.name)
    ours.tensors.extend(to_tensor(name, array) for name, array in workload.inputs.items())
    our_message = inference_pb2.PredictStreamRequest(request=ours).SerializeToString()
    unary: Any = channel.unary_unary(PATH)
    return {
        ("h2load", "unary, 32 in flight"): lambda n: send(call, requests=n, concurrency=1, in_flight=IN_FLIGHT).rate,
        ("h2load", "unary, 32 connections"): lambda n: send(call, requests=n, concurrency=IN_FLIGHT).rate,
        ("Python", "unary, 32 in flight"): lambda n: _futures(unary, workload.grpc_message, metadata, n),
        ("Python", "ModelStreamInfer"): lambda n: _stream(
            channel.stream_stream(TRITON_STREAM), workload.grpc_message, metadata, n
        ),
        ("Python", "PredictStream"): lambda n: _stream(channel.stream_stream(OUR_STREAM), our_message, metadata, n),
    }


def _futures(unary: Any, message: bytes, metadata: Any, count: int) -> float:
    began, flying = time.perf_counter(), deque[Any]()
    for _ in range(count):
        if len(flying) == IN_FLIGHT:
            flying.popleft().result()
        flying.append(unary.future(message, metadata=metadata, timeout=60))
    for future in flying:
        future.result()
    return count / (time.perf_counter() - began)


def _stream(method: Any, message: bytes, metadata: Any, count: int) -> float:
    places = threading.Semaphore(IN_FLIGHT)

    def messages() -> Iterator[bytes]:
        for _ in range(count):
            places.acquire()
            yield message

    began, answers = time.perf_counter(), 0
    for _ in method(messages(), metadata=metadata, timeout=120):
        places.release()
        answers += 1
    if answers != count:
        raise SystemExit(f"{answers} of {count} requests of a stream were answered")
    return count / (time.perf_counter() - began)

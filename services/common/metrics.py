"""The `grpc_server_*` metrics, and the HTTP port that Prometheus reads.

Counting is on the path of every request, so it is a few list operations under a lock of its own, and
prometheus_client only sees the sums when somebody asks.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.errors import FailedPrecondition

# Seconds; from a tiny model's answer to an upload.
BUCKETS_S = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    60.0,
)


class RpcMetrics:
    """The counts of one RPC. Cheap enough for every request: under a microsecond for both calls."""

    __slots__ = ("_lock", "buckets", "handled", "kind", "method", "seconds", "service", "started")

    def __init__(self, kind: str, service: str, method: str) -> None:
        self.kind = kind
        self.service = service
        self.method = method
        self.started = 0
        self.handled: dict[str, int] = {}
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0
        self._lock = threading.Lock()

    def start(self) -> None:
        """Count a call that begins."""
        with self._lock:
            self.started += 1

    def finish(self, code: str, seconds: float) -> None:
        """Count a call that ends, by its status code's name."""
        bucket = bisect_left(BUCKETS_S, seconds)
        with self._lock:
            self.handled[code] = self.handled.get(code, 0) + 1
            self.buckets[bucket] += 1
            self.seconds += seconds

    def snapshot(self) -> tuple[int, dict[str, int], list[int], float]:
        """Copy the counts as they stand together."""
        with self._lock:
            return self.started, dict(self.handled), list(self.buckets), self.seconds


class GrpcCollector(Collector):
    """Yields grpc_server_started_total, grpc_server_handled_total and grpc_server_handling_seconds."""

    def __init__(self) -> None:
        self._rpcs: list[RpcMetrics] = []

    def add(self, kind: str, service: str, method: str) -> RpcMetrics:
        """Make the counts of one RPC; `kind` is unary, client_stream, server_stream or bidi_stream."""
        rpc = RpcMetrics(kind, service, method)
        self._rpcs.append(rpc)
        return rpc

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape."""
        labels = ("grpc_type", "grpc_service", "grpc_method")
        started = CounterMetricFamily("grpc_server_started", "RPCs started.", labels=labels)
        handled = CounterMetricFamily("grpc_server_handled", "RPCs completed.", labels=(*labels, "grpc_code"))
        handling = HistogramMetricFamily("grpc_server_handling_seconds", "Time to answer, in s.", labels=labels)
        for rpc in self._rpcs:
            values = (rpc.kind, rpc.service, rpc.method)
            count, by_code, buckets, seconds = rpc.snapshot()
            started.add_metric(values, count)
            for code, number in sorted(by_code.items()):
                handled.add_metric((*values, code), number)
            handling.add_metric(values, _cumulative(buckets), seconds)
        yield from (started, handled, handling)


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in BUCKETS_S), "+Inf"]
    total = 0
    sums: list[tuple[str, float]] = []
    for bound, count in zip(bounds, buckets, strict=True):
        total += count
        sums.append((bound, total))
    return sums


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Say nothing: a line per scrape helps nobody."""


class MetricsServer:
    """Prometheus' view of this process, on a port of its own."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def open(self) -> int:
        """Listen, and say on which port; raises FailedPrecondition where it is taken (ADDRESS_IN_USE)."""
        app = make_wsgi_app(self.registry)
        try:
            self._server = make_server(self._host, self._port, app, _ThreadingServer, _QuietHandler)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot listen on {self._host}:{self._port} for metrics ({error.strerror}): "
                "PENSTOCK_METRICS_PORT chooses another port",
                reason="ADDRESS_IN_USE",
            ) from error
        # prometheus_client's own start_http_server looks twice a second whether to stop; a drain waits for it.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="metrics", daemon=True)
        self._thread.start()
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

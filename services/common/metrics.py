"""The `grpc_server_*` metrics, and the HTTP port that Prometheus reads.

Counting is on the path of every request, so it is a few list operations under a lock of its own, and
prometheus_client only sees the sums when somebody asks.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
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

from services.common.counters import Counters, Row
from services.common.errors import FailedPrecondition

if TYPE_CHECKING:  # there at run time from no module of the standard library
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

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


# The numbers of the status codes are their places here.
CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
# A row of counts: the calls begun, the ns of the ended ones, those of each bucket, those of each code. None is computed
# from others, since a row may be read between two of its writes, and no count may ever go back.
_STARTED, _NS, _BUCKETS = 0, 1, 2
_CODES = _BUCKETS + len(BUCKETS_S) + 1
_CELLS = _CODES + len(CODES)
_CELL_OF = {code: _CODES + number for number, code in enumerate(CODES)}
_KIND = "rpc"


class RpcMetrics:
    """The counts of one RPC. Cheap enough for every request: under a microsecond for both calls."""

    __slots__ = ("_cells", "_lock", "_own")

    def __init__(self, row: Row) -> None:
        self._own, self._cells = row.own, row.cells
        self._lock = threading.Lock()

    def start(self) -> None:
        """Count a call that begins."""
        with self._lock:
            own = self._own
            own[_STARTED] = self._cells[_STARTED] = own[_STARTED] + 1

    def finish(self, code: str, seconds: float) -> None:
        """Count a call that ends, by its status code's name."""
        bucket = _BUCKETS + bisect_left(BUCKETS_S, seconds)
        ended = _CELL_OF[code]
        with self._lock:
            own, cells = self._own, self._cells
            own[ended] = cells[ended] = own[ended] + 1
            own[bucket] = cells[bucket] = own[bucket] + 1
            own[_NS] = cells[_NS] = own[_NS] + int(seconds * 1e9)


class GrpcCollector(Collector):
    """Yields grpc_server_started_total, grpc_server_handled_total and grpc_server_handling_seconds, of all workers."""

    def __init__(self, counters: Counters | None = None) -> None:
        self._counters = counters or Counters()

    def add(self, kind: str, service: str, method: str) -> RpcMetrics:
        """Make the counts of one RPC; `kind` is unary, client_stream, server_stream or bidi_stream."""
        return RpcMetrics(self._counters.row((_KIND, kind, service, method), _CELLS))

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape."""
        labels = ("grpc_type", "grpc_service", "grpc_method")
        started = CounterMetricFamily("grpc_server_started", "RPCs started.", labels=labels)
        handled = CounterMetricFamily("grpc_server_handled", "RPCs completed.", labels=(*labels, "grpc_code"))
        handling = HistogramMetricFamily("grpc_server_handling_seconds", "Time to answer, in s.", labels=labels)
        for (_, *values), counts in self._counters.sums(_KIND).items():
            started.add_metric(values, counts[_STARTED])
            buckets, codes = counts[_BUCKETS:_CODES], counts[_CODES:]
            for code, number in sorted(zip(CODES, codes, strict=True)):
                if number > 0:
                    handled.add_metric((*values, code), number)
            handling.add_metric(values, _cumulative(buckets), counts[_NS] / 1e9)
        yield from (of_all_workers(family) for family in (started, handled, handling))


def of_all_workers(family: Metric) -> Metric:
    """Mark a family of sums over all workers' counters: whoever reads several workers takes it from one of them."""
    vars(family)["of_all_workers"] = True
    return family


def is_of_all_workers(family: Metric) -> bool:
    """Whether it is so marked."""
    return "of_all_workers" in vars(family)


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
    """Prometheus' view of this process on a port of its own, and the probes that need no gRPC: /livez and /readyz.

    With a port of None it does not listen: another process answers for what is registered here.
    """

    def __init__(self, host: str, port: int | None, registry: CollectorRegistry | None = None) -> None:
        self._host = host
        self._port = port
        self.port = port or 0
        """Where it listens, once it does."""
        self.registry = registry or CollectorRegistry()
        self.ready: Callable[[], bool] = lambda: False
        """What /readyz says; whoever serves sets it."""
        if registry is None:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self.registry)

    def open(self) -> int:
        """Listen, and say on which port; raises FailedPrecondition where it is taken (ADDRESS_IN_USE)."""
        if self._port is None:
            return 0
        try:
            self._server = make_server(self._host, self._port, self._app(), _ThreadingServer, _QuietHandler)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot listen on {self._host}:{self._port} for metrics ({error.strerror}): "
                "PENSTOCK_METRICS_PORT chooses another port",
                reason="ADDRESS_IN_USE",
            ) from error
        # prometheus_client's own start_http_server looks twice a second whether to stop; a drain waits for it.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="metrics", daemon=True)
        self._thread.start()
        self.port = int(self._server.server_port)
        return self.port

    def close(self) -> None:
        """Stop listening."""
        if self._port is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _app(self) -> WSGIApplication:
        page: WSGIApplication = make_wsgi_app(self.registry)

        def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            probe = {"/livez": lambda: True, "/readyz": self.ready}.get(environ.get("PATH_INFO", ""))
            if probe is None:
                return page(environ, start_response)
            well = probe()
            start_response("200 OK" if well else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"ok\n" if well else b"not ready\n"]

        return answer

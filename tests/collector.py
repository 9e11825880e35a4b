"""An OpenTelemetry collector, as far as traces over OTLP go: a gRPC server of its contract that keeps what comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_S = 60.0


class Collector(TraceServiceServicer):
    """Keeps every span, and which service it came from."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.resources: list[dict[str, str]] = []
        self._spans: list[Span] = []
        self._changed = threading.Condition()

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        """Take spans."""
        with self._changed:
            for resource in request.resource_spans:
                self.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
                self._spans += [span for scope in resource.scope_spans for span in scope.spans]
            self._changed.notify_all()
        return ExportTraceServiceResponse()

    def until(self, *names: str, chosen: Callable[[Span], bool] = lambda span: True) -> dict[str, Span]:
        """Wait until a chosen span of each name is there, and give them by name."""
        deadline = time.monotonic() + WAIT_S
        with self._changed:
            while True:
                found = {span.name: span for span in self._spans if chosen(span)}
                if found.keys() >= set(names):
                    return found
                assert self._changed.wait(deadline - time.monotonic()), f"{names} did not come; {sorted(found)} did"

    @property
    def spans(self) -> list[Span]:
        """What came so far."""
        with self._changed:
            return list(self._spans)


def attributes(span: Span) -> dict[str, Any]:
    """Read a span's attributes."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run one."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()

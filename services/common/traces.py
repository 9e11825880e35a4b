"""OpenTelemetry traces: a span for each RPC, and within it what a service adds, sent to a collector over OTLP.

Nothing of OpenTelemetry is imported unless an endpoint is set, and what services ask of a trace then costs nothing:
they meet `NOT_TRACED`. A trace that the caller began (W3C's `traceparent`) is continued, sampled as the caller sampled
it. Spans wait for the collector in a bounded queue; the oldest are dropped while it is down, and no request waits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from services.common.errors import DomainError, FailedPrecondition

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

    from services.common.settings import ServerSettings

STANDARD_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
SCOPE = "penstock"
QUEUED_SPANS = 8_192
BATCHED_SPANS = 512
EXPORT_TIMEOUT_S = 5.0
CLOSE_WAIT_S = 3.0
Attributes = Mapping[str, str | int | float | bool]


class Trace:
    """The trace that work is part of. This one is none: nothing is recorded."""

    __slots__ = ()
    recorded = False
    trace_id = ""
    """32 hex digits in lower case; empty where nothing is recorded."""

    def child(self, _name: str, _start_ns: int, _end_ns: int, _attributes: Attributes | None = None) -> Trace:
        """Record a span within this one that is over; times are ns since the epoch."""
        return self


NOT_TRACED = Trace()
CURRENT: ContextVar[Trace] = ContextVar("trace", default=NOT_TRACED)
"""The trace of the RPC that this thread works on."""


class SpanTrace(Trace):
    """A trace that is recorded, at one of its spans."""

    __slots__ = ("_span", "_traces", "trace_id")
    recorded = True
    trace_id: str

    def __init__(self, traces: Traces, span: SpanContext) -> None:
        self._traces = traces
        self._span = span
        self.trace_id = f"{span.trace_id:032x}"

    def child(self, name: str, start_ns: int, end_ns: int, attributes: Attributes | None = None) -> Trace:
        """Record a span within this one; see `Trace.child`."""
        return SpanTrace(self._traces, self._traces.record(name, self._span, start_ns, end_ns, attributes or {}))


class Traces:
    """This process's spans, on their way to a collector. `share` of the traces that begin here, 0 to 1, is recorded.

    It may change at any time; at 0 nothing is recorded, also of what callers began.
    """

    def __init__(self, service: str, exporter: SpanExporter, share: float, *, version: str = "") -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        from services.common.trace_sampling import ShareSampler

        self.share = share
        self._exporter = exporter
        self._provider = TracerProvider(
            sampler=ShareSampler(lambda: self.share),
            resource=Resource.create({"service.name": f"penstock-{service}", "service.version": version}),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_attribute_length=1_000),
        )
        self._queue = BatchSpanProcessor(
            exporter,
            max_queue_size=QUEUED_SPANS,
            max_export_batch_size=BATCHED_SPANS,
            export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
        )
        self._provider.add_span_processor(self._queue)
        self._tracer = self._provider.get_tracer(SCOPE)
        self._continue = TraceContextTextMapPropagator().extract
        self._kinds = trace.SpanKind
        self._failed = trace.Status(trace.StatusCode.ERROR)
        self._new_span_id = RandomIdGenerator().generate_span_id
        self._make_context = trace.SpanContext
        self._make_span = partial(
            ReadableSpan, resource=self._provider.resource, instrumentation_scope=InstrumentationScope(SCOPE)
        )

    def record(self, name: str, parent: SpanContext, start_ns: int, end_ns: int, attributes: Attributes) -> SpanContext:
        """Record a span that is over, within another; made as such, it costs a fraction of one that lives."""
        span = self._make_context(parent.trace_id, self._new_span_id(), False, parent.trace_flags, parent.trace_state)
        self._queue.on_end(
            self._make_span(name, span, parent, attributes=attributes, start_time=start_ns, end_time=end_ns)
        )
        return span

    @contextmanager
    def rpc(self, service: str, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[None]:
        """Record the block as an RPC that this server answers, with how it ended."""
        carrier = {key: value for key, value in metadata if key in ("traceparent", "tracestate")}
        span = self._tracer.start_span(
            f"{service}/{method}",
            self._continue(carrier) if carrier else None,
            kind=self._kinds.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        token = CURRENT.set(SpanTrace(self, span.get_span_context()) if span.is_recording() else NOT_TRACED)
        try:
            yield
        except BaseException as error:
            reason = error.reason if isinstance(error, DomainError) else type(error).__name__
            span.set_attribute("error.type", reason)
            if not isinstance(error, GeneratorExit):  # a client that has heard enough is no failure
                span.set_status(self._failed)
            raise
        finally:
            CURRENT.reset(token)
            span.end()

    def close(self) -> None:
        """Send what waits, for as long as that takes and a few seconds at most."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(CLOSE_WAIT_S)
        if closing.is_alive():
            self._exporter.shutdown()  # it would go on trying
            closing.join(1.0)


def traced(traces: Traces, service: str, method: str, behaviour: Callable[..., Any], *, streams: bool) -> Any:
    """Make a behaviour record its calls; `streams`: it gives its responses one by one."""

    def answer(request: Any, context: Any) -> Any:
        with traces.rpc(service, method, context.invocation_metadata()):
            return behaviour(request, context)

    def answers(request: Any, context: Any) -> Iterator[Any]:
        with traces.rpc(service, method, context.invocation_metadata()):
            yield from behaviour(request, context)

    return answers if streams else answer


def open_traces(service: str, settings: ServerSettings, stack: ExitStack) -> Traces | None:
    """Begin to trace where an endpoint is set, else give None; `stack` sends the rest at the end.

    Raises FailedPrecondition(INVALID_OTLP_ENDPOINT).
    """
    endpoint = settings.otlp_endpoint or os.environ.get(STANDARD_VARIABLE, "")
    if not endpoint:
        return None
    secure = _check(endpoint)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    from penstock import __version__

    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not secure, timeout=EXPORT_TIMEOUT_S)
    traces = Traces(service, exporter, settings.trace_share, version=__version__)
    stack.callback(traces.close)
    return traces


def _check(endpoint: str) -> bool:
    """Whether an endpoint speaks TLS; the error quotes nothing of it, for it may hold a secret."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise FailedPrecondition(
            "PENSTOCK_OTLP_ENDPOINT must be like http://127.0.0.1:4317 (https:// for TLS), without credentials: "
            "those go into OTEL_EXPORTER_OTLP_HEADERS",
            reason="INVALID_OTLP_ENDPOINT",
        )
    return parts.scheme == "https"

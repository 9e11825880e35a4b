"""When there are traces at all, and what of them is recorded."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.common.errors import FailedPrecondition, NotFound
from services.common.settings import ServerSettings
from services.common.traces import (
    BATCHED_SPANS,
    CURRENT,
    NOT_TRACED,
    QUEUED_SPANS,
    STANDARD_VARIABLE,
    Traces,
    open_traces,
    traced,
)


def settings(**more: Any) -> ServerSettings:
    return ServerSettings(port=0, metrics_port=0, **more)


def metadata(*, sampled: bool) -> tuple[tuple[str, str], ...]:
    return (("authorization", "Bearer secret"), ("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-0{int(sampled)}"))


class Context:
    def __init__(self, *given: tuple[str, str]) -> None:
        self.given = given

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.given


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def recorded(traces: Traces, exporter: InMemorySpanExporter) -> list[Any]:
    traces.close()
    return list(exporter.get_finished_spans())


@pytest.mark.slow
def test_without_an_endpoint_nothing_is_imported_and_nothing_traced() -> None:
    code = (
        "import sys, json\n"
        "import services.inference.__main__, services.registry.__main__, services.monitoring.__main__\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('opentelemetry')]))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert json.loads(printed) == []


def test_an_endpoint_turns_traces_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STANDARD_VARIABLE, raising=False)
    with ExitStack() as stack:
        assert open_traces("registry", settings(), stack) is None
        ours = open_traces("registry", settings(otlp_endpoint="http://127.0.0.1:1", trace_share=0.25), stack)
        assert ours is not None
        assert ours.share == 0.25
        monkeypatch.setenv(STANDARD_VARIABLE, "http://127.0.0.1:1")
        assert open_traces("registry", settings(), stack) is not None


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4317", "ftp://host", "http://ada:secret@host:4317", "http://"])
def test_an_endpoint_that_is_none_is_refused_and_not_quoted(endpoint: str) -> None:
    with ExitStack() as stack, pytest.raises(FailedPrecondition, match="OTEL_EXPORTER_OTLP_HEADERS") as caught:
        open_traces("registry", settings(otlp_endpoint=endpoint), stack)
    assert caught.value.reason == "INVALID_OTLP_ENDPOINT"
    assert "secret" not in caught.value.message


def test_a_call_is_a_span_and_its_thread_knows_the_trace(exporter: InMemorySpanExporter) -> None:
    traces = Traces("test", exporter, 1.0)
    seen: list[str] = []
    behaviour = traced(traces, "s", "M", lambda request, context: seen.append(CURRENT.get().trace_id), streams=False)
    behaviour(None, Context(*metadata(sampled=True)))
    assert seen == ["ab" * 16]
    assert CURRENT.get() is NOT_TRACED
    (span,) = recorded(traces, exporter)
    assert (span.name, f"{span.context.trace_id:032x}") == ("s/M", "ab" * 16)
    assert f"{span.parent.span_id:016x}" == "cd" * 8
    assert "secret" not in span.to_json()


def test_a_stream_is_a_span_from_its_first_response_to_its_end(exporter: InMemorySpanExporter) -> None:
    traces = Traces("test", exporter, 1.0)

    def behave(request: Any, context: Any) -> Any:
        yield CURRENT.get().trace_id
        yield CURRENT.get().trace_id

    responses = traced(traces, "s", "M", behave, streams=True)(None, Context())
    first, second = responses
    assert first == second != ""
    (span,) = recorded(traces, exporter)
    assert span.status.is_ok


def test_a_stream_that_is_left_is_no_failure(exporter: InMemorySpanExporter) -> None:
    traces = Traces("test", exporter, 1.0)
    responses = traced(traces, "s", "M", lambda request, context: iter("ab"), streams=True)(None, Context())
    next(responses)
    responses.close()
    (span,) = recorded(traces, exporter)
    assert span.status.is_ok
    assert CURRENT.get() is NOT_TRACED


def test_an_error_marks_its_span_with_its_reason(exporter: InMemorySpanExporter) -> None:
    traces = Traces("test", exporter, 1.0)

    def behave(request: Any, context: Any) -> None:
        raise NotFound("secret words", reason="MODEL_NOT_FOUND")

    with pytest.raises(NotFound):
        traced(traces, "s", "M", behave, streams=False)(None, Context())
    (span,) = recorded(traces, exporter)
    assert not span.status.is_ok
    assert span.attributes["error.type"] == "MODEL_NOT_FOUND"
    assert "secret words" not in span.to_json()


@pytest.mark.parametrize(
    ("share", "given", "expected"),
    [(1.0, (), 1), (0.0, (), 0), (0.0, metadata(sampled=True), 0), (1.0, metadata(sampled=False), 0),
     (1e-9, metadata(sampled=True), 1)],
)  # fmt: skip
def test_the_callers_choice_goes_before_ours_unless_nothing_is_to_be_traced(
    exporter: InMemorySpanExporter, share: float, given: tuple[tuple[str, str], ...], expected: int
) -> None:
    traces = Traces("test", exporter, 1.0)
    traces.share = share  # as Triton's trace settings change it
    known: list[bool] = []
    behaviour = traced(traces, "s", "M", lambda request, context: known.append(CURRENT.get().recorded), streams=False)
    behaviour(None, Context(*given))
    assert known == [bool(expected)]
    assert len(recorded(traces, exporter)) == expected


def test_a_malformed_parent_begins_a_trace_of_its_own(exporter: InMemorySpanExporter) -> None:
    traces = Traces("test", exporter, 1.0)
    traced(traces, "s", "M", lambda request, context: None, streams=False)(None, Context(("traceparent", "nonsense")))
    (span,) = recorded(traces, exporter)
    assert span.parent is None


class HangingExporter(InMemorySpanExporter):
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.released.wait()
        return super().export(spans)


def test_a_collector_that_hangs_holds_up_no_call_and_the_queue_is_bounded() -> None:
    exporter = HangingExporter()
    traces = Traces("test", exporter, 1.0)
    for _ in range(QUEUED_SPANS + 2_000):
        with traces.rpc("s", "M", ()):
            pass
    exporter.released.set()
    assert len(recorded(traces, exporter)) <= QUEUED_SPANS + BATCHED_SPANS


@pytest.mark.slow
def test_closing_waits_for_no_collector_for_long() -> None:
    with ExitStack() as stack:
        traces = open_traces("test", settings(otlp_endpoint="http://127.0.0.1:1"), stack)
        assert traces is not None
        for _ in range(3):
            with traces.rpc("s", "M", ()):
                pass

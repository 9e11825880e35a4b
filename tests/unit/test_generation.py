"""The use case of Generate over a session that writes what a test says."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from typing import Any, cast

import pytest

from services.common.errors import Cancelled, DeadlineExceeded, FailedPrecondition, Unavailable
from services.common.traces import CURRENT, Trace
from services.inference.engine.engine import Engine
from services.inference.events.events import Event, EventLog
from services.inference.generation.generator import GenerationRequest, TextGenerator, Written
from services.inference.models import Caller, OllamaReference, ResolvedVersion, Signature, TensorSpec
from services.inference.runtimes.runtime import Ending, FinishReason, GenerationOptions, Piece
from services.inference.sessions.sessions import SessionCache
from services.inference.tensors import Tensor
from tests.serving import PlainSession, Versions

PROMPTED = Signature((TensorSpec("prompt", "BYTES", (-1,)),), (TensorSpec("response", "BYTES", (-1,)),))
END = Piece("", Ending(FinishReason.STOP, 5, 2))


class WritingSession(PlainSession):
    """Writes these pieces; an error among them is raised."""

    def __init__(self, *pieces: Piece | Exception) -> None:
        super().__init__()
        self.pieces = pieces
        self.left = self.cancelled = False

    def stream(self, inputs: Mapping[str, Tensor], options: GenerationOptions) -> WritingSession:
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def __iter__(self) -> Generator[Piece, None, None]:
        try:
            for piece in self.pieces:
                if self.cancelled:
                    raise Cancelled("gone")
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        except GeneratorExit:
            self.left = True
            raise


class KeptEvents:
    """Takes events in place of the spool."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, event: Event) -> None:
        self.events.append(event)


class Writer:
    """A generator over one session, what it recorded, and its engine."""

    def __init__(self, session: WritingSession, reference: OllamaReference | None) -> None:
        version = ResolvedVersion("writer", "1", 1, "ollama", "production", PROMPTED, ollama=reference)
        resolver = Versions(version)
        self.session = session
        self.kept = KeptEvents()
        self.engine = Engine(resolver, SessionCache(self._load))
        self.generator = TextGenerator(cast("Any", resolver), self.engine, EventLog(cast("Any", self.kept)))

    def _load(self, version: ResolvedVersion, resources: ExitStack) -> WritingSession:
        return self.session

    def write(self, *, here: bool = True, timeout_s: float | None = None) -> Generator[Written, None, None]:
        request = GenerationRequest("writer", "", "count", (), GenerationOptions(), Caller(user_id="ada"))
        return self.generator.generate(request, timeout_s=timeout_s, on_cancel=lambda callback: here)

    @property
    def event(self) -> Event:
        (event,) = self.kept.events
        return event


def writer(*pieces: Piece | Exception, mode: str = "generate") -> Writer:
    return Writer(WritingSession(*pieces), OllamaReference("llama", mode) if mode else None)


def test_pieces_and_a_completion_are_one_success_and_one_event() -> None:
    here = writer(Piece("one "), Piece("two"), END)
    *pieces, last = here.write()
    assert [piece.text for piece in pieces] == ["one ", "two"]
    assert last.completion is not None
    assert last.completion.ending == END.ending
    assert {piece.inference_id for piece in (*pieces, last)} == {here.event.inference_id}
    assert here.event.outputs["response"].tolist() == [b"one two"]
    (counts,) = here.engine.statistics()
    assert (counts.successes, counts.failed, counts.in_flight) == (1, 0, 0)


def test_a_last_piece_with_text_is_a_piece_and_then_the_end() -> None:
    *pieces, last = writer(Piece("all", END.ending)).write()
    assert [piece.text for piece in pieces] == ["all"]
    assert last.text == ""


def test_a_reader_that_leaves_is_cancelled_and_recorded_with_what_it_read() -> None:
    here = writer(Piece("one "), Piece("two"), END)
    pieces = here.write()
    next(pieces)
    pieces.close()
    assert here.session.left
    assert here.event.error_code == "CANCELLED"
    assert here.event.outputs["response"].tolist() == [b"one "]
    (counts,) = here.engine.statistics()
    assert counts.failures == {"CANCELED": 1}
    assert counts.in_flight == 0


def test_a_client_that_was_gone_before_gets_nothing_written() -> None:
    here = writer(Piece("one "), END)
    with pytest.raises(Cancelled):
        next(here.write(here=False))
    assert here.session.cancelled
    assert here.event.error_code == "CANCELLED"


def test_a_cancellation_at_the_deadline_is_the_deadlines() -> None:
    here = writer(Cancelled("gone"))
    with pytest.raises(DeadlineExceeded):
        next(here.write(timeout_s=0.05))
    assert here.event.error_code == "REQUEST_TIMEOUT"


def test_a_failure_is_recorded_with_what_was_written_before_it() -> None:
    here = writer(Piece("one "), Unavailable("gone", reason="OLLAMA_FAILED"))
    with pytest.raises(Unavailable):
        list(here.write())
    assert here.event.error_code == "OLLAMA_FAILED"
    assert here.event.outputs["response"].tolist() == [b"one "]
    assert here.event.latency_ms > 0


def test_a_text_longer_than_monitoring_takes_is_not_held_for_it() -> None:
    here = writer(*[Piece("x" * 400_000)] * 3, END)
    assert sum(len(piece.text) for piece in here.write()) == 1_200_000
    assert (here.event.inputs, here.event.outputs) == ({}, {})


@pytest.mark.parametrize(
    ("mode", "reason"), [("embed", "NOT_A_GENERATING_MODEL"), ("", "NOT_A_GENERATING_MODEL"), ("chat", "WRONG_MODE")]
)
def test_what_writes_no_text_from_a_prompt_is_not_even_loaded(mode: str, reason: str) -> None:
    here = writer(END, mode=mode)
    with pytest.raises(FailedPrecondition) as caught:
        next(here.write())
    assert caught.value.reason == reason
    assert not here.kept.events, "a caller's mistake is no error of the model's"
    assert here.engine.statistics() == []


def test_the_times_are_those_of_the_wall() -> None:
    here = writer(Piece("one"), END)
    began = time.perf_counter()
    *_, last = here.write()
    most_ms = (time.perf_counter() - began) * 1000
    assert last.completion is not None
    assert 0 < last.completion.first_token_ms <= last.completion.latency_ms <= most_ms


class KeptTrace(Trace):
    """Keeps its spans: name, start and end."""

    recorded = True
    trace_id = "ab" * 16

    def __init__(self) -> None:
        self.spans: dict[str, tuple[int, int]] = {}

    def child(self, name: str, start_ns: int, end_ns: int, attributes: object = None) -> Trace:
        self.spans[name] = (start_ns, end_ns)
        return self


def test_a_traced_generation_tells_its_waiting_from_its_writing() -> None:
    trace = KeptTrace()
    here = writer(Piece("one"), END)
    token = CURRENT.set(trace)
    try:
        list(here.write())
    finally:
        CURRENT.reset(token)
    assert here.event.trace is trace
    infer, queue, compute = (trace.spans[name] for name in ("infer", "queue", "compute"))
    assert infer[0] == queue[0] <= queue[1] == compute[0] <= compute[1] == infer[1]

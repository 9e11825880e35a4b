"""The use case of Generate: resolve, stream the pieces of a text as the model writes them, and leave one event."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import cast

import numpy as np

from penstock.ids import uuid7
from services.common.errors import Cancelled, DeadlineExceeded, DomainError
from services.common.traces import Trace
from services.inference.engine.engine import Engine
from services.inference.events.events import MAX_PAYLOAD_BYTES, Event, EventLog
from services.inference.following.catalog import Catalog
from services.inference.models import Caller, NotAskedLikeThat, ResolvedVersion
from services.inference.runtimes.runtime import Ending, GeneratingSession, GenerationOptions, Piece
from services.inference.tensors import Tensor

OnCancel = Callable[[Callable[[], None]], bool]
SLACK_NS = 100_000_000
Texts = Generator[str, None, None]
INPUTS = {"chat": "messages", "generate": "prompt"}


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to go on from: `prompt`, or `messages`, each with its role and its content; the other one is empty."""

    model: str
    version: str
    prompt: str
    messages: tuple[Mapping[str, str], ...]
    options: GenerationOptions
    caller: Caller


@dataclass(frozen=True, slots=True)
class Completion:
    """How a generation ended, and how long it took from the request's arrival, in ms."""

    version: ResolvedVersion
    ending: Ending
    first_token_ms: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Written:
    """A piece of a text. The last one alone has a `completion`."""

    inference_id: str
    text: str
    completion: Completion | None = None


Pieces = Generator[Written, None, None]


class TextGenerator:
    """Generates texts and records each, the failed and the abandoned ones too."""

    def __init__(self, catalog: Catalog, engine: Engine, events: EventLog) -> None:
        self._catalog = catalog
        self._engine = engine
        self._events = events

    def generate(self, request: GenerationRequest, *, timeout_s: float | None = None, on_cancel: OnCancel) -> Pieces:
        """Give the pieces as they come; the next one is asked for when the reader wants it, so a slow one slows it.

        Args:
            request: see there.
            timeout_s: the time left, from now; None: as long as the runtime lets it take.
            on_cancel: takes a callback for when the client goes away or its time is over; says False where it has.

        Raises:
            NotAskedLikeThat: NOT_A_GENERATING_MODEL, WRONG_MODE.
            DomainError: see `Catalog.resolve`, `Engine.track` and what the runtime raises.
        """
        attempt = _Attempt(request, timeout_s)
        try:
            with closing(self._write(attempt, request, on_cancel)) as texts:
                for text in texts:
                    yield Written(attempt.inference_id, text)
        except NotAskedLikeThat:
            raise
        except BaseException as raised:
            error = attempt.meant_by(raised)
            self._events.record(attempt.event(_reason_of(error)))
            if error is raised:
                raise
            raise error from raised
        self._events.record(attempt.event())
        yield Written(attempt.inference_id, "", attempt.completion())

    def _write(self, attempt: _Attempt, request: GenerationRequest, on_cancel: OnCancel) -> Texts:
        attempt.resolved = version = self._catalog.resolve(request.model, request.version)
        attempt.inputs = inputs = _inputs(request, version)
        with self._engine.track(version, deadline_ns=attempt.deadline_ns) as tracked:
            attempt.ready_ns = time.time_ns()
            generation = cast("GeneratingSession", tracked.session).stream(inputs, request.options)
            if not on_cancel(generation.cancel):
                generation.cancel()
            with closing(iter(generation)) as pieces:
                for piece in pieces:
                    attempt.take(piece)
                    if piece.text:
                        yield piece.text


class _Attempt:
    """A generation under way: what is known of it so far."""

    def __init__(self, request: GenerationRequest, timeout_s: float | None) -> None:
        self.inference_id = uuid7()
        self.deadline_ns = 0 if timeout_s is None else time.monotonic_ns() + int(timeout_s * 1e9)
        self.resolved: ResolvedVersion | None = None
        self.inputs: Mapping[str, Tensor] = {}
        self.ending: Ending | None = None
        self.ready_ns = 0
        """When the model was there, on the wall clock."""
        self._request = request
        self._began_ns = time.time_ns()
        self._began = time.perf_counter()
        self._first_token_ms = 0.0
        self._texts: list[str] = []
        self._size = 0

    def take(self, piece: Piece) -> None:
        """Note a piece; what monitoring would not keep is not kept here either."""
        text, self.ending = piece.text, piece.ending
        if not self._size and text:
            self._first_token_ms = self._elapsed_ms()
        self._size += len(text)
        if self._size <= MAX_PAYLOAD_BYTES:
            self._texts.append(text)
        else:
            self._texts.clear()

    def meant_by(self, raised: BaseException) -> BaseException:
        """Tell a deadline from a client that left: both end the runtime's call alike, and often its clock is ahead."""
        if isinstance(raised, Cancelled) and self.deadline_ns and time.monotonic_ns() >= self.deadline_ns - SLACK_NS:
            return DeadlineExceeded("Request timeout expired", reason="REQUEST_TIMEOUT")
        return raised

    def event(self, error_code: str = "") -> Event:
        """Write down what became of it, with what was written so far."""
        event = Event(self.inference_id, self._request.model, self._request.caller)
        event.resolved = self.resolved
        event.error_code = error_code
        event.latency_ms = self._elapsed_ms()
        if event.trace.recorded and self.ready_ns:
            self._record(event.trace)
        if self._size <= MAX_PAYLOAD_BYTES:
            event.inputs = self.inputs
            event.outputs = {"response": _one("".join(self._texts))} if self._texts else {}
        return event

    def completion(self) -> Completion:
        """Say how it ended."""
        if self.resolved is None or self.ending is None:  # pragma: no cover - a runtime's last piece has an ending
            raise AssertionError(self._request.model)
        return Completion(self.resolved, self.ending, self._first_token_ms, self._elapsed_ms())

    def _record(self, trace: Trace) -> None:
        """Record `infer`, and within it `queue`, the wait for a loaded session, and `compute`, the writing."""
        end_ns = time.time_ns()
        attributes: dict[str, str | int | float] = {
            "penstock.inference_id": self.inference_id,
            "penstock.model": self._request.model,
            "penstock.first_token_ms": self._first_token_ms,
        }
        if self.ending is not None:
            attributes["penstock.output_token_count"] = self.ending.output_token_count
        infer = trace.child("infer", self._began_ns, end_ns, attributes)
        infer.child("queue", self._began_ns, self.ready_ns)
        infer.child("compute", self.ready_ns, end_ns)

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._began) * 1000


def _inputs(request: GenerationRequest, version: ResolvedVersion) -> dict[str, Tensor]:
    """Give what came as the tensor that the model's mode takes."""
    mode = version.ollama.mode if version.ollama is not None else ""
    name = INPUTS.get(mode)
    if name is None:
        sentence = f"{version.model} {version.version} writes no text: it is no reference to Ollama of mode chat or "
        raise NotAskedLikeThat(sentence + "generate; Predict or Embed asks it", reason="NOT_A_GENERATING_MODEL")
    if bool(request.messages) != (name == "messages"):
        sentence = f"{version.model} {version.version} is of mode {mode} and takes `{name}`; send these"
        raise NotAskedLikeThat(sentence, reason="WRONG_MODE")
    text = json.dumps(request.messages, ensure_ascii=False) if request.messages else request.prompt
    return {name: _one(text)}


def _one(text: str) -> Tensor:
    tensor = np.empty(1, dtype=object)
    tensor[0] = text.encode()
    return tensor


def _reason_of(error: BaseException) -> str:
    if isinstance(error, GeneratorExit):
        return "CANCELLED"
    return error.reason if isinstance(error, DomainError) else "INTERNAL"

"""A referenced model as a session: its calls, a row each."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from services.common.errors import Cancelled, DomainError, InvalidArgument, Unavailable
from services.inference.models import ModelFailed, OllamaReference, Signature
from services.inference.runtimes.ollama.answers import NONSENSE, ended_early, parse, piece_of, vector_of
from services.inference.runtimes.ollama.call import MAX_LINE_BYTES, Call
from services.inference.runtimes.ollama.server import OllamaServer
from services.inference.runtimes.ollama.slots import CallSlots
from services.inference.runtimes.runtime import GenerationOptions, Piece
from services.inference.tensors import Tensor

PATHS = {"chat": "/api/chat", "generate": "/api/generate", "embed": "/api/embed"}
INPUTS = {"chat": "messages", "generate": "prompt", "embed": "text"}
MAX_MESSAGES = 1_000
Row = str | list[Any]


class OllamaSession:
    """Answers by a model that an Ollama server keeps: nothing of it is in this process's memory.

    Each row is a call of its own, `max_parallel_runs` of them at once in all predictions together; the first of a run
    that fails ends its others. Streams are not counted among them.
    """

    size_bytes = 0

    def __init__(self, server: OllamaServer, reference: OllamaReference, signature: Signature) -> None:
        self.signature = signature
        self.max_parallel_runs = server.limits.parallel_calls
        self._server = server
        self._reference = reference
        self._slots = CallSlots(self.max_parallel_runs)
        self._rows = ThreadPoolExecutor(self.max_parallel_runs, thread_name_prefix="ollama-row")
        # What is under way and when it began; each step on it is one atomic dict operation.
        self._runs: dict[_Run, float] = {}

    def run(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str] = (),  # noqa: ARG002 - there is one
    ) -> dict[str, Tensor]:
        """Answer each row; see `runtime.Session.run` and `Call.lines`."""
        return self.prepare(inputs)()

    def prepare(self, inputs: Mapping[str, Tensor]) -> OllamaRun:
        """Make ready to ask for each row; see `runtime.CancellableSession.prepare`."""
        return OllamaRun(self._read(inputs), self._answers, self._slots)

    def stream(self, inputs: Mapping[str, Tensor], options: GenerationOptions) -> OllamaGeneration:
        """Generate from one row; see `runtime.GeneratingSession.stream`."""
        (row,) = self._read(inputs)
        call = self._server.call(PATHS[self._reference.mode], self._document(row) | {"options": _options(options)})
        return OllamaGeneration(call, self._reference.mode, self._kept)

    def terminate(self, *, longer_than_s: float = 0.0) -> int:
        """End long runs; see `runtime.Session.terminate`.

        A stream may be long, and is ended here only once the time of its call is over, which its age is counted from.
        """
        now = time.monotonic()
        going = 0
        for run, began in list(self._runs.items()):
            if run.is_late(began, now, longer_than_s):
                run.end(ModelFailed("the run took too long and was ended", reason="RUN_TERMINATED"))
                going += run.is_going(now, longer_than_s)
        return going

    def close(self) -> None:
        """End its threads; the server's connections stay, for other models."""
        self._rows.shutdown(wait=False)

    def _answers(self, run: _Run, rows: list[Row]) -> dict[str, Tensor]:
        with self._kept(run):
            if self._reference.mode == "embed":
                return {"embedding": _matrix(run.answers(rows, self._embed, self._rows, self.max_parallel_runs))}
            texts = run.answers(rows, self._write, self._rows, self.max_parallel_runs)
        response = np.empty(len(texts), dtype=object)
        response[:] = texts
        return {"response": response}

    @contextmanager
    def _kept(self, run: _Run) -> Iterator[_Run]:
        self._runs[run] = time.monotonic()
        try:
            yield run
        finally:
            del self._runs[run]

    def _read(self, inputs: Mapping[str, Tensor]) -> list[Row]:
        name = INPUTS[self._reference.mode]
        read = _messages if self._reference.mode == "chat" else _text
        return [read(name, index, element) for index, element in enumerate(inputs[name].ravel().tolist())]

    def _document(self, row: Row) -> dict[str, Any]:
        return {"model": self._reference.model, INPUTS[self._reference.mode]: row, "stream": True}

    def _write(self, run: _Run, row: Row) -> str:
        """Read one text to its end: streamed here as well, so that silence is told from length."""
        call = self._server.call(PATHS[self._reference.mode], self._document(row))
        with self._slots.taken(run.ended), run.calling(call):
            return "".join(piece.text for piece in _pieces(call, self._reference.mode))

    def _embed(self, run: _Run, row: Row) -> list[float]:
        document = {"model": self._reference.model, "input": row}
        call = self._server.call(PATHS["embed"], document)
        with self._slots.taken(run.ended), run.calling(call):
            return vector_of(parse(b" ".join(call.lines(MAX_LINE_BYTES))))


class _Run:
    """One run, and the calls that it has under way."""

    def __init__(self, slots: CallSlots | None = None) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        self._ended: DomainError | None = None

    def end(self, error: DomainError) -> None:
        """End its calls, and begin none any more."""
        with self._lock:
            self._ended = self._ended or error
            calls = list(self._calls)
        for call in calls:
            call.end(error)
        if self._slots is not None:
            self._slots.wake()

    def ended(self) -> DomainError | None:
        """Give what it was ended with."""
        return self._ended

    def is_late(self, began: float, now: float, longer_than_s: float) -> bool:
        """Whether it is to be ended, having gone on for so long."""
        return now - began >= longer_than_s

    def is_going(self, now: float, longer_than_s: float) -> bool:  # noqa: ARG002 - its age is known by `is_late`
        """Whether it, being late, keeps a thread that long."""
        return True

    @contextmanager
    def calling(self, call: Call) -> Iterator[Call]:
        """Hold a call while it is under way; raises what the run was ended with."""
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._calls.add(call)
        try:
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)

    def answers(
        self, rows: Sequence[Row], ask: Callable[[_Run, Row], Any], threads: ThreadPoolExecutor, at_once: int
    ) -> list[Any]:
        """Ask for every row, on this thread and on as many others as may be; raises the first error of any."""
        answers: list[Any] = [None] * len(rows)
        places = iter(range(len(rows)))  # shared: each place is taken once

        def work() -> None:
            for place in places:
                try:
                    answers[place] = ask(self, rows[place])
                except DomainError as error:
                    self.end(error)
                    return

        others = [threads.submit(work) for _ in range(min(len(rows), at_once) - 1)]
        try:
            work()
        finally:
            # Those that have not begun find nothing left to do, or wait for a thread that another run has.
            begun = [other for other in others if not other.cancel()]
            wait(begun)
        for other in begun:
            other.result()
        if self._ended is not None:
            raise self._ended
        return answers


class OllamaRun:
    """The calls for all rows of a prediction; see `runtime.Run`."""

    def __init__(self, rows: list[Row], ask: Callable[[_Run, list[Row]], dict[str, Tensor]], slots: CallSlots) -> None:
        self._rows = rows
        self._ask = ask
        self._run = _Run(slots)

    def __call__(self) -> dict[str, Tensor]:
        """Ask for every row; see `OllamaSession.run`."""
        return self._ask(self._run, self._rows)

    def cancel(self) -> None:
        """End it from any thread; see `runtime.Run.cancel`."""
        self._run.end(_gone())


class _StreamedRun(_Run):
    """A generation. Between two pieces it is its reader's turn, for as long as that takes: nothing hangs then."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def is_late(self, began: float, now: float, longer_than_s: float) -> bool:  # noqa: ARG002 - by its call's time
        """Whether the time of its call is over, or every run is to be ended."""
        return longer_than_s <= 0 or self._call.overdue_s(now) >= 0

    def is_going(self, now: float, longer_than_s: float) -> bool:
        """Whether a thread still waits for the server, so long after the time of its call."""
        return longer_than_s <= 0 or (self._call.waiting and self._call.overdue_s(now) >= longer_than_s)


class OllamaGeneration:
    """A text that the server writes; see `runtime.Generation`."""

    def __init__(self, call: Call, mode: str, keep: Callable[[_Run], Any]) -> None:
        self._call = call
        self._mode = mode
        self._keep = keep

    def __iter__(self) -> Generator[Piece, None, None]:
        with self._keep(_StreamedRun(self._call)) as run, run.calling(self._call) as call:
            yield from _pieces(call, self._mode)

    def cancel(self) -> None:
        """End it from any thread; see `runtime.Generation.cancel`."""
        self._call.end(_gone())


def _gone() -> Cancelled:
    return Cancelled("the caller went away; what the model wrote was ended")


def _pieces(call: Call, mode: str) -> Generator[Piece, None, None]:
    """Read pieces up to the one that says that it is the last; silent ones (a model that thinks) are left out."""
    with closing(call.lines()) as lines:
        for line in lines:
            piece = piece_of(parse(line), mode)
            if piece.ending is not None:
                call.hear_no_more()
            if piece.text or piece.ending is not None:
                yield piece
            if piece.ending is not None:
                return
    raise ended_early()


def _options(options: GenerationOptions) -> dict[str, Any]:
    """Name the options as Ollama does, and leave out what the model decides."""
    named = {
        "num_predict": options.max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "seed": options.seed,
        "stop": list(options.stop) or None,
    }
    return {name: value for name, value in named.items() if value is not None}


def _matrix(vectors: list[list[float]]) -> Tensor:
    lengths = sorted({len(vector) for vector in vectors})
    if len(lengths) > 1:
        sentence = f"Ollama gave vectors of unequal length, {lengths[0]} and {lengths[-1]}"
        raise Unavailable(sentence, reason=NONSENSE)
    return np.array(vectors, np.float32).reshape(len(vectors), lengths[0] if lengths else 0)


def _text(name: str, index: int, element: object) -> str:
    try:
        return element.decode() if isinstance(element, bytes) else str(element)
    except UnicodeDecodeError as error:
        sentence = f"element {index} is not UTF-8: {error.reason} at byte {error.start}"
        raise InvalidArgument.field(name, sentence, reason="INVALID_UTF8") from error


def _messages(name: str, index: int, element: object) -> list[Any]:
    """Read a conversation: a JSON array of objects, each with `role` and `content`."""
    try:
        messages = json.loads(_text(name, index, element))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument.field(name, f"element {index} is no JSON", reason="INVALID_MESSAGES") from error
    sound = isinstance(messages, list) and all(
        isinstance(each, dict) and isinstance(each.get("role"), str) and isinstance(each.get("content"), str)
        for each in messages
    )
    if not sound or not 1 <= len(messages) <= MAX_MESSAGES:
        sentence = f"element {index} is not 1 to {MAX_MESSAGES} objects with `role` and `content`"
        raise InvalidArgument.field(name, sentence, reason="INVALID_MESSAGES")
    return list(messages)

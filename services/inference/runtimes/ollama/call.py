"""One call to an Ollama server: its answer as it comes, bounded in bytes and in time, and ended from any thread."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from urllib3 import exceptions as http
from urllib3.response import BaseHTTPResponse

from services.common.errors import DeadlineExceeded, DomainError, Unavailable
from services.inference.runtimes.ollama.answers import NONSENSE, refusal

if TYPE_CHECKING:
    from services.inference.runtimes.ollama.connections import OwnedConnection
    from services.inference.runtimes.ollama.server import OllamaServer

OK = 200
READ_BYTES = 64 * 1024
MAX_LINE_BYTES = 8 * 2**20
"""A line of an answer; the longest, a generation's last, may hold the numbers of all its tokens."""
MAX_ANSWER_BYTES = 256 * 2**20
MAX_REFUSAL_BYTES = 64 * 1024
LEFTOVER_WAIT_S = 0.05
"""How long the end of an answer that has said all may take, so that its connection can be used again."""


class Call:
    """A request and its answer. Read it once, with `lines`; `end` it from any thread."""

    def __init__(self, server: OllamaServer, path: str, document: Mapping[str, Any], timeout_s: float) -> None:
        self.path = path
        self.document = document
        self._server = server
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        self._lock = threading.Lock()
        self._connection: OwnedConnection | None = None
        self._ended: DomainError | None = None
        self._heard_all = False
        self.waiting = False
        """Whether a thread waits for the server right now; not so while whoever reads the answer is busy with it."""

    def lines(self, most_bytes: int | None = None) -> Generator[bytes, None, None]:
        """Send the request, and give the answer's lines as they come, without their ends; empty ones are left out.

        An answer of over `most_bytes`, or MAX_ANSWER_BYTES, is nonsense.

        Raises:
            Unavailable: OLLAMA_UNREACHABLE, OLLAMA_FAILED (it refused, or broke off), OLLAMA_NONSENSE.
            FailedPrecondition: OLLAMA_MODEL_MISSING.
            DeadlineExceeded: OLLAMA_TIMEOUT.
            DomainError: what the call was ended with.
        """
        with self._opened() as response:
            if response.status != OK:
                raise refusal(response.status, b"".join(self._chunks(response, MAX_REFUSAL_BYTES)), self.document)
            for line in _lines(self._chunks(response, most_bytes or MAX_ANSWER_BYTES)):
                if line.strip():
                    yield line

    def end(self, error: DomainError) -> None:
        """Shut its connection, whatever is under way: whoever reads it, or will, hears the error."""
        with self._lock:
            self._ended = self._ended or error
        connection = self._connection
        if connection is not None:
            connection.shut(self)

    def hear_no_more(self) -> None:
        """Say that the line just read was the last, so that the connection can be used again."""
        self._heard_all = True

    def overdue_s(self, now: float) -> float:
        """Say since when its whole time is over, which a server that sends a byte now and then could hide.

        Negative while it is not, or where the call has not begun.
        """
        return -math.inf if self._deadline is None else now - self._deadline

    # For the server that opens it

    def attach(self, connection: OwnedConnection) -> None:
        """Take the connection on which the answer will come; raises what the call was ended with."""
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._connection = connection

    def wait_s(self, now: float) -> float:
        """Say for how long the server may be silent from now on; raises DeadlineExceeded where no time is left."""
        stall_s = self._server.limits.stall_timeout_s
        if self._deadline is None:
            return stall_s
        if now >= self._deadline:
            raise self._too_long()
        return min(stall_s, self._deadline - now)

    @contextmanager
    def _opened(self) -> Iterator[BaseHTTPResponse]:
        """Open it, and let go of the connection at the end: to be used again only if all of the answer was read."""
        self._deadline = time.monotonic() + self._timeout_s
        response: BaseHTTPResponse | None = None
        try:
            if self._ended is not None:
                raise self._ended
            with self._in_wait():
                response = self._server.open(self)
            yield response
        except (http.HTTPError, OSError) as error:
            raise self._ended or self._translated(error) from error
        finally:
            if response is not None and self._heard_all:
                self._read_leftover(response)
            if response is not None:
                response.close()
            self._connection = None

    def _chunks(self, response: BaseHTTPResponse, most_bytes: int) -> Iterator[bytes]:
        left_bytes = most_bytes
        while chunk := self._read(response, self.wait_s(time.monotonic())):
            left_bytes -= len(chunk)
            if left_bytes < 0:
                raise Unavailable(f"Ollama's answer is over {most_bytes} bytes", reason=NONSENSE)
            yield chunk
        if self._ended is not None:  # a socket that was shut ends as an answer does that is complete
            raise self._ended

    def _read(self, response: BaseHTTPResponse, wait_s: float) -> bytes:
        connection = self._connection
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(wait_s)
        with self._in_wait():
            return response.read1(READ_BYTES) or b""

    @contextmanager
    def _in_wait(self) -> Iterator[None]:
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False

    def _read_leftover(self, response: BaseHTTPResponse) -> None:
        """Read the end of an answer that has said all."""
        with suppress(http.HTTPError, OSError):
            self._read(response, LEFTOVER_WAIT_S)

    def _translated(self, error: Exception) -> DomainError:
        """Say what went wrong, by the most specific class, and nothing of what a URL may hide."""
        url = self._server.address
        if isinstance(error, (http.NewConnectionError, http.ConnectTimeoutError, http.SSLError)):
            return Unavailable(
                f"no Ollama server answers at {url} ({_cause(error)}): start it (`ollama serve`), or say where it is "
                "with PENSTOCK_OLLAMA_URL",
                reason="OLLAMA_UNREACHABLE",
                retry_after_s=1.0,
            )
        if isinstance(error, http.ReadTimeoutError):
            if self.overdue_s(time.monotonic()) >= 0:
                return self._too_long()
            sentence = f"Ollama at {url} was silent for {self._server.limits.stall_timeout_s:g} s; "
            return DeadlineExceeded(sentence + "see PENSTOCK_OLLAMA_STALL_TIMEOUT_MS", reason="OLLAMA_TIMEOUT")
        return Unavailable(f"Ollama at {url} broke the connection off ({_cause(error)})", reason="OLLAMA_FAILED")

    def _too_long(self) -> DeadlineExceeded:
        sentence = f"Ollama did not end within {self._timeout_s:g} s (the request's deadline, or "
        return DeadlineExceeded(sentence + "PENSTOCK_OLLAMA_TIMEOUT_MS)", reason="OLLAMA_TIMEOUT")


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    size_bytes = 0
    for chunk in chunks:
        head, *more = chunk.split(b"\n")
        for end in more:
            yield b"".join([*parts, head])
            parts, head, size_bytes = [], end, 0
        parts.append(head)
        size_bytes += len(head)
        if size_bytes > MAX_LINE_BYTES:
            raise Unavailable(f"Ollama sent a line of over {MAX_LINE_BYTES} bytes", reason=NONSENSE)
    yield b"".join(parts)


def _cause(error: Exception) -> str:
    """Name what the system said at the bottom of it."""
    cause: BaseException = error
    while (below := cause.__cause__ or cause.__context__) is not None:
        cause = below
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return "timed out" if isinstance(cause, TimeoutError) else type(cause).__name__

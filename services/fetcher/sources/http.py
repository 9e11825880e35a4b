"""GET over HTTP from whoever may be asked: each hop of a redirect is checked, and connected to where it was checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.common.addresses import MAX_SIGNED_URL_CHARS, REDIRECTS, AddressRules, Endpoint, UrlRefused, onward
from services.common.errors import DomainError
from services.common.outbox.webhooks import read_retry_after
from services.fetcher.faults import Forbidden, HostBusy, ModelNotFound, NetworkError, RateLimited, Unauthorized
from services.fetcher.sources.http_faults import check_end, translated
from services.fetcher.sources.kept import Led
from services.fetcher.sources.source import Stopping
from services.fetcher.throttle import Throttle

if TYPE_CHECKING:
    from urllib3.response import HTTPResponse

    from services.common.pinned import Pinned

CHUNK_BYTES: Final = 64 * 1024
MOST_AT_ONCE: Final = 1024 * 1024
"""Read at once: nobody counts bytes, or sees that they are to come no more, in the midst of that."""
MAX_RETRY_AFTER_S: Final = 3_600.0
_LEAST_LOOK_S: Final = 0.01
_REFUSED: Final = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_GONE: Final = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_BUSY: Final = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How patient a transfer is: seconds to connect, seconds without a byte, and the least speed over `floor_s`."""

    connect_s: float = 10.0
    silence_s: float = 30.0
    floor_bytes_per_s: int = 1_024
    floor_s: float = 30.0
    max_redirects: int = 5


class Answer:
    """An answer whose body is read as it comes; `url` is where it came from after redirects, `ended` once all came."""

    def __init__(self, response: HTTPResponse, connection: Pinned, endpoint: Endpoint, url: str) -> None:
        self._response = response
        self._body = connection.received
        self.connection = connection
        self.endpoint = endpoint
        self.url = url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.chunked: bool = response.chunked
        self.read_bytes = 0
        self.ended = False
        self.on_bytes: Callable[[int], None] = lambda _: None
        self._waited_s = 0.0
        self._waits_since: float | None = None

    @property
    def waited_s(self) -> float:
        """How long its sender was waited for, in all: not what whoever reads does with the bytes."""
        since = self._waits_since
        return self._waited_s + (0.0 if since is None else time.monotonic() - since)

    def readinto(self, buffer: memoryview) -> int:
        """Read what has come of the body into memory, waiting for some; 0 at its end.

        Raises NetworkError where it breaks off.
        """
        count = self._received(buffer[:MOST_AT_ONCE])
        if count:
            self.read_bytes += count
            self.on_bytes(count)
        return count

    def chunks(self) -> Iterator[bytes]:
        """Give the body as it comes; raises NetworkError where it breaks off."""
        buffer = memoryview(bytearray(CHUNK_BYTES))
        while count := self.readinto(buffer):
            yield bytes(buffer[:count])

    def _received(self, buffer: memoryview) -> int:
        begun = self._waits_since = time.monotonic()
        try:
            count = self._body.readinto1(buffer) if self._body is not None else 0
            if not count:
                check_end(self.connection)
                self.ended = True
        except Exception as error:
            raise translated(self.endpoint, error, self.connection) from error
        finally:
            self._waits_since = None
            self._waited_s += time.monotonic() - begun
        return count

    def shut(self) -> None:
        """End it from another thread."""
        self.connection.shut()


class GuardedHttp:
    """Asks by GET and HEAD. Sends no cookies, and credentials to no other origin than theirs; takes no compressed
    bodies.
    """

    def __init__(
        self,
        rules: AddressRules,
        limits: HttpLimits | None = None,
        *,
        ca_file: Path | None = None,
        clock: Callable[[], float] = time.time,
        throttle: Throttle | None = None,
    ) -> None:
        self._rules = rules
        self._throttle = throttle
        self._limits = limits or HttpLimits()
        self._ca_file = ca_file
        self._clock = clock

    def endpoint(self, url: str) -> Endpoint:
        """Check all of a URL that needs no network, be it one that a server leads to; raises Forbidden."""
        try:
            return self._rules.endpoint(url, max_chars=MAX_SIGNED_URL_CHARS)
        except UrlRefused as error:
            raise Forbidden(error.message) from error

    @contextmanager
    def get(
        self,
        url: str,
        headers: Mapping[str, str],
        stopping: Stopping,
        *,
        method: str = "GET",
        judged: Container[int] = (),
    ) -> Iterator[Answer]:
        """Ask for a URL; whoever is asked in the end has answered 200, 206 or 416, with a body that is not compressed.

        Answers of the URL's own origin with a status in `judged` are given as well, and are the caller's to judge: what
        others mean by it, such as a signature that has run out, is no word of whom the caller knows.

        Raises:
            Forbidden: the URL, or one that it redirects to, leads where it must not.
            NetworkError, RateLimited, ModelNotFound, Unauthorized: as the answer, or its absence, means.
            HostBusy: nobody was asked, for it is not the turn of this request yet.
        """
        request = _Request(self.endpoint(url), headers, method, judged, stopping)
        patience = _Patience(self._limits.connect_s + self._limits.silence_s)
        answer = self._answer(url, request, patience)
        try:
            with self._watched(answer):
                yield answer
        except RateLimited as busy:  # as a caller judges the answer
            self._heed(busy, answer.endpoint)
            raise
        finally:
            self._leave(answer, stopping)

    def _answer(self, url: str, request: _Request, patience: _Patience) -> Answer:
        """Ask where the URL led last time, if that is known; where that is refused, such as for a signature that has
        run out, ask the URL itself.
        """
        kept = request.stopping.kept
        led = kept.led(url) if kept else None
        if kept is None or led is None:
            return self._followed(url, url, request, patience)
        try:
            return self._followed(url, led.url, request.bare() if led.bare else request, patience)
        except (Unauthorized, ModelNotFound):
            kept.forget(url)
        return self._followed(url, url, request, patience)

    def _followed(self, asked: str, url: str, request: _Request, patience: _Patience) -> Answer:
        """Ask for `url`, and follow where it redirects to; `asked` is what it is asked in place of."""
        before = request.origin
        for _ in range(self._limits.max_redirects + 1):
            request.stopping.check()
            endpoint = self.endpoint(url)
            if before.scheme == "https" and endpoint.scheme != "https":
                raise Forbidden(f"{before.authority} redirects to a URL without TLS")
            before = endpoint
            if not _same_origin(endpoint, request.origin):  # for good: nobody else chooses where credentials go
                request = request.bare()
            answer = self._asked_at(endpoint, url, request, patience)
            try:
                onward = self._judged(answer, url, request)
            except BaseException:
                self._leave(answer, request.stopping)
                raise
            if onward is None:
                if request.stopping.kept is not None and url != asked:
                    request.stopping.kept.remember(asked, Led(url, request.is_bare))
                return answer
            self._leave(answer, request.stopping)
            url = onward
        raise NetworkError(f"{request.origin.authority} redirects more than {self._limits.max_redirects} times")

    def _judged(self, answer: Answer, url: str, request: _Request) -> str | None:
        """Give where an answer redirects to; None where it is the one that was wanted."""
        if answer.status in request.judged and _same_origin(answer.endpoint, request.origin):
            return None
        if answer.status in REDIRECTS and answer.headers.get("Location"):
            return _onward(url, answer.headers["Location"], answer.endpoint)
        self._judge(answer, answer.endpoint)
        return None

    def _asked_at(self, endpoint: Endpoint, url: str, request: _Request, patience: _Patience) -> Answer:
        """Ask by a connection that was kept, or else by one of its own."""
        stopping = request.stopping
        if self._throttle is not None:
            self._throttle.admit(endpoint.host, stopping)
        kept = stopping.kept.take(endpoint) if stopping.kept else None
        if kept is not None:
            try:
                return self._asked(kept, endpoint, url, request, patience)
            except NetworkError:
                # Its server may have closed it meanwhile, which says nothing of what it would answer.
                if kept.overdue:
                    raise
        with patience.spent():
            connection = self._connection(endpoint, stopping)
        return self._asked(connection, endpoint, url, request, patience)

    def _leave(self, answer: Answer, stopping: Stopping) -> None:
        """Be done with an answer; its connection is kept where another request may follow on it."""
        stopping.forget(answer.connection.shut)
        open_still = answer.connection.sock is not None and not answer.connection.overdue
        if stopping.kept is not None and answer.ended and open_still:
            stopping.kept.keep(answer.endpoint, answer.connection)
        else:
            answer.connection.let_go()

    def _connection(self, endpoint: Endpoint, stopping: Stopping) -> Pinned:
        # urllib3 takes a tenth of a service's start.
        from services.common.pinned import connection_to

        try:
            addresses = self._rules.resolve(endpoint, self._limits.connect_s, stopping.check)
        except UrlRefused as error:
            raise Forbidden(error.message) from error
        except DomainError as error:
            raise NetworkError(error.message) from error
        until = time.monotonic() + self._limits.silence_s
        return connection_to(endpoint, addresses, self._limits.connect_s, until, self._ca_file, "sources")

    def _asked(
        self, connection: Pinned, endpoint: Endpoint, url: str, request: _Request, patience: _Patience
    ) -> Answer:
        stopping = request.stopping
        sent = {
            "Host": endpoint.authority,
            "User-Agent": "penstock",
            "Accept-Encoding": "identity",
            "Connection": "close" if stopping.kept is None else "keep-alive",
            **request.headers,
        }
        stopping.on_stop(connection.shut)
        # A head that comes byte by byte, or after 100 Continue for ever, hides from time-outs.
        deadline = threading.Timer(patience.left_s, connection.shut)
        deadline.daemon = True
        deadline.start()
        try:
            with patience.spent():
                connection.request(request.method, endpoint.target, headers=sent, preload_content=False)
                response = connection.getresponse()
            check_end(connection)
        except BaseException as error:
            stopping.forget(connection.shut)
            connection.let_go()
            if not isinstance(error, Exception):
                raise
            raise translated(endpoint, error, connection) from error
        finally:
            deadline.cancel()
        answer = Answer(response, connection, endpoint, url)
        if self._throttle is not None:
            answer.on_bytes = partial(self._throttle.received, endpoint.host, stopping)
        return answer

    def _judge(self, answer: Answer, endpoint: Endpoint) -> None:
        status, said = answer.status, f"{endpoint.authority} answered {answer.status}"
        if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            encodings = answer.headers.get("Content-Encoding", ""), answer.headers.get("Transfer-Encoding", "")
            if not {each.strip().lower() for each in encodings} <= {"", "identity", "chunked"}:
                raise NetworkError(f"{endpoint.authority} compresses what it was asked for uncompressed")
            return
        if status in _REFUSED:
            raise Unauthorized(f"{said}: it does not give this to Penstock; see that its credentials are set")
        if status in _GONE:
            raise ModelNotFound(f"{said}: nothing is there; see that the reference is right")
        if status in _BUSY:
            asked_s = read_retry_after(answer.headers.get("Retry-After"), self._clock())
            wait_s = None if asked_s is None else min(asked_s, MAX_RETRY_AFTER_S)
            busy = RateLimited(f"{said}: it asks for patience", retry_after_s=wait_s)
            self._heed(busy, endpoint)
            raise busy
        if 400 <= status < 500:
            raise ModelNotFound(f"{said}: it does not take this request; see that the reference is right")
        raise NetworkError(said)

    def _heed(self, busy: RateLimited, endpoint: Endpoint) -> None:
        """Have nobody ask a host for as long as it wished."""
        if busy.retry_after_s and self._throttle is not None and not isinstance(busy, HostBusy):
            self._throttle.pause(endpoint.host, busy.retry_after_s)

    @contextmanager
    def _watched(self, answer: Answer) -> Iterator[None]:
        """Shut an answer that comes more slowly than the floor: a drip of bytes hides from time-outs."""
        ended = threading.Event()

        def watch() -> None:
            waited_s, read_bytes, left_s = 0.0, 0, self._limits.floor_s
            while not ended.wait(left_s):
                left_s = self._limits.floor_s - (answer.waited_s - waited_s)
                if left_s > 0:
                    left_s = max(left_s, _LEAST_LOOK_S)
                    continue
                if answer.read_bytes - read_bytes < self._limits.floor_bytes_per_s * self._limits.floor_s:
                    answer.shut()
                    return
                waited_s, read_bytes, left_s = answer.waited_s, answer.read_bytes, self._limits.floor_s

        threading.Thread(target=watch, name="fetch-floor", daemon=True).start()
        try:
            yield
        finally:
            ended.set()


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked, by whichever URL; `origin` is whose credentials its headers may bear."""

    origin: Endpoint
    headers: Mapping[str, str]
    method: str
    judged: Container[int]
    stopping: Stopping
    is_bare: bool = False

    def bare(self) -> _Request:
        """Give the same without credentials."""
        headers = {name: value for name, value in self.headers.items() if name.lower() != "authorization"}
        return replace(self, headers=headers, is_bare=True)


class _Patience:
    """How long the heads of all answers to one request may take together, in seconds."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Count what is waited here."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.left_s = max(0.0, self.left_s - (time.monotonic() - begun))


def _same_origin(one: Endpoint, other: Endpoint) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def _onward(url: str, location: str, endpoint: Endpoint) -> str:
    try:
        return onward(url, location)
    except ValueError:
        raise NetworkError(f"{endpoint.authority} redirects to what is no URL") from None

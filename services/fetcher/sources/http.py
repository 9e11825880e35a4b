"""GET over HTTP from whoever may be asked: each hop of a redirect is checked, and connected to where it was checked."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from services.common.addresses import AddressRules, Endpoint, UrlRefused
from services.common.errors import DomainError, FailedPrecondition
from services.common.outbox.webhooks import read_retry_after
from services.fetcher.faults import Forbidden, ModelNotFound, NetworkError, RateLimited, Unauthorized
from services.fetcher.sources.source import Stopping
from services.fetcher.throttle import Throttle

if TYPE_CHECKING:
    from urllib3.response import HTTPResponse

    from services.common.pinned import Pinned

CHUNK_BYTES: Final = 256 * 1024
MAX_RETRY_AFTER_S: Final = 3_600.0
_LEAST_LOOK_S: Final = 0.01
_REDIRECTS: Final = {301, 302, 303, 307, 308}
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
    """An answer whose body is read as it comes; `url` is where it came from after redirects."""

    def __init__(self, response: HTTPResponse, connection: Pinned, endpoint: Endpoint, url: str) -> None:
        self._response = response
        self._connection = connection
        self._endpoint = endpoint
        self.url = url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.chunked: bool = response.chunked
        self.read_bytes = 0
        self.on_bytes: Callable[[int], None] = lambda _: None
        self._waited_s = 0.0
        self._waits_since: float | None = None

    @property
    def waited_s(self) -> float:
        """How long its sender was waited for, in all: not what whoever reads does with the bytes."""
        since = self._waits_since
        return self._waited_s + (0.0 if since is None else time.monotonic() - since)

    def chunks(self) -> Iterator[bytes]:
        """Give the body as it comes; raises NetworkError where it breaks off."""
        while chunk := self._next():
            self.read_bytes += len(chunk)
            self.on_bytes(len(chunk))
            yield chunk

    def _next(self) -> bytes:
        begun = self._waits_since = time.monotonic()
        try:
            chunk = self._response.read1(CHUNK_BYTES, decode_content=False)
            if not chunk:
                _check_end(self._connection)
        except Exception as error:
            raise _translated(self._endpoint, error, self._connection) from error
        finally:
            self._waits_since = None
            self._waited_s += time.monotonic() - begun
        return chunk

    def shut(self) -> None:
        """End it from another thread."""
        self._connection.shut()


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
        """Check all of a URL that needs no network; raises Forbidden."""
        try:
            return self._rules.endpoint(url)
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

        Answers with a status in `judged` are given as well, and are the caller's to judge.

        Raises:
            Forbidden: the URL, or one that it redirects to, leads where it must not.
            NetworkError, RateLimited, ModelNotFound, Unauthorized: as the answer, or its absence, means.
            HostBusy: nobody was asked, for it is not the turn of this request yet.
        """
        origin = before = self.endpoint(url)
        for _ in range(self._limits.max_redirects + 1):
            stopping.check()
            endpoint = self.endpoint(url)
            if before.scheme == "https" and endpoint.scheme != "https":
                raise Forbidden(f"{before.host} redirects to a URL without TLS")
            before = endpoint
            same = (endpoint.scheme, endpoint.host, endpoint.port) == (origin.scheme, origin.host, origin.port)
            if not same:  # for good: nobody else chooses where credentials go
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            if self._throttle is not None:
                self._throttle.admit(endpoint.host, stopping)
            connection = self._connection(endpoint, stopping)
            stopping.on_stop(connection.shut)
            try:
                answer = self._asked(connection, endpoint, url, headers, method)
                if self._throttle is not None:
                    answer.on_bytes = partial(self._throttle.received, endpoint.host, stopping)
                if answer.status not in judged:
                    if answer.status in _REDIRECTS and answer.headers.get("Location"):
                        url = _onward(url, answer.headers["Location"], endpoint)
                        continue
                    self._judge(answer, endpoint)
                with self._watched(answer):
                    yield answer
                return
            finally:
                stopping.forget(connection.shut)
                connection.let_go()
        raise NetworkError(f"{origin.host} redirects more than {self._limits.max_redirects} times")

    def _connection(self, endpoint: Endpoint, stopping: Stopping) -> Pinned:
        # urllib3 takes a tenth of a service's start.
        from services.common.pinned import Pinned, PinnedSecure

        try:
            addresses = self._rules.resolve(endpoint, self._limits.connect_s, stopping.check)
        except UrlRefused as error:
            raise Forbidden(error.message) from error
        except DomainError as error:
            raise NetworkError(error.message) from error
        until = time.monotonic() + self._limits.silence_s
        if endpoint.scheme == "http":
            return Pinned(endpoint, addresses, self._limits.connect_s, until)
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            sentence = f"the certificates that vouch for sources cannot be read ({error.strerror})"
            raise FailedPrecondition(sentence, reason="CA_UNREADABLE") from error
        return PinnedSecure(endpoint, addresses, self._limits.connect_s, until, context)

    def _asked(
        self, connection: Pinned, endpoint: Endpoint, url: str, headers: Mapping[str, str], method: str
    ) -> Answer:
        sent = {
            "Host": endpoint.authority,
            "User-Agent": "penstock",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        }
        # A head that comes byte by byte, or after 100 Continue for ever, hides from time-outs.
        deadline = threading.Timer(self._limits.connect_s + self._limits.silence_s, connection.shut)
        deadline.daemon = True
        deadline.start()
        try:
            connection.request(method, endpoint.target, headers=sent, preload_content=False)
            response = connection.getresponse()
            _check_end(connection)
        except Exception as error:
            raise _translated(endpoint, error, connection) from error
        finally:
            deadline.cancel()
        return Answer(response, connection, endpoint, url)

    def _judge(self, answer: Answer, endpoint: Endpoint) -> None:
        status, said = answer.status, f"{endpoint.host} answered {answer.status}"
        if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            encodings = answer.headers.get("Content-Encoding", ""), answer.headers.get("Transfer-Encoding", "")
            if not {each.strip().lower() for each in encodings} <= {"", "identity", "chunked"}:
                raise NetworkError(f"{endpoint.host} compresses what it was asked for uncompressed")
            return
        if status in _REFUSED:
            raise Unauthorized(f"{said}: it does not give this to Penstock; see that its credentials are set")
        if status in _GONE:
            raise ModelNotFound(f"{said}: nothing is there; see that the reference is right")
        if status in _BUSY:
            asked_s = read_retry_after(answer.headers.get("Retry-After"), self._clock())
            wait_s = None if asked_s is None else min(asked_s, MAX_RETRY_AFTER_S)
            if wait_s and self._throttle is not None:
                self._throttle.pause(endpoint.host, wait_s)
            raise RateLimited(f"{said}: it asks for patience", retry_after_s=wait_s)
        if 400 <= status < 500:
            raise ModelNotFound(f"{said}: it does not take this request; see that the reference is right")
        raise NetworkError(said)

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


def _onward(url: str, location: str, endpoint: Endpoint) -> str:
    try:
        return urljoin(url, location).partition("#")[0]
    except ValueError:
        raise NetworkError(f"{endpoint.host} redirects to what is no URL") from None


def _check_end(connection: Pinned) -> None:
    """Tell a connection that was shut from one whose sender is done: both read as an end."""
    if connection.overdue:
        raise TimeoutError


def _translated(endpoint: Endpoint, error: Exception, connection: Pinned) -> Exception:
    """Say what went wrong, and nothing of the URL but its host; what is no fault of the network stays as it is."""
    from urllib3.exceptions import HTTPError

    if not isinstance(error, (HTTPError, HTTPException, OSError, ValueError)):
        return error
    if connection.overdue:
        return NetworkError(
            f"the transfer from {endpoint.host} was ended: it was too slow, or nobody wants it any more"
        )
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 10:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(each, TimeoutError) for each in causes):
        return NetworkError(f"{endpoint.host} was silent for too long")
    tls = next((each for each in causes if isinstance(each, ssl.SSLError)), None)
    if tls is not None:
        return NetworkError(f"TLS with {endpoint.host} failed: {tls.reason or 'no TLS'}")
    system = next((each for each in causes if isinstance(each, OSError) and each.strerror), None)
    why = str(system.strerror) if isinstance(system, OSError) else type(causes[-1]).__name__
    return NetworkError(f"{endpoint.host} could not be reached, or broke off ({why})")

"""Files of a version that lie at URLs: brought by the rules that keep a stranger's URL out of our own network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.common.addresses import MAX_SIGNED_URL_CHARS, REDIRECTS, AddressRules, Endpoint, UrlRefused, onward
from services.common.connection_faults import ConnectionFault
from services.common.errors import DomainError
from services.trainer.faults import ExecutorUnavailable, TrainingFailed
from services.trainer.task import Stopping
from services.trainer.workers.models import RemoteFile

if TYPE_CHECKING:
    from urllib3.response import HTTPResponse

    from services.common.pinned import Pinned

MAX_REDIRECTS: Final = 5
PIECE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class UrlLimits:
    """How patient: seconds to connect, and without a byte; the least speed, once that long has passed."""

    connect_s: float = 10.0
    silence_s: float = 30.0
    floor_bytes_per_s: int = 1_024


class ArtifactUrls:
    """Brings files. Sends no credentials and no cookies; follows redirects, each checked as the URL itself is."""

    def __init__(self, rules: AddressRules, limits: UrlLimits | None = None, *, ca_file: Path | None = None) -> None:
        self._rules = rules
        self._limits = limits or UrlLimits()
        self._ca_file = ca_file

    def bring(self, file: RemoteFile, target: Path, max_bytes: int, stopping: Stopping) -> int:
        """Write a file, verified, to where there is none; gives its size in bytes.

        Raises:
            TrainingFailed: it may not be brought, is not there, is too large, or is not what was declared
                (INVALID_OUTCOME).
            ExecutorUnavailable: where it lies, nobody answers; the same again may help.
            Stopped: the run is to end.
        """
        url, before = file.url, ""
        for _ in range(MAX_REDIRECTS + 1):
            stopping.check()
            endpoint = self._endpoint(url, before)
            with self._asked(endpoint, stopping) as (response, read):
                location = response.headers.get("Location")
                if response.status not in REDIRECTS or not location:
                    return self._written(file, response, read, endpoint, target, max_bytes)
            url, before = _onward(file, url, location), endpoint.scheme
        raise _unusable(file, f"more than {MAX_REDIRECTS} redirects lead to it")

    def _endpoint(self, url: str, before: str) -> Endpoint:
        try:
            endpoint = self._rules.endpoint(url, max_chars=MAX_SIGNED_URL_CHARS)
        except UrlRefused as error:
            raise TrainingFailed(
                f"a file of the version lies where it must not: {error.message}", reason="INVALID_OUTCOME"
            ) from error
        if before == "https" and endpoint.scheme != "https":
            sentence = (
                f"a file of the version was to be brought over TLS, and is led on to {endpoint.authority} without"
            )
            raise TrainingFailed(sentence, reason="INVALID_OUTCOME")
        return endpoint

    @contextmanager
    def _asked(self, endpoint: Endpoint, stopping: Stopping) -> Iterator[tuple[HTTPResponse, Callable[[], bytes]]]:
        """Ask, at an address that was checked; gives the answer's head, and what reads its pieces, b"" at its end.

        The connection is closed when this is over, and when the run ends.
        """
        connection = self._connection(endpoint, stopping)
        headers = {
            "Host": endpoint.authority, "User-Agent": "penstock", "Accept-Encoding": "identity", "Connection": "close"
        }  # fmt: skip
        # A head that comes byte by byte hides from time-outs.
        deadline = threading.Timer(self._limits.connect_s + self._limits.silence_s, connection.shut)
        deadline.daemon = True
        stopping.on_stop(connection.shut)
        deadline.start()

        def read() -> bytes:
            with _reached(endpoint, connection, stopping):
                return bytes(response.read1(PIECE_BYTES, decode_content=False))

        try:
            with _reached(endpoint, connection, stopping):
                connection.request("GET", endpoint.target, headers=headers, preload_content=False)
                response = connection.getresponse()
                deadline.cancel()
            yield response, read
        finally:
            deadline.cancel()
            stopping.forget(connection.shut)
            connection.let_go()

    def _connection(self, endpoint: Endpoint, stopping: Stopping) -> Pinned:
        from services.common.pinned import connection_to

        try:
            addresses = self._rules.resolve(endpoint, self._limits.connect_s, stopping.check)
        except UrlRefused as error:
            raise TrainingFailed(error.message, reason="INVALID_OUTCOME") from error
        except DomainError as error:
            raise ExecutorUnavailable(error.message) from error
        until = time.monotonic() + self._limits.silence_s
        return connection_to(endpoint, addresses, self._limits.connect_s, until, self._ca_file, "hosts of artifacts")

    def _written(
        self,
        file: RemoteFile,
        response: HTTPResponse,
        read: Callable[[], bytes],
        endpoint: Endpoint,
        target: Path,
        max_bytes: int,
    ) -> int:
        if response.status >= 500 or response.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise ExecutorUnavailable(f"{endpoint.authority} answered {response.status}")
        if response.status != HTTPStatus.OK:
            raise _unusable(file, f"{endpoint.authority} answered {response.status}")
        digest, size_bytes, begun = sha256(), 0, time.monotonic()
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            while piece := read():
                size_bytes += len(piece)
                if size_bytes > (file.size_bytes or max_bytes) or size_bytes > max_bytes:
                    raise _unusable(
                        file, f"it has more than the {min(file.size_bytes or max_bytes, max_bytes):,} bytes allowed"
                    )
                digest.update(piece)
                out.write(piece)
                self._check_speed(size_bytes, time.monotonic() - begun, endpoint)
        if digest.hexdigest() != file.sha256:
            raise _unusable(file, f"its SHA-256 is {digest.hexdigest()}, and {file.sha256} was declared")
        return size_bytes

    def _check_speed(self, size_bytes: int, taken_s: float, endpoint: Endpoint) -> None:
        if taken_s > self._limits.silence_s and size_bytes < taken_s * self._limits.floor_bytes_per_s:
            raise ExecutorUnavailable(f"{endpoint.authority} gives the file too slowly")


@contextmanager
def _reached(endpoint: Endpoint, connection: Pinned, stopping: Stopping) -> Iterator[None]:
    """Blame the host for what goes wrong with the network, and for nothing else."""
    from urllib3.exceptions import HTTPError  # it takes a tenth of a service's start

    try:
        yield
        if connection.overdue:
            raise TimeoutError
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        stopping.check()
        fault = ConnectionFault.of(error)
        silent = connection.overdue or fault.timed_out
        why = "was silent for too long" if silent else f"could not be reached, or broke off ({fault.why})"
        raise ExecutorUnavailable(f"{endpoint.authority} {why}") from error


def _onward(file: RemoteFile, url: str, location: str) -> str:
    try:
        return onward(url, location)
    except ValueError:
        raise _unusable(file, "what leads to it redirects to what is no URL") from None


def _unusable(file: RemoteFile, why: str) -> TrainingFailed:
    return TrainingFailed(f"the version's file {file.path} cannot be used: {why}", reason="INVALID_OUTCOME")

"""Files over HTTP: a range of one, and what its answer says of it, believed as far as it fits together."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from services.fetcher.faults import FileTooLarge, NetworkError, SourceChanged
from services.fetcher.models import RemoteFile
from services.fetcher.sources.http import Answer
from services.fetcher.sources.source import Stopping

_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_ETAG: Final = re.compile(r"[\x20-\x7e]{1,1024}")
MOST_TEXT_S: Final = 60.0
"""How long what is read to its end at once may take, such as a listing."""
SETTLED: Final = timedelta(seconds=60)
"""A date says which bytes there are once it lies so far back: they may change twice within a second."""


Get = Callable[[str, Mapping[str, str], Stopping], AbstractContextManager[Answer]]
"""Asks for a URL with headers: `GuardedHttp.get`, or what adds credentials to it."""


class HttpFlow:
    """The bytes of an answer; see `Flow`."""

    def __init__(self, answer: Answer, offset: int, size_bytes: int | None, end: int | None) -> None:
        self._answer = answer
        self._end = size_bytes if end is None else end
        self.offset = offset
        self.size_bytes = size_bytes

    def readinto(self, buffer: memoryview) -> int:
        """See `Flow.readinto`."""
        count = self._answer.readinto(buffer)
        if not count and self._end is not None and self.offset + self._answer.read_bytes < self._end:
            raise NetworkError(f"{self._answer.endpoint.authority} broke off before the end")
        return count

    def shut(self) -> None:
        """End it from another thread."""
        self._answer.shut()


@contextmanager
def opened(
    get: Get, url: str, file: RemoteFile, offset: int, stopping: Stopping, *, end: int | None = None
) -> Iterator[HttpFlow]:
    """Ask for a file from a byte on, provided that it is the same; who knows no ranges sends all of it.

    Raises:
        SourceChanged: it is another by now.
        NetworkError: what came is not what was asked for; and what `get` raises.
    """
    headers = {"Range": f"bytes={offset}-{'' if end is None else end - 1}"} if offset or end is not None else {}
    if headers and file.tag:
        headers["If-Range"] = file.tag
    host = urlsplit(url).hostname
    with get(url, headers, stopping) as answer:
        if answer.status == HTTPStatus.PARTIAL_CONTENT and "Range" not in headers:
            raise NetworkError(f"{host} sends a part of the file, and was asked for all of it")
        begin, size_bytes = begin_of(answer, offset), size_of(answer)
        known = size_bytes if file.size_bytes is None else file.size_bytes
        changed = file.tag and file.tag != tag_of(answer, known)
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or changed:
            raise SourceChanged(f"{host} has another file by now; it is begun anew")
        if file.size_bytes is not None and size_bytes is not None and size_bytes != file.size_bytes:
            raise SourceChanged(f"{host} has a file of another size by now")
        yield HttpFlow(answer, begin, size_bytes, end)


def size_of(answer: Answer) -> int | None:
    """Give the whole file's size; None where it is not said."""
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        size = _range_of(answer)[2]
        return None if size == "*" else int(size)
    return length_of(answer) if answer.status == HTTPStatus.OK else None


def begin_of(answer: Answer, offset: int) -> int:
    """Give the byte that an answer begins with; raises NetworkError where that is neither the first nor `offset`."""
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    begin, end, size = _range_of(answer)
    length = length_of(answer)
    wrong = int(end) < int(begin) or (size != "*" and int(end) >= int(size))
    if int(begin) != offset or wrong or length not in (None, int(end) + 1 - int(begin)):
        raise NetworkError(f"{answer.endpoint.authority} sends another part of the file than it was asked for")
    return offset


def _range_of(answer: Answer) -> tuple[str, str, str]:
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if found is None:
        raise NetworkError(f"{answer.endpoint.authority} does not say which part of the file it sends")
    return found[1], found[2], found[3]


def length_of(answer: Answer) -> int | None:
    """Give how many bytes the body has; None where that is not said."""
    length = answer.headers.get("Content-Length", "")
    return int(length) if _LENGTH.fullmatch(length) else None


def tag_of(answer: Answer, size_bytes: int | None) -> str:
    """Give what changes with every byte (a strong validator, RFC 9110, 8.8); '' where the sender has no such thing.

    Nor has a body of unknown size that ends where its connection does: nobody can tell its end from a break.
    """
    if size_bytes is None and not (answer.chunked and answer.status == HTTPStatus.OK):
        return ""
    etag = answer.headers.get("ETag")
    if etag is not None:
        return etag if _ETAG.fullmatch(etag) and not etag.startswith("W/") else ""
    modified = answer.headers.get("Last-Modified", "")
    sent, changed = _date_of(answer.headers.get("Date", "")), _date_of(modified)
    return modified if sent is not None and changed is not None and sent - changed >= SETTLED else ""


def _date_of(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


@contextmanager
def hurried(answer: Answer) -> Iterator[None]:
    """Shut an answer that is no file once it has taken `MOST_TEXT_S` in all, however fast it is by then."""
    timer = threading.Timer(MOST_TEXT_S, answer.shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def body_of(answer: Answer, most: int) -> bytes:
    """Read a body that is no file: a listing, a manifest.

    Raises:
        FileTooLarge: it has more than `most` bytes.
        NetworkError: it breaks off, or takes longer than `MOST_TEXT_S`.
    """
    body = bytearray()
    with hurried(answer):
        for chunk in answer.chunks():
            body += chunk
            if len(body) > most:
                raise FileTooLarge(f"{answer.endpoint.authority} answers with more than {most:,} bytes")
    return bytes(body)

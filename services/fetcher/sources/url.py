"""Files at https URLs: a graph, or an archive of a model's files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote, urlsplit

from services.common.addresses import bears_secret
from services.common.errors import InvalidArgument
from services.fetcher.faults import NetworkError, SourceChanged
from services.fetcher.models import Plan, Reference, RemoteFile
from services.fetcher.sources.http import Answer, GuardedHttp
from services.fetcher.sources.source import Found, Stopping, is_archive, model_name

_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_ETAG: Final = re.compile(r"[\x20-\x7e]{1,1024}")
_NAMED: Final = re.compile(r'filename="?([^";]+)"?', re.IGNORECASE)
MAX_NAME_BYTES: Final = 255
SETTLED: Final = timedelta(seconds=60)
"""A date says which bytes there are once it lies so far back: they may change twice within a second."""


class HttpFlow:
    """The bytes of an answer; see `Flow`."""

    def __init__(self, answer: Answer, offset: int, size_bytes: int | None, end: int | None) -> None:
        self._answer = answer
        self._end = size_bytes if end is None else end
        self.offset = offset
        self.size_bytes = size_bytes

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.chunks()
        if self._end is not None and self.offset + self._answer.read_bytes < self._end:
            raise NetworkError(f"{urlsplit(self._answer.url).hostname} broke off before the end")

    def shut(self) -> None:
        """End it from another thread."""
        self._answer.shut()


class UrlSource:
    """`https://host/path`; http and private addresses only where a setting allows the host by name."""

    name = "url"
    reference_form = "https://host/path/model.onnx"
    has_revisions = False
    disabled_reason = ""

    def __init__(self, http: GuardedHttp) -> None:
        self._http = http

    def check(self, reference: Reference) -> None:
        """See `Source.check`."""
        if reference.revision or reference.variant:
            field = "revision" if reference.revision else "variant"
            sentence = "a URL has none; leave it out, or write it into the URL"
            raise InvalidArgument.field(f"source.{field}", sentence, reason="INVALID_REFERENCE")
        if bears_secret(reference.reference):
            sentence = (
                "the URL bears a token, key or signature, which everyone who sees the fetch would see; fetch from "
                "one without, and revoke it if it has travelled"
            )
            raise InvalidArgument.field("source.reference", sentence, reason="CREDENTIALS_IN_URL")
        self._http.endpoint(reference.reference)

    def host(self, reference: Reference) -> str:
        """See `Source.host`."""
        return self._http.endpoint(reference.reference).host

    def find(self, reference: Reference, stopping: Stopping) -> Found:
        """Ask for the first byte: what comes with it says how large the file is and when it changes."""
        with self._http.get(reference.reference, {"Range": "bytes=0-0"}, stopping) as answer:
            _begin_of(answer, 0)
            size_bytes = _size_of(answer)
            tag = _tag_of(answer, size_bytes)
            name = _name_of(answer, reference.reference)
            ranges = answer.status == HTTPStatus.PARTIAL_CONTENT and size_bytes is not None
        file = RemoteFile(name, reference.reference, tag, size_bytes, reference.sha256, ranges)
        return Found(Plan(tag, (file,), unpack=is_archive(name)), model_name(name))

    @contextmanager
    def open(self, file: RemoteFile, offset: int, stopping: Stopping, *, end: int | None = None) -> Iterator[HttpFlow]:
        """Ask for the rest of a file, provided that it is the same; who knows no ranges sends all of it."""
        headers = {"Range": f"bytes={offset}-{'' if end is None else end - 1}"} if offset or end is not None else {}
        if headers and file.tag:
            headers["If-Range"] = file.tag
        host = urlsplit(file.locator).hostname
        with self._http.get(file.locator, headers, stopping) as answer:
            if answer.status == HTTPStatus.PARTIAL_CONTENT and "Range" not in headers:
                raise NetworkError(f"{host} sends a part of the file, and was asked for all of it")
            begin, size_bytes = _begin_of(answer, offset), _size_of(answer)
            changed = file.tag and file.tag != _tag_of(
                answer, size_bytes if file.size_bytes is None else file.size_bytes
            )
            if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or changed:
                raise SourceChanged(f"{host} has another file by now; it is begun anew")
            if file.size_bytes is not None and size_bytes is not None and size_bytes != file.size_bytes:
                raise SourceChanged(f"{host} has a file of another size by now")
            yield HttpFlow(answer, begin, size_bytes, end)


def _size_of(answer: Answer) -> int | None:
    """Give the whole file's size; None where it is not said."""
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        size = _range_of(answer)[2]
        return None if size == "*" else int(size)
    return _length_of(answer) if answer.status == HTTPStatus.OK else None


def _begin_of(answer: Answer, offset: int) -> int:
    """Give the byte that an answer begins with; raises NetworkError where that is neither the first nor `offset`."""
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    begin, end, size = _range_of(answer)
    length = _length_of(answer)
    wrong = int(end) < int(begin) or (size != "*" and int(end) >= int(size))
    if int(begin) != offset or wrong or length not in (None, int(end) + 1 - int(begin)):
        raise NetworkError(f"{urlsplit(answer.url).hostname} sends another part of the file than it was asked for")
    return offset


def _range_of(answer: Answer) -> tuple[str, str, str]:
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if found is None:
        raise NetworkError(f"{urlsplit(answer.url).hostname} does not say which part of the file it sends")
    return found[1], found[2], found[3]


def _length_of(answer: Answer) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return int(length) if _LENGTH.fullmatch(length) else None


def _tag_of(answer: Answer, size_bytes: int | None) -> str:
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


def _name_of(answer: Answer, url: str) -> str:
    """Name the file as its sender does, else as its URL does; a name is all that is taken, never a path."""
    found = _NAMED.search(answer.headers.get("Content-Disposition", ""))
    said = found[1] if found else unquote(urlsplit(url).path)
    name = said.replace("\\", "/").rstrip("/").rpartition("/")[2].strip()
    usable = name.isprintable() and name.strip(".") and len(name.encode()) <= MAX_NAME_BYTES
    return name if usable else "model.onnx"

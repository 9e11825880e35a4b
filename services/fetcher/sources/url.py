"""Files at https URLs: a graph, or an archive of a model's files."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote, urlsplit

from services.common.addresses import UrlMalformed, bears_secret
from services.common.errors import InvalidArgument
from services.fetcher.faults import Forbidden, UnsupportedFramework
from services.fetcher.models import Plan, Reference, RemoteFile
from services.fetcher.sources.file_names import fault_of
from services.fetcher.sources.http import Answer, GuardedHttp
from services.fetcher.sources.http_files import HttpFlow, begin_of, opened, size_of, tag_of
from services.fetcher.sources.source import Found, Stopping, is_archive, model_name

_EXTENDED: Final = re.compile(r"filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^';\s]+)", re.IGNORECASE)
_NAMED: Final = re.compile(r'filename\s*=\s*(?:"([^"]+)"|([^";]+))', re.IGNORECASE)
_MODELS: Final = (".onnx", ".keras", ".pb")
_PAGES_BEGIN: Final = (b"<", b"\n", b"\r", b"\t", b" ", b"\xef")
"""A tag, white space, or a mark of UTF-8."""


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
        try:
            self._http.endpoint(reference.reference)
        except Forbidden as error:
            if isinstance(error.__cause__, UrlMalformed):
                raise InvalidArgument.field("source.reference", error.message, reason="INVALID_REFERENCE") from error
            raise

    def host(self, reference: Reference) -> str:
        """See `Source.host`."""
        return self._http.endpoint(reference.reference).host

    def find(self, reference: Reference, stopping: Stopping) -> Found:
        """Ask for the first byte: what comes with it says how large the file is and when it changes."""
        with self._http.get(reference.reference, {"Range": "bytes=0-0"}, stopping) as answer:
            begin_of(answer, 0)
            _check_no_page(answer)
            size_bytes = size_of(answer)
            tag = tag_of(answer, size_bytes)
            name = _name_of(answer, reference.reference)
            ranges = answer.status == HTTPStatus.PARTIAL_CONTENT and size_bytes is not None
        file = RemoteFile(name, reference.reference, tag, size_bytes, reference.sha256, ranges)
        return Found(Plan(tag, (file,), unpack=is_archive(name)), model_name(name))

    def open(
        self, file: RemoteFile, offset: int, stopping: Stopping, *, end: int | None = None
    ) -> AbstractContextManager[HttpFlow]:
        """Ask for the rest of a file, provided that it is the same; who knows no ranges sends all of it."""
        return opened(self._http.get, file.locator, file, offset, stopping, end=end)


def _check_no_page(answer: Answer) -> None:
    """See that it is no page for people: a login, or one about the file; raises UnsupportedFramework.

    Its type alone says nothing, for some servers call everything text/html; no model begins as pages do.
    """
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") and next(answer.chunks(), b"")[:1] in _PAGES_BEGIN:
        raise UnsupportedFramework(
            f"{answer.endpoint.authority} sent a web page in the place of a model: give the URL of the file itself, "
            "such as the one behind its download button, and one that nobody has to log in for"
        )


def _name_of(answer: Answer, url: str) -> str:
    """Name the file as its sender does, else by its URL, or by the one that this led to where only that is a model's.

    A name is all that is taken, never a path.
    """
    names = [_last(unquote(urlsplit(each).path)) for each in (url, answer.url)]
    by_url = next((name for name in names if is_archive(name) or name.lower().endswith(_MODELS)), names[0])
    name = _said_by(answer.headers.get("Content-Disposition", "")) or by_url
    return name if name.strip(".") and not fault_of(name) else "model.onnx"


def _said_by(disposition: str) -> str:
    """Read a Content-Disposition (RFC 6266), whose `filename*` goes before `filename`; '' where it names nothing."""
    if extended := _EXTENDED.search(disposition):
        return _last(unquote(extended[2], extended[1]))
    named = _NAMED.search(disposition)
    return _last(named[1] or named[2]) or "." if named else ""


def _last(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2].strip()

"""Files at https URLs: a graph, or an archive of a model's files."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote, urlsplit

from services.common.addresses import bears_secret
from services.common.errors import InvalidArgument
from services.fetcher.models import Plan, Reference, RemoteFile
from services.fetcher.sources.file_names import fault_of
from services.fetcher.sources.http import Answer, GuardedHttp
from services.fetcher.sources.http_files import HttpFlow, begin_of, opened, size_of, tag_of
from services.fetcher.sources.source import Found, Stopping, is_archive, model_name

_NAMED: Final = re.compile(r'filename="?([^";]+)"?', re.IGNORECASE)


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
            begin_of(answer, 0)
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


def _name_of(answer: Answer, url: str) -> str:
    """Name the file as its sender does, else as its URL does; a name is all that is taken, never a path."""
    found = _NAMED.search(answer.headers.get("Content-Disposition", ""))
    said = found[1] if found else unquote(urlsplit(url).path)
    name = said.replace("\\", "/").rstrip("/").rpartition("/")[2].strip()
    return name if name.strip(".") and not fault_of(name) else "model.onnx"

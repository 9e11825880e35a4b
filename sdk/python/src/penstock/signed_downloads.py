"""Downloads by a URL that the registry signs: the bytes come from its store itself, without a way through it.

Only a registry that was told under which address clients reach its store signs such URLs. Whatever goes wrong with one,
the file is streamed by the registry instead, from the byte where it stopped.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Generator
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.downloads import Fetch
from penstock.errors import PenstockError, Unavailable

READ_BYTES = 1024 * 1024
_OK, _PARTIAL = 200, 206


def by_url(sign: Callable[[], pb.CreateDownloadUrlResponse], stream: Fetch, *, timeout_s: float) -> Fetch:
    """Begin downloads at a signed URL, and once one has failed, or there is none, at the registry.

    Args:
        sign: asks the registry for a URL.
        stream: begins a download through the registry.
        timeout_s: one wait for the store.
    """
    usable = True

    def fetch(offset_bytes: int) -> Generator[pb.DownloadFileResponse, None, None]:
        nonlocal usable
        signed = _signed(sign) if usable else None
        if signed is None:
            usable = False
            yield from stream(offset_bytes)
            return
        try:
            yield pb.DownloadFileResponse(file=signed.file)
            yield from _read(signed.url, range(offset_bytes, signed.file.size_bytes), timeout_s)
        except (OSError, HTTPException, ValueError) as error:
            usable = False
            raise Unavailable(
                f"the store of {signed.file.path} could not be read by its URL; the registry is asked instead",
                reason="DOWNLOAD_URL_FAILED",
                retryable=True,
            ) from error

    return fetch


def _signed(sign: Callable[[], pb.CreateDownloadUrlResponse]) -> pb.CreateDownloadUrlResponse | None:
    """Ask for a URL; None where there is none. An older registry does not know the question."""
    try:
        answer = sign()
    except PenstockError:
        return None  # what is wrong with the file itself, the stream says better
    return answer if answer.url else None


def _read(url: str, wanted: range, timeout_s: float) -> Generator[pb.DownloadFileResponse, None, None]:
    """Read from a byte to the end; raises OSError, HTTPException or ValueError where that is not what comes."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        raise ValueError("the URL is none for HTTP")
    with closing(
        HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=ssl.create_default_context())
        if parts.scheme == "https"
        else HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    ) as connection:
        connection.request("GET", f"{parts.path}?{parts.query}", headers={"Range": f"bytes={wanted.start}-"})
        response = connection.getresponse()
        _check(response, wanted.start)
        received_bytes = 0
        while chunk := response.read(READ_BYTES):
            received_bytes += len(chunk)
            yield pb.DownloadFileResponse(chunk=chunk)
        if received_bytes < len(wanted):
            raise ValueError("the store broke off")  # which http.client takes for an end


def _check(response: HTTPResponse, offset_bytes: int) -> None:
    """A store that ignores the range sends all, which is as good from the first byte on."""
    if response.status != _PARTIAL and not (response.status == _OK and offset_bytes == 0):
        raise ValueError(f"the store answered {response.status}")

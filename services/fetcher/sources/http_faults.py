"""What goes wrong on a connection, in the terms of a fetch; nothing of a URL is said but its host."""

from __future__ import annotations

import ssl
from http.client import HTTPException
from typing import TYPE_CHECKING

from services.common.addresses import Endpoint
from services.fetcher.faults import NetworkError

if TYPE_CHECKING:
    from services.common.pinned import Pinned


def check_end(connection: Pinned) -> None:
    """Tell a connection that was shut from one whose sender is done: both read as an end."""
    if connection.overdue:
        raise TimeoutError


def translated(endpoint: Endpoint, error: Exception, connection: Pinned) -> Exception:
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

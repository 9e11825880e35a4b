"""What goes wrong on a connection, in the terms of a fetch; nothing of a URL is said but its host and port."""

from __future__ import annotations

from http.client import HTTPException
from typing import TYPE_CHECKING, Final

from services.common.addresses import Endpoint
from services.common.connection_faults import ConnectionFault
from services.fetcher.faults import Forbidden, NetworkError

if TYPE_CHECKING:
    from services.common.pinned import Pinned

_NO_TLS: Final = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}
"""What OpenSSL calls an answer that is none of TLS, by its own version."""


def check_end(connection: Pinned) -> None:
    """Tell a connection that was shut from one whose sender is done: both read as an end."""
    if connection.overdue:
        raise TimeoutError


def translated(endpoint: Endpoint, error: Exception, connection: Pinned) -> Exception:
    """Say what went wrong, and of the URL its host and port alone; what is no fault of the network stays as it is."""
    from urllib3.exceptions import HTTPError

    if not isinstance(error, (HTTPError, HTTPException, OSError, ValueError)):
        return error
    if connection.overdue:
        return NetworkError(
            f"the transfer from {endpoint.authority} was ended: it was too slow, or nobody wants it any more"
        )
    fault = ConnectionFault.of(error)
    if fault.timed_out:
        return NetworkError(f"{endpoint.authority} was silent for too long")
    if fault.tls is None:
        return NetworkError(f"{endpoint.authority} could not be reached, or broke off ({fault.why})")
    if fault.tls.reason in _NO_TLS:
        return Forbidden(
            f"{endpoint.authority} seems to speak no TLS, and without it what comes can be changed on the way; if "
            "it is to be trusted, an administrator names its host in PENSTOCK_FETCHER_ALLOWED_HOSTS where the "
            "fetcher runs, and an OCI registry also in PENSTOCK_FETCHER_OCI_PLAIN_HOSTS; a URL then begins with "
            "http://"
        )
    return NetworkError(f"TLS with {endpoint.authority} failed: {fault.tls.reason or 'no TLS'}")

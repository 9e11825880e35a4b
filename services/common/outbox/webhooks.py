"""Posting a message to somebody's URL: signed, to an address that was checked, and within a time that holds.

The header X-Penstock-Message-Id is the same at every attempt. X-Penstock-Signature is `t=UNIX_SECONDS,v1=HEX`, where
HEX is HMAC-SHA256 of the secret over t, a full stop, and the body: a receiver compares it, and refuses an old t, so
that nobody replays what was recorded.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from services.common.addresses import AddressRules, Endpoint
from services.common.connection_faults import ConnectionFault
from services.common.errors import Unavailable
from services.common.outbox.message import Undeliverable

if TYPE_CHECKING:
    from urllib3.response import HTTPResponse

    from services.common.pinned import Pinned

LEFT_ALONE = 3.0
"""For how many times as long as it was waited for a receiver that hangs is left alone: it takes a quarter of a slot."""
LOOKUP_S = 3.0
"""How long whoever names a receiver waits for its host to be looked up."""
MAX_ANSWER_BYTES = 64 * 1024
"""What is read of an answer, so that its sender sees it taken; what it says does not matter."""

_BODY_REFUSED = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY)
_SECRET = re.compile(r"[\x21-\x7e]{16,256}")


class NotDelivered(Unavailable):
    """This attempt failed; a later one may succeed."""

    default_reason = "NOT_DELIVERED"


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where to post to, and what to sign with; '' signs nothing. Both may be secret, and are never shown."""

    url: str = field(repr=False)
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class WebhookLimits:
    """How long one attempt may take: to connect to one address, and in all, the looking up included."""

    connect_s: float = 5.0
    total_s: float = 10.0


class Webhooks:
    """Posts messages. Keeps no connections: a receiver hears of us seldom."""

    def __init__(
        self,
        rules: AddressRules,
        limits: WebhookLimits | None = None,
        *,
        ca_file: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ca_file`: the certificates that vouch for receivers, PEM, in place of the system's; read at each attempt."""
        self._rules = rules
        self._limits = limits or WebhookLimits()
        self._ca_file = ca_file
        self._clock = clock

    def shown(self, url: str) -> str:
        """See that a URL may be posted to, as far as its host is known now; gives it without its path, for showing.

        A path may be a secret itself, as that of every hook of Slack's, Teams' and Discord's is: it becomes `/***`.

        Raises:
            UrlRefused: it may not be.
        """
        endpoint = self._rules.endpoint(url)
        with suppress(Unavailable):  # it may be known later
            self._rules.resolve(endpoint, LOOKUP_S)
        return f"{endpoint.scheme}://{endpoint.authority}/" + ("" if endpoint.target == "/" else "***")

    def post(self, webhook: Webhook, message_id: UUID, body: bytes) -> None:
        """Post a body as JSON; returns once the receiver has answered 2xx.

        Raises:
            UrlRefused: the URL, or where its name leads to now, is not allowed.
            NotDelivered: anything else that may pass; `retry_after_s` as the receiver asked, or because it hangs.
            Undeliverable: the receiver answered 410 Gone, or refuses this body (400, 413, 422), which stays as it is.
                What else it answers is about the way to it, and would be answered to every body alike: a key or a URL
                that somebody sets right, and all that waited arrives.
        """
        until = time.monotonic() + self._limits.total_s
        endpoint = self._rules.endpoint(webhook.url)
        addresses = self._rules.resolve(endpoint, self._limits.total_s)
        connection = self._connection(endpoint, addresses, until)
        headers = {
            "Host": endpoint.authority,
            "Content-Type": "application/json",
            "User-Agent": "penstock",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "X-Penstock-Message-Id": str(message_id),
        }
        if webhook.secret:
            headers["X-Penstock-Signature"] = signature(webhook.secret, body, int(self._clock()))
        with _bounded(connection, endpoint, until, LEFT_ALONE * self._limits.total_s):
            connection.request("POST", endpoint.target, body, headers, preload_content=False)
            response = connection.getresponse()
            if connection.overdue:  # a head that was cut off reads as one that has ended
                raise TimeoutError
            status, retry_after = response.status, response.headers.get("Retry-After")
            _read_some(response)
        self._judge(endpoint, status, retry_after)

    def _connection(self, endpoint: Endpoint, addresses: Sequence[str], until: float) -> Pinned:
        # urllib3 takes a tenth of a service's start, which most that never post need not wait for.
        from services.common.pinned import connection_to

        return connection_to(endpoint, addresses, self._limits.connect_s, until, self._ca_file, "receivers")

    def _judge(self, endpoint: Endpoint, status: int, retry_after: str | None) -> None:
        if 200 <= status < 300:
            return
        said = f"{endpoint.host} answered {status} {_phrase(status)}".rstrip()
        if status == HTTPStatus.GONE:
            raise Undeliverable(f"{said}: it wants no more of these", reason="RECEIVER_GONE")
        if status in _BODY_REFUSED:
            raise Undeliverable(f"{said}: it does not take this message", reason="MESSAGE_REFUSED")
        if 300 <= status < 400:
            sentence = f"{said}: redirects are not followed, so give the URL that it leads to"
            raise NotDelivered(sentence, reason="REDIRECTED")
        retry_after_s = read_retry_after(retry_after, self._clock())
        raise NotDelivered(said, reason="RECEIVER_REFUSED", retry_after_s=retry_after_s)


def secret_problem(secret: str) -> str:
    """Say what is wrong with a secret to sign with, and nothing of it; '' where it can be used."""
    if _SECRET.fullmatch(secret):
        return ""
    return f"16 to 256 printable ASCII characters are allowed, got {len(secret)} characters"


def signature(secret: str, body: bytes, unix_s: int) -> str:
    """Make the value of X-Penstock-Signature."""
    digest = hmac.new(secret.encode(), f"{unix_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={unix_s},v1={digest}"


def read_retry_after(value: str | None, unix_s: float) -> float | None:
    """Read a Retry-After header, in seconds from now: a count of seconds, or a date (RFC 9110, 10.2.3)."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.fromtimestamp(unix_s, UTC)).total_seconds())


@contextmanager
def _bounded(connection: Pinned, endpoint: Endpoint, until: float, left_alone_s: float) -> Iterator[None]:
    """Shut the connection when the time is over: a receiver that sends a byte now and then hides from time-outs."""
    from urllib3.exceptions import HTTPError

    watch = threading.Timer(max(0.0, until - time.monotonic()), connection.shut)
    watch.daemon = True
    watch.start()
    try:
        yield
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        raise _translated(endpoint, error, left_alone_s, overdue=connection.overdue) from error
    finally:
        watch.cancel()
        connection.let_go()


def _translated(endpoint: Endpoint, error: Exception, left_alone_s: float, *, overdue: bool) -> NotDelivered:
    """Say what went wrong, and nothing of the URL but its host."""
    fault = ConnectionFault.of(error)
    if overdue or fault.timed_out:
        sentence = f"{endpoint.host} did not answer in time"
        return NotDelivered(sentence, reason="RECEIVER_TIMEOUT", retry_after_s=left_alone_s)
    if fault.tls is not None:
        tls = fault.tls
        why = tls.verify_message if isinstance(tls, ssl.SSLCertVerificationError) else (tls.reason or "no TLS")
        return NotDelivered(f"TLS with {endpoint.host} failed: {why}", reason="TLS_FAILED")
    sentence = f"{endpoint.host} could not be reached, or broke off ({fault.why})"
    return NotDelivered(sentence, reason="RECEIVER_UNREACHABLE")


def _read_some(response: HTTPResponse) -> None:
    from urllib3.exceptions import HTTPError

    # The status is there, and that is what counts.
    with suppress(HTTPError, HTTPException, OSError):
        response.read(MAX_ANSWER_BYTES, decode_content=False)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""

"""A message on its way, and what its deliverer may say of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from services.common.errors import FailedPrecondition


class Undeliverable(FailedPrecondition):
    """No later attempt can succeed: the message is given up at once. Raised by who delivers."""

    default_reason = "UNDELIVERABLE"


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was claimed.

    Attributes:
        message_id: constant over all attempts.
        destination: as it was put.
        body: as it was put.
        put_time: when it was put, by the database's clock.
        attempt: from 1 on; those that died count.
        token: fences: of all who ever had the message, the latest has the highest.
        troubled: a message to its destination, this or another, failed and waits for another try.
    """

    message_id: UUID
    destination: str
    body: bytes = field(repr=False)
    put_time: datetime
    attempt: int
    token: int
    troubled: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    """How a destination stands, as far as its messages are kept.

    Attributes:
        waiting_count: messages that wait for it.
        failed_count: messages that were given up.
        last_delivery_time: when something last arrived; None where nothing has.
        last_attempt_time: when the latest attempt began; None where there was none.
        last_error: why the latest attempt failed, in a sentence; empty where it did not.
    """

    waiting_count: int = 0
    failed_count: int = 0
    last_delivery_time: datetime | None = None
    last_attempt_time: datetime | None = None
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message, as far as it is kept.

    Attributes:
        delivery_time: when it arrived; None where it has not.
        given_up: it is not tried again, and has not arrived.
        last_error: why the latest attempt failed, in a sentence; empty where it did not.
    """

    delivery_time: datetime | None = None
    given_up: bool = False
    last_error: str = ""

"""The workers of one process: they claim messages, have them delivered, and write down what became of them."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from services.common.errors import DomainError
from services.common.jobs.backoff import Backoff
from services.common.outbox.message import Message, Undeliverable
from services.common.outbox.store import Outbox

_log = structlog.get_logger(__name__)
MARK_TRIES_S = 0.2
DAY_S = 24 * 3_600.0

Deliver = Callable[[Message], None]
"""Takes a message where it belongs, within its own time limits, all of them shorter than the lease.

It raises `Undeliverable` where no later attempt can help; after any other DomainError the message is tried again, no
sooner than its `retry_after_s`, until which nothing else goes to the destination either. What these say is kept and
shown: it must hold no secret.
"""


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """How many messages at once, and how patiently.

    Attributes:
        slots: messages that this process has on their way at once, each to another destination; at most one half of
            them to destinations of which a message failed and waits, so there must be two.
        lease_s: how long after a sender's death another sends the message again; longer than any delivery takes.
        poll_interval_s: how often it is looked for what has come due; what is new rings at once.
        tidy_interval_s: how often it is looked for what is old, until nothing of it is left.
        tidy_count: messages that one transaction tidies away.
        delivered_kept_s: how long a message is kept once it has arrived.
        failed_kept_s: how long one that was given up is.
        backoff: the waits between attempts.
    """

    slots: int = 8
    lease_s: float = 120.0
    poll_interval_s: float = 1.0
    tidy_interval_s: float = 600.0
    tidy_count: int = 1_000
    delivered_kept_s: float = 7 * DAY_S
    failed_kept_s: float = 30 * DAY_S
    backoff: Backoff = field(default_factory=lambda: Backoff(base_s=5.0, cap_s=900.0))

    def __post_init__(self) -> None:
        if self.slots < 2:
            raise ValueError(
                f"got {self.slots} slots; with fewer than 2 a destination that hangs would hold up the rest"
            )


class OutboxWorkers:
    """One thread that waits for messages, and one for each message that is on its way."""

    def __init__(self, outbox: Outbox, deliver: Deliver, limits: OutboxLimits | None = None) -> None:
        self.worker_id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.delivered_count = 0
        self.retried_count = 0
        self.failed_count = 0
        self._outbox = outbox
        self._deliver = deliver
        self._limits = limits or OutboxLimits()
        self._slots = threading.BoundedSemaphore(self._limits.slots)
        self._troubled_slots = threading.BoundedSemaphore(self._limits.slots // 2)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._senders: set[threading.Thread] = set()
        self._listener = outbox.listen(poll_interval_s=self._limits.poll_interval_s)
        self._thread = threading.Thread(target=self._watch, name="outbox", daemon=True)
        self._tidied_at = 0.0

    def open(self) -> None:
        """Start."""
        self._listener.__enter__()
        self._thread.start()

    def close(self, grace_s: float = 5.0) -> None:
        """Take no more, and wait for what is on its way; what does not arrive in time is sent again elsewhere.

        Closing twice is fine.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._listener.close()
        deadline = time.monotonic() + grace_s
        self._thread.join(grace_s)
        with self._lock:
            senders = list(self._senders)
        for sender in senders:
            sender.join(max(0.0, deadline - time.monotonic()))
        if not self._thread.is_alive():
            self._listener.__exit__(None, None, None)

    def _watch(self) -> None:
        for _ in self._listener:
            try:
                self._send_all()
                self._tidy()
            except DomainError as error:
                _log.warning("outbox not looked after", reason=error.reason, message=error.message)
            except Exception:  # noqa: BLE001 - without this thread nothing would be sent any more
                _log.exception("the watch over the outbox broke")

    def _send_all(self) -> None:
        """Give each message that is ready a thread, as far as there are slots; each thread looks for more itself."""
        while not self._stopping.is_set() and self._slots.acquire(blocking=False):
            try:
                message = self._claim()
            except BaseException:
                self._slots.release()
                raise
            if message is None:
                self._slots.release()
                return
            # A daemon: what hangs must not hold up the end of the process.
            sender = threading.Thread(target=self._send_on, args=(message,), name="outbox-sender", daemon=True)
            with self._lock:
                self._senders.add(sender)
            try:
                sender.start()
            except RuntimeError:  # no more threads just now: the message is sent once its lease is over
                self._let_go(message)
                self._slots.release()
                with self._lock:
                    self._senders.discard(sender)
                raise

    def _claim(self) -> Message | None:
        """Take what is next; as far as those slots are taken, nothing to a destination that is known to fail."""
        troubled = self._troubled_slots.acquire(blocking=False)
        message = None
        try:
            message = self._outbox.claim(self.worker_id, self._limits.lease_s, troubled=troubled)
        finally:
            if troubled and (message is None or not message.troubled):
                self._troubled_slots.release()
        return message

    def _let_go(self, message: Message) -> None:
        if message.troubled:
            self._troubled_slots.release()

    def _send_on(self, first: Message) -> None:
        """Send a message, and then what is next, until there is nothing."""
        message: Message | None = first
        try:
            while message is not None:
                try:
                    self._send(message)
                finally:
                    self._let_go(message)
                if self._stopping.is_set():
                    return
                message = self._claim()
        except DomainError as error:
            _log.warning("no message claimed", reason=error.reason, message=error.message)
        except Exception:  # noqa: BLE001 - a defect must not end in silence; the lease runs out by itself
            _log.exception("a sender of the outbox broke")
        finally:
            self._slots.release()
            with self._lock:
                self._senders.discard(threading.current_thread())

    def _send(self, message: Message) -> None:
        """Have one message delivered; what became of it is written down while the lease lasts."""
        until = time.monotonic() + self._limits.lease_s
        mark = self._outcome_of(message)
        while True:
            try:
                mark()
                return
            except DomainError as error:
                _log.warning("delivery not noted yet", message_id=str(message.message_id), reason=error.reason)
                if time.monotonic() > until or self._stopping.wait(MARK_TRIES_S):
                    return

    def _outcome_of(self, message: Message) -> Callable[[], None]:
        try:
            self._deliver(message)
        except Undeliverable as error:
            final = error
            return lambda: self._fail(message, final)
        except DomainError as error:
            passing = error
            return lambda: self._put_back(message, passing)
        except Exception:  # noqa: BLE001 - whatever the delivery does, the message is kept and the sender goes on
            error_id = uuid.uuid4().hex
            _log.exception("a delivery broke", message_id=str(message.message_id), error_id=error_id)
            defect = DomainError(f"internal error; its id in the log is {error_id}", reason="INTERNAL")
            return lambda: self._put_back(message, defect)
        return lambda: self._delivered(message)

    def _delivered(self, message: Message) -> None:
        if self._outbox.delivered(message):
            self._count(delivered=1)

    def _put_back(self, message: Message, error: DomainError) -> None:
        asked_s = error.retry_after_s
        delay_s = self._limits.backoff.delay_s(message.attempt, asked_s)
        hold_s = min(asked_s or 0.0, self._limits.backoff.max_asked_s)
        kept = self._outbox.put_back(message, delay_s=delay_s, hold_s=hold_s, reason=error.reason, error=error.message)
        if kept is None:
            return
        if kept:
            self._count(retried=1)
        else:
            self._count(failed=1)
        _log.info(
            "message put back" if kept else "message given up",
            message_id=str(message.message_id), destination=message.destination, attempt=message.attempt,
            reason=error.reason, delay_s=round(delay_s, 3),
        )  # fmt: skip

    def _fail(self, message: Message, error: DomainError) -> None:
        if self._outbox.fail(message, reason=error.reason, error=error.message):
            self._count(failed=1)
            where = {"message_id": str(message.message_id), "destination": message.destination}
            _log.warning("message given up", reason=error.reason, **where)

    def _count(self, *, delivered: int = 0, retried: int = 0, failed: int = 0) -> None:
        with self._lock:
            self.delivered_count += delivered
            self.retried_count += retried
            self.failed_count += failed

    def _tidy(self) -> None:
        now = time.monotonic()
        if self._tidied_at and now - self._tidied_at < self._limits.tidy_interval_s:
            return
        limits = self._limits
        kept = {"delivered_kept_s": limits.delivered_kept_s, "failed_kept_s": limits.failed_kept_s}
        while not self._stopping.is_set() and self._outbox.expire(**kept, limit=limits.tidy_count):
            self._send_all()  # what is new does not wait for the end of it
        self._tidied_at = now

"""Channels: who is told, and telling them."""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from uuid import UUID

from penstock.ids import uuid7
from services.common import pages
from services.common.errors import (
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from services.common.keys import caller
from services.common.outbox import Destination, Message, Outbox, OutboxConnection, Undeliverable
from services.common.postgres import Database
from services.common.sealing import Seal
from services.monitoring.notifications.models import (
    MAX_CHANNELS,
    AppriseTarget,
    Change,
    Channel,
    Notification,
    StoredChannel,
    Target,
    WebhookTarget,
)
from services.monitoring.notifications.rendering import alerts_document, trial_document
from services.monitoring.notifications.senders import Senders
from services.monitoring.notifications.store import ChannelStore
from services.monitoring.parts import Clock

WEBHOOK, APPRISE = "webhook", "apprise"
DEFAULT_PAGE_SIZE = 100
MAX_REQUESTS = 4
"""Channels that are set and tested at once: each may wait for a receiver, and keeps others' requests from a thread."""
InUse = Callable[[OutboxConnection, str], str]
"""Says in a sentence what relies on a channel, in the transaction that would delete it; '' where nothing does."""


@dataclass(frozen=True, slots=True)
class ChannelDraft:
    """A channel as somebody sets it; an empty secret of a webhook means the one that it has, unless that is to go."""

    name: str
    target: Target = field(repr=False)
    clear_secret: bool = False


class Channels:
    """Keeps the channels, and sends to them by the outbox: `notify` writes, `deliver` is what the workers call."""

    def __init__(
        self,
        database: Database,
        store: ChannelStore,
        outbox: Outbox,
        seal: Seal,
        senders: Senders,
        deliveries: Senders,
        clock: Clock,
    ) -> None:
        """`senders` serve those who set channels and test them, `deliveries` the outbox."""
        self._db = database
        self._store = store
        self._outbox = outbox
        self._seal = seal
        self._senders = senders
        self._deliveries = deliveries
        self._clock = clock
        self._in_use: list[InUse] = []
        self._requests = threading.BoundedSemaphore(MAX_REQUESTS)

    # For other parts

    def keep_while(self, in_use: InUse) -> None:
        """Have a channel not deleted as long as something relies on it; before requests come."""
        self._in_use.append(in_use)

    def require(self, connection: OutboxConnection, names: Sequence[str], *, field: str) -> None:
        """See that channels are there, and that they stay until the transaction ends.

        Raises:
            InvalidArgument: one is not (CHANNEL_NOT_FOUND); `field` is named in the error.
        """
        missing = sorted(set(names) - self._store.keep(connection, names)) if names else []
        if missing:
            sentence = f"there is no channel {missing[0]!r}: `penstock alert channel list` shows those that there are"
            raise InvalidArgument.field(field, sentence, reason="CHANNEL_NOT_FOUND")

    def notify(
        self, connection: OutboxConnection, channel_names: Iterable[str], notification: Notification
    ) -> tuple[UUID, ...]:
        """Put one message a channel into the outbox, in the caller's transaction, and give their ids.

        A channel hears of each model in the order of these calls.

        They are sent once it commits, and never if it does not. A channel that is gone by then makes a failed message.
        """
        message_ids = []
        for name in dict.fromkeys(channel_names):
            message_id = UUID(uuid7())
            document = alerts_document(notification, message_id, name, self._clock())
            self._outbox.put(connection, name, document, ordering_key=notification.model, message_id=message_id)
            message_ids.append(message_id)
        return tuple(message_ids)

    # For the workers of the outbox

    def deliver(self, message: Message) -> None:
        """Send a message to its channel, as that is now; raises as `Deliver` says."""
        stored = self._store.find(message.destination)
        if stored is None:
            sentence = f"the channel {message.destination} was deleted"
            raise Undeliverable(sentence, reason="CHANNEL_NOT_FOUND")
        self._deliveries.send(self._target(stored), message.message_id, message.body)

    # For callers

    def set(self, draft: ChannelDraft) -> tuple[Channel, bool]:
        """Make or replace a channel, and say whether it is another now.

        Raises:
            InvalidArgument: INVALID_CHANNEL, URL_NOT_ALLOWED.
            FailedPrecondition: SECRETS_KEY_MISSING, SECRETS_KEY_INVALID, SECRETS_KEY_CHANGED.
            ResourceExhausted: there are 100 already (TOO_MANY_CHANNELS), or four are set or tested (CHANNELS_BUSY).
        """
        with self._request():
            shown_url = self._senders.check(draft.target)
        with self._db.transaction() as connection:
            known, others = self._store.find_locked(connection, draft.name)
            if known is None and others >= MAX_CHANNELS:
                sentence = f"there are {others} channels, and at most {MAX_CHANNELS} are kept: delete one"
                raise ResourceExhausted(sentence, reason="TOO_MANY_CHANNELS")
            target = self._with_secret(draft, known)
            changed = self._differs(target, known)
            stored = self._store.set(connection, self._sealed(draft.name, target, shown_url))
            self._store.log(connection, known, stored, stored.updated_by)
        return self._shown([stored])[0], changed

    def compare(self, draft: ChannelDraft) -> tuple[Channel, bool]:
        """Say what `set` would make of a channel, and whether that is another than it is; raises as `set` does.

        What is kept is given out to nobody for that: secrets are compared here. Room for one more is not looked for.
        """
        known = self._store.find(draft.name)
        target = self._with_secret(draft, known)
        if known is not None and not self._differs(target, known):
            return self._shown([known])[0], False
        with self._request():
            shown_url = self._senders.check(target)
        return _channel(self._sealed(draft.name, target, shown_url), Destination()), True

    def delete(self, name: str) -> None:
        """Delete a channel, and give up what waits for it.

        Raises:
            NotFound: CHANNEL_NOT_FOUND.
            FailedPrecondition: something relies on it (CHANNEL_IN_USE).
        """
        with self._db.transaction() as connection:
            known = self._store.hold(connection, name)
            if known is None:
                raise _not_found(name)
            for in_use in self._in_use:
                if sentence := in_use(connection, name):
                    raise FailedPrecondition(f"{sentence}; take the channel out of them first", reason="CHANNEL_IN_USE")
            self._store.delete(connection, name)
            self._store.log(connection, known, None, caller().name)
            reason, message = "CHANNEL_NOT_FOUND", "the channel was deleted"
            self._outbox.drop(connection, name, reason=reason, message=message)

    def listed(self) -> list[Channel]:
        """List them by name."""
        return self._shown(self._store.listed(MAX_CHANNELS))

    def changes(self, name: str, *, size: int, token: str) -> tuple[Sequence[Change], str]:
        """List what was done to channels, the newest first, and the token of the next page; empty on the last.

        Raises:
            InvalidArgument: the size or the token.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = {"name": name}
        found = self._store.changes(name, before=_position(pages.decode(token, bound_to)), limit=size + 1)
        if len(found) <= size:
            return found, ""
        return found[:size], pages.encode([found[size - 1].number], bound_to)

    def test(self, name: str) -> int:
        """Send a channel a message that says it is a test, once; gives how long that took, in ms.

        What came of it is kept, until the channel is set again.

        Raises:
            NotFound: CHANNEL_NOT_FOUND.
            FailedPrecondition: it did not arrive (NOT_DELIVERED).
            ResourceExhausted: four are set or tested just now (CHANNELS_BUSY).
        """
        stored = self._store.find(name)
        if stored is None:
            raise _not_found(name)
        message_id = UUID(uuid7())
        document = trial_document(message_id, name, caller().name, self._clock())
        began = time.monotonic()
        with self._request():
            try:
                self._senders.send(self._target(stored), message_id, document)
            except DomainError as error:
                self._store.tested(stored, error.message)
                metadata = {"cause": error.reason}
                raise FailedPrecondition(error.message, reason="NOT_DELIVERED", metadata=metadata) from error
        duration_ms = round((time.monotonic() - began) * 1000)
        self._store.tested(stored, "")
        return duration_ms

    @contextmanager
    def _request(self) -> Iterator[None]:
        if not self._requests.acquire(blocking=False):
            sentence = f"{MAX_REQUESTS} channels are being set or tested; try again in a moment"
            raise ResourceExhausted(sentence, reason="CHANNELS_BUSY", retry_after_s=1.0)
        try:
            yield
        finally:
            self._requests.release()

    def _target(self, stored: StoredChannel) -> Target:
        text = stored.plain if stored.sealed is None else self._seal.open(stored.sealed)
        values = json.loads(text or b"")
        return WebhookTarget(**values) if stored.kind == WEBHOOK else AppriseTarget(**values)

    def _with_secret(self, draft: ChannelDraft, known: StoredChannel | None) -> Target:
        """Fill in the secret that a webhook had, where none came and that one is not to go."""
        target = draft.target
        if not isinstance(target, WebhookTarget) or target.secret or draft.clear_secret:
            return target
        if known is None or known.kind != WEBHOOK:
            return target
        before = self._target(known)
        return replace(target, secret=before.secret) if isinstance(before, WebhookTarget) else target

    def _differs(self, target: Target, known: StoredChannel | None) -> bool:
        """Say whether a target is another than a channel's; one that no key opens any more is."""
        if known is None:
            return True
        try:
            before = self._target(known)
        except FailedPrecondition:
            return True
        return type(target) is not type(before) or not hmac.compare_digest(_encoded(target), _encoded(before))

    def _sealed(self, name: str, target: Target, shown_url: str) -> StoredChannel:
        """Make a channel's row: its target is encrypted, or as it is where there is no key and it is a host alone.

        A path may be a secret itself, as that of every hook of Slack's, Teams' and Discord's is.
        """
        text = _encoded(target)
        is_webhook = isinstance(target, WebhookTarget)
        signed = isinstance(target, WebhookTarget) and target.secret != ""
        open_to_all = isinstance(target, WebhookTarget) and not signed and not self._senders.has_path(target)
        plain = text if open_to_all and not self._seal.ready else None
        return StoredChannel(
            name=name,
            kind=WEBHOOK if is_webhook else APPRISE,
            shown_url=shown_url,
            signed=signed,
            sealed=self._seal.seal(text) if plain is None else None,
            plain=plain,
            updated_by=caller().name,
        )

    def _shown(self, stored: Sequence[StoredChannel]) -> list[Channel]:
        standings = self._outbox.destinations([each.name for each in stored])
        return [_channel(each, standings[each.name]) for each in stored]


def _encoded(target: Target) -> bytes:
    return json.dumps(asdict(target)).encode()


def _channel(stored: StoredChannel, standing: Destination) -> Channel:
    """Say how a channel stands, by the messages of the outbox and by the latest test, which is none of them."""
    tested_last = stored.test_time is not None and (
        standing.last_attempt_time is None or standing.last_attempt_time < stored.test_time
    )
    arrived = (standing.last_delivery_time, stored.test_arrival_time)
    return Channel(
        name=stored.name,
        kind=stored.kind,
        shown_url=stored.shown_url,
        signed=stored.signed,
        update_time=stored.update_time,
        updated_by=stored.updated_by,
        last_delivery_time=max((time for time in arrived if time is not None), default=None),
        waiting_count=standing.waiting_count,
        failed_count=standing.failed_count,
        last_error=stored.test_error if tested_last else standing.last_error,
    )


def _position(position: list[Any] | None) -> int | None:
    """Read what a token of ours says; it is not signed, so it is looked at like any input."""
    match position:
        case None:
            return None
        case [int(number)] if 0 < number < 2**63:
            return number
    raise pages.unknown_token()


def _not_found(name: str) -> NotFound:
    sentence = f"there is no channel {name!r}: `penstock alert channel list` shows those that there are"
    return NotFound(sentence, reason="CHANNEL_NOT_FOUND")

"""Silences: alerts that nobody is to be told of for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from penstock.durations import write_duration
from penstock.ids import uuid7
from services.common import pages
from services.common.errors import InvalidArgument, NotFound, ResourceExhausted
from services.common.keys import caller
from services.monitoring.alerts.models import RequestKey, Silence, SilenceDraft
from services.monitoring.alerts.store.transaction import AlertStore
from services.monitoring.ids import find_id

Clock = Callable[[], datetime]
MAX_SILENCES = 1_000
MAX_LENGTH = timedelta(days=30)
DEFAULT_PAGE_SIZE = 100


class Silences:
    """See the module. One that is over is kept as long as alerts are."""

    def __init__(self, store: AlertStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def create(self, draft: SilenceDraft, key: RequestKey) -> Silence:
        """Make a silence; the same request again gives what it made.

        Raises:
            InvalidArgument: its times make no sense (INVALID_SILENCE).
            FailedPrecondition: the request_id came with another request (REQUEST_ID_REUSED).
            ResourceExhausted: too many are not over yet (TOO_MANY_SILENCES).
        """
        now = self._clock()
        with self._store.write() as tables:
            made = tables.requests.find(key)
            if made is not None:  # however much later it is by now
                return _found(tables.silences.find(made), made)
            silence = _checked(draft, now)
            if tables.silences.count(now) >= MAX_SILENCES:
                raise ResourceExhausted(
                    f"{MAX_SILENCES:,} silences are not over yet, which is as many as may be; end some",
                    reason="TOO_MANY_SILENCES",
                )
            tables.silences.insert(silence)
            tables.requests.insert(key, silence.id, now)
        return silence

    def end(self, silence_id: UUID) -> Silence:
        """End a silence now; one that is over stays as it is. Raises NotFound (SILENCE_NOT_FOUND)."""
        now = self._clock()
        with self._store.write() as tables:
            silence = _found(tables.silences.lock(silence_id), silence_id)
            if silence.end_time <= now:
                return silence
            ended = replace(silence, begin_time=min(silence.begin_time, now), end_time=now)
            tables.silences.move(ended)
            return ended

    def page(self, *, ended: bool, size: int, token: str) -> tuple[Sequence[Silence], str]:
        """List silences, the newest first, and the token of the next page; `ended`: those that are over too.

        Raises:
            InvalidArgument: the size or the token.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = {"ended": ended}
        before = position_of(pages.decode(token, bound_to))
        with self._store.read() as tables:
            since = None if ended else self._clock()
            found = tables.silences.page(ended_since=since, before=before, limit=size + 1)
        if len(found) <= size:
            return found, ""
        return found[:size], pages.encode([str(found[size - 1].id)], bound_to)


def _checked(draft: SilenceDraft, now: datetime) -> Silence:
    begin = draft.begin_time or now
    if draft.end_time <= max(begin, now):
        when = "its beginning" if begin > now else "now"
        raise _refused(f"got {draft.end_time.isoformat()}, which is not after {when}; give a later end")
    if draft.end_time - begin > MAX_LENGTH:
        raise _refused(
            f"it is over {write_duration(MAX_LENGTH)} after the beginning; make it shorter, and a new one then"
        )
    return Silence(**{**asdict(draft), "begin_time": begin}, id=UUID(uuid7()), created_by=caller().name)


def _refused(description: str) -> InvalidArgument:
    return InvalidArgument.field("silence.end_time", description, reason="INVALID_SILENCE")


def _found(silence: Silence | None, silence_id: UUID) -> Silence:
    if silence is None:
        raise NotFound(
            f"there is no silence {silence_id}; `penstock alert silences` shows those that there are",
            reason="SILENCE_NOT_FOUND",
        )
    return silence


def position_of(position: list[Any] | None) -> UUID | None:
    """Read what a token of ours says, an id; it is not signed, so it is looked at like any input."""
    match position:
        case None:
            return None
        case [str(text)] if (found := find_id(text)) is not None:
            return found
    raise pages.unknown_token()

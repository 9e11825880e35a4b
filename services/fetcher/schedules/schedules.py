"""The use cases of schedules, save what happens when their times come."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog

from penstock.ids import uuid7
from services.common import pages
from services.common.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from services.common.keys import Principal
from services.common.outbox.webhooks import Webhook
from services.fetcher.notifications.webhooks import FetchWebhooks
from services.fetcher.schedules import times
from services.fetcher.schedules.models import NewSchedule, Schedule, ScheduleFilters, When
from services.fetcher.schedules.store import ScheduleStore
from services.fetcher.sources.catalogue import Sources

_log = structlog.get_logger(__name__)
PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class ScheduleLimits:
    """What callers may have: schedules of a key."""

    max_schedules: int


class Schedules:
    """Schedules as callers see them: who may see one sees all."""

    def __init__(self, store: ScheduleStore, sources: Sources, webhooks: FetchWebhooks, limits: ScheduleLimits) -> None:
        self._store = store
        self._sources = sources
        self._webhooks = webhooks
        self._limits = limits

    def create(self, new: NewSchedule, webhook: Webhook | None, principal: Principal) -> Schedule:
        """Make a schedule; see the contract for what is raised."""
        self._sources.of(new.spec.reference)
        stored = self._webhooks.checked(webhook) if webhook else None
        new = replace(new, spec=replace(new.spec, webhook=stored))
        with self._store.transaction() as connection:
            first = self._store.requested(connection, new, principal.name)
            if first is not None:
                return first
            next_time = _first_time(new.when, self._store.now(connection))
            if self._store.count(connection, principal.name) >= self._limits.max_schedules:
                raise ResourceExhausted(
                    f"this key has {self._limits.max_schedules:,} schedules; delete some",
                    reason="TOO_MANY_SCHEDULES",
                )
            created = self._store.insert(connection, UUID(uuid7()), new, principal.name, next_time)
        _log.info("schedule created", schedule=str(created.schedule_id), next_time=next_time.isoformat())
        return created

    def get(self, schedule_id: UUID) -> Schedule:
        """Read a schedule; raises NotFound (SCHEDULE_NOT_FOUND)."""
        return self._store.get(schedule_id)

    def page(self, filters: ScheduleFilters, *, page_size: int, page_token: str) -> tuple[list[Schedule], str]:
        """List schedules, the newest first, with the token of the next page."""
        size = pages.page_size(page_size, default=PAGE_SIZE)
        named = {"model": filters.model, "source": filters.source, "enabled": filters.enabled}
        position = pages.decode(page_token, named)
        if position is not None and (len(position) != 1 or type(position[0]) is not int):
            raise pages.unknown_token()
        schedules = self._store.page(filters, before=position[0] if position else None, limit=size + 1)
        if len(schedules) <= size:
            return schedules, ""
        return schedules[:size], pages.encode([schedules[size - 1].create_number], named)

    def enable(self, schedule_id: UUID, *, enabled: bool) -> Schedule:
        """Switch a schedule on or off.

        Raises:
            NotFound: SCHEDULE_NOT_FOUND.
            FailedPrecondition: its only time has passed (TIME_PASSED).
        """
        with self._store.transaction() as connection:
            schedule = self._store.lock(connection, schedule_id)
            if schedule.enabled == enabled:
                return schedule
            next_time = schedule.when.after(schedule.read_time) if enabled else None
            if enabled and next_time is None:
                raise FailedPrecondition("its only time has passed; make another schedule", reason="TIME_PASSED")
            return self._store.enable(connection, schedule_id, enabled=enabled, next_time=next_time)

    def delete(self, schedule_id: UUID) -> None:
        """Delete a schedule; its jobs stay."""
        self._store.delete(schedule_id)


def _first_time(when: When, now: datetime) -> datetime:
    if when.at_time is not None:
        if when.at_time <= now:
            sentence = f"{when.at_time.isoformat()} has passed; it is {now.isoformat(timespec='seconds')}"
            raise InvalidArgument.field("at_time", sentence, reason="TIME_PASSED")
        if when.at_time > now + times.MOST_AHEAD:
            sentence = f"{when.at_time.isoformat()} is more than {times.MOST_AHEAD.days:,} days from now"
            raise InvalidArgument.field("at_time", sentence, reason="OUT_OF_BOUNDS")
        return when.at_time
    found = when.after(now)
    if found is None:
        raise times.never_due(when.cron)
    return found

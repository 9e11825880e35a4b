"""Putting schedules together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from services.common.jobs import Backoff, JobStore
from services.common.jobs.housekeeping import DAY_S
from services.common.server import Service
from services.fetcher.notifications.webhooks import FetchWebhooks
from services.fetcher.schedules.loop import ScheduleLoop
from services.fetcher.schedules.metrics import ScheduleCollector
from services.fetcher.schedules.schedules import ScheduleLimits, Schedules
from services.fetcher.schedules.servicer import service
from services.fetcher.schedules.store import ScheduleStore
from services.fetcher.schedules.turning import Turning, TurnLimits
from services.fetcher.settings import FetcherSettings
from services.fetcher.sources.catalogue import Sources
from services.fetcher.store.fetches import FetchStore


@dataclass(frozen=True, slots=True)
class Parts:
    """What schedules stand on."""

    store: ScheduleStore
    jobs: JobStore
    fetches: FetchStore
    sources: Sources
    webhooks: FetchWebhooks
    registry: CollectorRegistry


def open_schedules(
    settings: FetcherSettings, parts: Parts, stack: ExitStack
) -> tuple[Service, tuple[Callable[[], None], ...]]:
    """Give the service and what its health is read from; where this process works, schedules come due here."""
    parts.registry.register(ScheduleCollector(parts.store))
    limits = ScheduleLimits(max_schedules=settings.fetcher_max_schedules)
    served = service(Schedules(parts.store, parts.sources, parts.webhooks, limits))
    if not settings.fetcher_worker_enabled:
        return served, ()
    turn_limits = TurnLimits(
        hard_limit_ms=settings.fetcher_hard_limit_ms,
        max_unended=settings.fetcher_max_unended,
        backoff=Backoff(base_s=settings.fetcher_backoff_ms / 1000),
    )
    turning = Turning(parts.store, parts.jobs, parts.fetches, parts.sources, parts.webhooks, turn_limits)
    loop = ScheduleLoop(
        parts.store,
        turning,
        poll_s=settings.poll_interval_ms / 1000,
        kept_s=settings.fetcher_retention_days * DAY_S,
    )
    loop.open()
    stack.callback(loop.close, settings.drain_grace_ms / 1000)
    return served, (loop.check,)

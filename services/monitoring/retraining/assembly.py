"""Putting this part of monitoring together."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.server import Service
from services.monitoring.clients import client_of
from services.monitoring.parts import Parts
from services.monitoring.retraining.requests import RetrainingRequests
from services.monitoring.retraining.servicer import RetrainingServicer, service
from services.monitoring.retraining.store.causes import CauseStore
from services.monitoring.retraining.store.labels import LabelStore
from services.monitoring.retraining.store.related import RelatedRequests
from services.monitoring.retraining.store.requests import RequestStore
from services.monitoring.retraining.trainings import Trainings
from services.monitoring.retraining.upkeep import Upkeep
from services.monitoring.retraining.watch import Watch

UPKEEP, TRAININGS, WATCH = "retraining", "trainings", "retraining watch"
WATCH_EVERY = 30
"""Intervals: the calendar and error rates over hours change slowly, and looking at them counts rows."""


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, add its chores, and give what it serves."""
    parts.client = parts.stack.enter_context(client_of(parts.settings))
    store, queue = RequestStore(parts.database), CauseStore(parts.database)
    parts.retraining = RetrainingRequests(
        store,
        RelatedRequests(parts.database),
        queue,
        LabelStore(parts.database),
        parts.configurations,
        parts.retention,
        parts.clock,
        wake=lambda: parts.chores.wake(TRAININGS),
        live=parts.known_models.live_version,
    )
    trainer = parts.client.training if parts.settings.trainer_address else None
    interval_s = parts.settings.retraining_interval_ms / 1000
    upkeep = Upkeep(parts.retraining, store, queue, parts.clock)
    parts.chores.add(UPKEEP, upkeep.work, interval_s=interval_s)
    parts.chores.add(TRAININGS, Trainings(store, trainer, parts.clock).work, interval_s=interval_s)
    watch = Watch(parts.retraining, queue, parts.configurations, parts.metrics, parts.retention, parts.clock)
    parts.chores.add(WATCH, watch.work, interval_s=WATCH_EVERY * interval_s)
    return (service(RetrainingServicer(parts.retraining, parts.known_models)),)

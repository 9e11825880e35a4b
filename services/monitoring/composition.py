"""How the parts of monitoring are put together: each stands on those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import BoundedSemaphore

from services.common.server import Service
from services.monitoring.alerts import assembly as alerts
from services.monitoring.configuration import assembly as configuration
from services.monitoring.drift import assembly as drift
from services.monitoring.export import assembly as export
from services.monitoring.known_models import KnownModels
from services.monitoring.lineage import assembly as lineage
from services.monitoring.notifications import assembly as notifications
from services.monitoring.parts import Parts
from services.monitoring.profiles import assembly as profiles
from services.monitoring.quality import assembly as quality
from services.monitoring.registry_reader import PLACES, RegistryReader
from services.monitoring.retraining import assembly as retraining
from services.monitoring.rollups import assembly as rollups
from services.monitoring.store.known_models import KnownModelStore

ASSEMBLIES: tuple[Callable[[Parts], Sequence[Service]], ...] = (
    configuration.assemble,
    rollups.assemble,
    profiles.assemble,
    drift.assemble,
    quality.assemble,
    notifications.assemble,
    retraining.assemble,
    alerts.assemble,
    lineage.assemble,
    export.assemble,
)


def assemble(parts: Parts) -> list[Service]:
    """Build every part, and give all that they serve."""
    places = BoundedSemaphore(PLACES)
    # The client comes with a part of its own, before the first question does.
    parts.known_models = KnownModels(
        KnownModelStore(parts.database), lambda: RegistryReader(parts.client, places, with_trainer=False)
    )
    return [service for build in ASSEMBLIES for service in build(parts)]

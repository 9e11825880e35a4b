"""Putting this part of monitoring together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import BoundedSemaphore

from services.common.server import Service
from services.monitoring.inferences import Inferences
from services.monitoring.lineage.lineages import Lineages
from services.monitoring.lineage.servicer import LineageServicer, service
from services.monitoring.lineage.store import LineageStore
from services.monitoring.parts import Parts
from services.monitoring.registry_reader import PLACES, RegistryReader
from services.monitoring.retraining.store.related import RelatedRequests
from services.monitoring.store.inferences import InferenceStore


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, add its chores, and give what it serves."""
    lineages = Lineages(
        Inferences(InferenceStore(parts.database), parts.metrics, parts.retention, parts.clock),
        LineageStore(parts.database),
        parts.retraining,
        RelatedRequests(parts.database),
        partial(
            RegistryReader, parts.client, BoundedSemaphore(PLACES), with_trainer=bool(parts.settings.trainer_address)
        ),
    )
    return (service(LineageServicer(lineages)),)

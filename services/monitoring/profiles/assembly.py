"""Putting this part of monitoring together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from threading import BoundedSemaphore

from services.common.allowed_files import AllowedFiles
from services.common.datasets import NO_DATASETS, NamedDatasets
from services.common.errors import DomainError, NotFound
from services.common.server import Service
from services.monitoring.clients import client_of
from services.monitoring.feature_views.views import FeatureViews
from services.monitoring.parts import Parts
from services.monitoring.profiles.files import RowFiles
from services.monitoring.profiles.live import LiveProfiles, Recounts
from services.monitoring.profiles.profiles import Profiles
from services.monitoring.profiles.references import References
from services.monitoring.profiles.registrations import Registrations
from services.monitoring.profiles.servicer import ProfileServicer, service
from services.monitoring.profiles.store.live import LiveStore
from services.monitoring.profiles.store.profiles import ProfileStore
from services.monitoring.profiles.store.samples import SampleStore
from services.monitoring.profiles.versions import Versions
from services.monitoring.registry_reader import PLACES, RegistryReader
from services.monitoring.retention import keep_days
from services.monitoring.store.days import Days, by_time

RECOUNT = "profiles"
KEEP_DAYS = "profile days"


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, add its chores, and give what it serves."""
    settings = parts.settings
    days = Days(parts.database, [by_time("live_profiles")])
    store, live = ProfileStore(parts.database), LiveStore(parts.database, days)
    references = References(store)
    allowed = AllowedFiles(settings.profile_input_roots, settings, unreadable=_unreadable)
    files = RowFiles(
        allowed,
        max_bytes=settings.profile_max_input_bytes,
        folder=settings.profile_dir,
        datasets=NamedDatasets(lambda: client_of(settings)) if settings.trainer_address else NO_DATASETS,
    )
    recounts = Recounts(
        live,
        references,
        parts.configurations,
        parts.retention,
        days,
        parts.clock,
        retention_days=settings.profile_retention_days,
        open_interval=timedelta(milliseconds=settings.profile_open_interval_ms),
    )
    parts.chores.add(RECOUNT, recounts.recount, interval_s=settings.profile_interval_ms / 1000)
    kept = timedelta(days=settings.profile_retention_days)
    parts.chores.add(KEEP_DAYS, lambda _: keep_days(days, kept), interval_s=settings.retention_interval_ms / 1000)
    attached = partial(parts.chores.wake, RECOUNT)
    places = BoundedSemaphore(PLACES)
    # The client comes with a part of its own, before the first question does.
    registrations = Registrations(lambda: RegistryReader(parts.client, places, with_trainer=False))
    parts.live = LiveProfiles(live, recounts)
    parts.views = FeatureViews(lambda: parts.client)
    parts.profiles = Profiles(
        store,
        references,
        files,
        live,
        parts.metrics,
        parts.clock,
        attached,
        Versions(registrations, SampleStore(parts.database), parts.known_models.doubt, parts.clock),
        parts.views,
        require_sandbox=settings.profile_require_sandbox,
    )
    return (service(ProfileServicer(parts.profiles, parts.known_models)),)


def _unreadable(sentence: str) -> DomainError:
    return NotFound(sentence, reason="INPUT_NOT_FOUND")

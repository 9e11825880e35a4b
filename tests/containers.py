"""What each container of the compose files is told, and by which settings its service hears it."""

from __future__ import annotations

from typing import Any

from pydantic_settings import BaseSettings

from services.common.probe import ProbeSettings
from services.fetcher.settings import FetcherSettings
from services.inference.jobs.settings import JobsSettings
from services.inference.settings import InferenceSettings
from services.monitoring.settings import MonitoringSettings
from services.registry.bucket import BucketSettings
from services.registry.settings import RegistrySettings
from services.registry.validation.settings import ValidatorSettings
from services.trainer.settings import TrainerSettings
from tests.deployment import compose

SETTINGS: dict[str, tuple[type[BaseSettings], ...]] = {
    "registry": (RegistrySettings, ProbeSettings),
    "validator": (ValidatorSettings, ProbeSettings),
    "inference": (InferenceSettings, ProbeSettings),
    "jobs": (JobsSettings, ProbeSettings),
    "monitoring": (MonitoringSettings, ProbeSettings),
    "fetcher": (FetcherSettings, ProbeSettings),
    "trainer": (TrainerSettings, ProbeSettings),
    "bucket": (BucketSettings, RegistrySettings),
    "migrate-registry": (RegistrySettings,),
    "migrate-jobs": (JobsSettings,),
    "migrate-monitoring": (MonitoringSettings,),
    "migrate-fetcher": (FetcherSettings,),
    "migrate-trainer": (TrainerSettings,),
}
ALL = compose()["services"]


def environment(service: Any) -> set[str]:
    """The variables that a container is given."""
    return set(service.get("environment", {}))

"""What callers ask to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from services.registry.serving import FeatureViewPolicy, ResponseCachePolicy, ServingSettings

SETTINGS_FIELDS = (
    *(f"serving_settings.{field.name}" for field in fields(ServingSettings)),
    *(f"serving_settings.response_cache.{field.name}" for field in fields(ResponseCachePolicy)),
    *(f"serving_settings.feature_view.{field.name}" for field in fields(FeatureViewPolicy)),
    "capture_policy.disabled",
    "capture_policy.share",
    "capture_policy.max_bytes",
)
MODEL_FIELDS = (
    "description", "tags", "labels", "training_config", "serving_settings", "capture_policy", *SETTINGS_FIELDS,
)  # fmt: skip
VERSION_FIELDS = ("description", "labels", "serving_settings", "capture_policy", *SETTINGS_FIELDS)


@dataclass(frozen=True, slots=True)
class ModelEdit:
    """A change of a model: new values by MODEL_FIELDS. `etag` "": whatever it is now."""

    name: str
    etag: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VersionEdit:
    """A change of a version: new values by VERSION_FIELDS. `etag` "": whatever it is now."""

    model: str
    version: str
    etag: str
    values: Mapping[str, Any]

"""What the validator's process can be told: what the registry is told of storage and validation, and its own ports."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.common.settings import Port, ServerSettings
from services.registry.settings import StorageSettings, ValidationSettings


class ValidatorSettings(ServerSettings, StorageSettings, ValidationSettings):
    """The validator's settings."""

    port: Port = 50052
    """The gRPC port, for health alone; 0 takes a free one, which the log names."""
    metrics_port: Port = 9102
    """The Prometheus port; 0 takes a free one, which the log names."""
    validation_threads: Annotated[int, Field(ge=1, le=64)] = 1
    """Versions validated at once, each by a child on a core."""
    poll_interval_ms: Annotated[int, Field(ge=50, le=60_000)] = 5_000
    """How often it looks for itself, should a notification be lost."""

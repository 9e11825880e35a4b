"""What the monitoring service can be told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.common.postgres import PostgresSettings
from services.common.settings import Port, ServerSettings


class MonitoringSettings(ServerSettings, PostgresSettings):
    """The settings of one monitoring process."""

    port: Port = 50053
    """The gRPC port; 0 takes a free one, which the log names."""
    metrics_port: Port = 9103
    """The Prometheus port; 0 takes a free one, which the log names."""
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """How long events and their feedback are kept. Older events are refused, and older days dropped."""
    retention_interval_ms: Annotated[int, Field(ge=50, le=3_600_000)] = 60_000
    """How often coming days are made ready and old ones dropped."""
    quarantine_max_events: Annotated[int, Field(ge=0, le=1_000_000)] = 10_000
    """How many refused events are kept to look at; the oldest go first."""

"""Putting this part of monitoring together."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.server import Service
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.doubts import Doubts
from services.monitoring.configuration.servicer import ConfigurationServicer, service
from services.monitoring.configuration.store import ConfigurationStore, FeatureStore
from services.monitoring.parts import Parts


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, add its chores, and give what it serves."""
    parts.configurations = Configurations(ConfigurationStore(parts.database), parts.clock)
    doubts = Doubts(parts.known_models, FeatureStore(parts.database))
    return (service(ConfigurationServicer(parts.configurations, doubts)),)

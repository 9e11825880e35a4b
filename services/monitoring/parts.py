"""What the parts of monitoring have of each other. Each is set by the assembly of its own part, in order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client.registry import CollectorRegistry

from services.common.postgres import Database
from services.monitoring.chores import Chores
from services.monitoring.models import Retention
from services.monitoring.settings import MonitoringSettings
from services.monitoring.store.days import Days

if TYPE_CHECKING:
    from penstock import Client
    from services.common.outbox import Outbox
    from services.monitoring.alerts.alerts import Alerts
    from services.monitoring.configuration.configurations import Configurations
    from services.monitoring.drift.checks import DriftChecks
    from services.monitoring.feature_views.views import FeatureViews
    from services.monitoring.known_models import KnownModels
    from services.monitoring.notifications.channels import Channels
    from services.monitoring.profiles.live import LiveProfiles
    from services.monitoring.profiles.profiles import Profiles
    from services.monitoring.quality.checks import QualityChecks
    from services.monitoring.retraining.requests import RetrainingRequests
    from services.monitoring.rollups.metrics import MetricsReader
    from services.monitoring.rollups.totals import TotalsReader

Clock = Callable[[], datetime]


@dataclass
class Parts:
    """See above; what is opened on the way, `stack` closes."""

    settings: MonitoringSettings
    stack: ExitStack
    database: Database
    clock: Clock
    retention: Retention
    days: Days
    chores: Chores
    registry: CollectorRegistry
    known_models: KnownModels = field(init=False)
    configurations: Configurations = field(init=False)
    metrics: MetricsReader = field(init=False)
    totals: TotalsReader = field(init=False)
    live: LiveProfiles = field(init=False)
    views: FeatureViews = field(init=False)
    profiles: Profiles = field(init=False)
    drift: DriftChecks = field(init=False)
    quality: QualityChecks = field(init=False)
    client: Client = field(init=False)
    retraining: RetrainingRequests = field(init=False)
    outbox: Outbox = field(init=False)
    channels: Channels = field(init=False)
    alerts: Alerts = field(init=False)

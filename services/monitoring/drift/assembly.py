"""Putting this part of monitoring together."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.server import Service
from services.monitoring.drift.checks import DriftChecks
from services.monitoring.drift.servicer import DriftServicer, service
from services.monitoring.parts import Parts
from services.monitoring.window_checks.store import CheckStore


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, add its chores, and give what it serves."""
    parts.drift = DriftChecks(
        CheckStore(parts.database, "drift"),
        parts.profiles,
        parts.live,
        parts.views,
        parts.metrics,
        parts.configurations,
        parts.clock,
        seen=parts.totals.seen,
        # Built after drift, and there before anything is served.
        tell=lambda transaction, check: parts.retraining.consider_check(transaction, check),
    )
    parts.chores.add("drift", parts.drift.check_due, interval_s=parts.settings.drift_interval_ms / 1000)
    return (service(DriftServicer(parts.drift, parts.known_models)),)

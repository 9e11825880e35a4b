"""What Prometheus reads of the judging itself: whether it goes on, and how long it takes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class JudgingMetrics:
    """One replica judges at a time, so the newest of all replicas' times says when it was last done."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.turn_seconds = Histogram(
            "penstock_monitoring_alert_turn_seconds", "Time to judge all alert rules once, in s.", registry=registry
        )
        self.last_turn = Gauge(
            "penstock_monitoring_alert_last_turn_time_seconds",
            "When this replica last judged all alert rules, in Unix time; 0: not yet.",
            registry=registry,
        )
        self.not_judged = Counter(
            "penstock_monitoring_alert_rules_not_judged", "Rules that could not be judged in a turn.", registry=registry
        )

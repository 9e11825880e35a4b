"""A turn of judging: rules of every kind over many versions, each with traffic and a drift check of fifty features.

    python -m benchmarks alerts
    python -m benchmarks alerts --versions 1000 --seconds 60

The service and its PostgreSQL are real, and the times are those that it tells Prometheus; checks are put in whole.
"""

from __future__ import annotations

import argparse
import random
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from urllib.request import urlopen
from uuid import UUID

import grpc
from pydantic import SecretStr

from benchmarks.harness import wait_until
from benchmarks.rollups import event, postgres, send
from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.api.monitoring.v1.alerts_pb2_grpc import AlertServiceStub
from penstock.api.monitoring.v1.monitoring_pb2_grpc import MonitoringServiceStub
from penstock.cli.embedded.ports import free_port
from penstock.ids import uuid7
from services.common.postgres import Database
from services.monitoring.__main__ import build
from services.monitoring.configuration.models import DriftGate
from services.monitoring.drift.checks import FORM
from services.monitoring.drift.models import DriftCheck, DriftResult, DriftStatus, DriftType, Trigger
from services.monitoring.models import Window
from services.monitoring.settings import MonitoringSettings
from services.monitoring.window_checks.store import CheckStore

FEATURES = 50
EVENTS = 100
"""Of each version, over the last hour."""
RULES = (
    ("error_rate", 0.5, "5m"),
    ("error_rate", 0.5, "1h"),
    ("p95_latency_ms", 1e6, "5m"),
    ("p99_latency_ms", 1e6, "1h"),
    ("average_latency_ms", 1e6, "24h"),
    ("accuracy", 0.0, "24h"),
    ("inference_count", 1e9, "24h"),
    ("effect", 10.0, "24h"),
    ("wasserstein", 10.0, "24h"),
    ("psi", 10.0, "24h"),
)
KINDS = {"p95": pb.ALERT_TYPE_LATENCY, "p99": pb.ALERT_TYPE_LATENCY, "average": pb.ALERT_TYPE_LATENCY} | dict.fromkeys(
    ("effect", "wasserstein", "psi"), pb.ALERT_TYPE_DRIFT
)


def main() -> None:
    """Fill a database, let the service judge, and say how long a turn takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to look on")
    options = parser.parse_args()
    with postgres() as made:
        url, port = made("alerts"), free_port()
        settings = MonitoringSettings(
            database_url=SecretStr(url), port=0, metrics_port=port, alert_interval_ms=1_000, access_log_share=0
        )
        with ExitStack() as stack:
            server = build(settings, stack)
            target = f"127.0.0.1:{server.open()}"
            stack.callback(server.close)
            channel = stack.enter_context(grpc.insecure_channel(target))
            fill(url, channel, options.versions)
            create_rules(channel)
            turns, mean_s = mean_turn_s(port, options.seconds)
    print(f"{options.versions} versions, {len(RULES)} rules and the three that come with the service:")
    print(f"a turn takes {mean_s:.2f} s, on average over {turns}")


def fill(url: str, channel: grpc.Channel, versions: int) -> None:
    """Put in the events and the checks."""
    dice, now = random.Random(1), datetime.now(UTC)
    for number in range(versions):
        events = [event(now - timedelta(seconds=dice.uniform(1, 3_600)), dice) for _ in range(EVENTS)]
        for each in events:
            each.model, each.version = f"model-{number}", "1"
        send(MonitoringServiceStub(channel), events, EVENTS)
    with Database(url) as database:
        store = CheckStore(database, "drift")
        for number in range(versions):
            store.add_due(FORM.write(new_check(f"model-{number}", now, dice)), timedelta(hours=6))


def new_check(model: str, now: datetime, dice: random.Random) -> DriftCheck:
    """Make a check that found nothing."""
    results = [
        DriftResult(
            type=DriftType.INPUT,
            feature=f"feature {number}",
            kind=None,
            status=DriftStatus.OK,
            gate=DriftGate.PSI_CALIBRATED,
            statistic=dice.random(),
            effect=dice.random() / 100,
            effect_floor=0.02,
            reference_count=10_000,
            live_count=2_000,
            p_value=dice.random(),
        )
        for number in range(FEATURES)
    ]
    return DriftCheck(
        id=UUID(uuid7()),
        model=model,
        version="1",
        profile_id=UUID(uuid7()),
        window=Window(now - timedelta(days=1), now),
        status=DriftStatus.OK,
        drifted_types=(),
        drifted_count=0,
        compared_count=FEATURES,
        effect=0.01,
        live_count=2_000,
        alpha=0.05,
        gate=DriftGate.PSI_CALIBRATED,
        false_alarm_rate=0.05,
        summary="nothing has drifted",
        results=results,
        trigger=Trigger.SCHEDULE,
        create_time=now,
    )


def create_rules(channel: grpc.Channel) -> None:
    """Make the rules, none of which fires but one of accuracy that has no value."""
    for number, (metric, threshold, window) in enumerate(RULES):
        rule = pb.AlertRule(
            name=f"rule {number}",
            enabled=True,
            type=KINDS.get(metric.partition("_")[0], pb.ALERT_TYPE_ERROR_RATE),
            severity=pb.SEVERITY_WARNING,
            metric=metric,
            operator=pb.OPERATOR_GREATER,
            threshold=threshold,
            window=window,
        )
        AlertServiceStub(channel).CreateAlertRule(pb.CreateAlertRuleRequest(rule=rule), timeout=10)


def mean_turn_s(port: int, seconds: float) -> tuple[int, float]:
    """Let turns go by; gives how many did, and how long one took. Told twice only: that itself reads all models."""
    wait_until(lambda: told(port)[0] > 1, "no turn came to its end")
    done, total = told(port)
    time.sleep(seconds)
    now_done, now_total = told(port)
    return round(now_done - done), (now_total - total) / (now_done - done)


def told(port: int) -> tuple[float, float]:
    """Read how many turns there were, and how long they took together, in s."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("penstock_monitoring_alert_turn_seconds_"))
    name = "penstock_monitoring_alert_turn_seconds"
    return float(values[f"{name}_count"]), float(values[f"{name}_sum"])


if __name__ == "__main__":
    main()

"""From strange data to an alert and on to a retraining request: every part real, by the rules that come with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from penstock.api.monitoring.v1 import (
    alerts_pb2,
    configuration_pb2,
    drift_pb2,
    monitoring_pb2,
    profiles_pb2,
    quality_pb2,
    retraining_pb2,
)
from penstock.api.monitoring.v1.alerts_pb2_grpc import AlertServiceStub
from penstock.api.monitoring.v1.configuration_pb2_grpc import ConfigurationServiceStub
from penstock.api.monitoring.v1.drift_pb2_grpc import DriftServiceStub
from penstock.api.monitoring.v1.profiles_pb2_grpc import ProfileServiceStub
from penstock.api.monitoring.v1.quality_pb2_grpc import QualityServiceStub
from penstock.api.monitoring.v1.retraining_pb2_grpc import RetrainingServiceStub
from tests.monitoring import TIMEOUT_S, Monitoring, eventually, new_event, serve

pytestmark = pytest.mark.slow
OFTEN = {
    "alert_interval_ms": 50,
    "rollup_interval_ms": 50,
    "profile_interval_ms": 50,
    "profile_open_interval_ms": 0,
    "retraining_interval_ms": 50,
    "drift_interval_ms": 50,
    "quality_interval_ms": 50,
}
HOUR_S = 3_600
ROWS = 300
IRIS: dict[str, Any] = {"model": "iris", "version": "1.0.0"}


@dataclass(frozen=True, slots=True)
class Chain:
    """A monitoring service, and stubs for the parts of the chain."""

    monitoring: Monitoring
    channel: grpc.Channel

    def call(self, stub: Callable[[grpc.Channel], Any], rpc: str, request: Message) -> Any:
        """Call an RPC."""
        return getattr(stub(self.channel), rpc)(request, timeout=TIMEOUT_S)

    def profile(self, rows: list[dict[str, float]]) -> None:
        """Attach a reference."""
        header = profiles_pb2.UploadProfileHeader(**IRIS, format=profiles_pb2.ROW_FORMAT_JSONL)
        text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        parts = [profiles_pb2.UploadProfileRequest(header=header), profiles_pb2.UploadProfileRequest(chunk=text)]
        ProfileServiceStub(self.channel).UploadProfile(iter(parts), timeout=TIMEOUT_S)

    def send(self, rows: list[dict[str, float]], *, hours_ago: int) -> list[str]:
        """Record predictions of one hour."""
        events = []
        for number, row in enumerate(rows):
            features = monitoring_pb2.Payload()
            features.fields.update(row)
            age_s = hours_ago * HOUR_S - 300 - number * 2_900 / len(rows)
            events.append(new_event(age_s=age_s, features=features, user_id=f"user {number}"))
        assert set(self.monitoring.record(*events)) == {"STORED"}
        return [event.inference_id for event in events]

    def newest(self, rule_name: str) -> alerts_pb2.Alert:
        """Give the newest alert of a rule; an empty one where there is none."""
        found = self.call(AlertServiceStub, "ListAlerts", alerts_pb2.ListAlertsRequest(model="iris")).alerts
        return next((alert for alert in found if alert.rule_name == rule_name), alerts_pb2.Alert())

    def check_drift(self, rows: int, *, hours_ago: int) -> drift_pb2.DriftCheck:
        """Check an hour for drift, once all of its rows are counted."""
        window = _hour(hours_ago)
        found: list[drift_pb2.DriftCheck] = []

        def counted() -> bool:
            found.append(self.call(DriftServiceStub, "CheckDrift", drift_pb2.CheckDriftRequest(**IRIS, **window)).check)
            return found[-1].live_count == rows

        eventually(counted)
        return found[-1]

    def configure(self, **parts: Any) -> None:
        """Configure all models."""
        wanted = configuration_pb2.Configuration(**parts)
        request = configuration_pb2.SetConfigurationRequest(configuration=wanted)
        self.call(ConfigurationServiceStub, "SetConfiguration", request)

    def come_due(self) -> None:
        """Let the time of the next checks by schedule come."""
        for part in ("drift", "quality"):
            due = f"UPDATE monitoring.{part}_schedule SET due_time = now() - interval '1 second' RETURNING model"
            self.monitoring.query(due)


@pytest.fixture
def chain(clone_database: Callable[[str], str]) -> Iterator[Chain]:
    with (
        serve(clone_database("monitoring"), **OFTEN) as monitoring,
        grpc.insecure_channel(monitoring.address) as channel,
    ):
        yield Chain(monitoring, channel)


def rows(seed: int, *, shift: float = 0.0, count: int = ROWS) -> list[dict[str, float]]:
    generator = np.random.default_rng(seed)
    return [
        {"age": float(age), "income": float(income)}
        for age, income in zip(generator.normal(40 + 10 * shift, 10, count), generator.normal(5, 1, count), strict=True)
    ]


def _hour(hours_ago: int) -> dict[str, Any]:
    end = datetime.now(UTC) - timedelta(hours=hours_ago - 1)
    return {"from_time": end - timedelta(hours=1), "to_time": end}


def test_drift_that_is_found_fires_and_goes_on_to_retraining_until_the_data_is_itself_again(chain: Chain) -> None:
    chain.profile(rows(1, count=2_000))
    retraining = configuration_pb2.RetrainingConfiguration(min_labels=5)
    recent = configuration_pb2.DriftConfiguration(window="1h")
    chain.configure(retraining=retraining)
    for inference_id in chain.send(rows(2, shift=2.0), hours_ago=3)[:10]:
        chain.monitoring.feedback(inference_id, correct=True)
    by_hand = chain.check_drift(ROWS, hours_ago=3)
    assert by_hand.status == drift_pb2.DRIFT_STATUS_DRIFTED
    chain.come_due()
    eventually(lambda: chain.newest("drift").check_id not in ("", by_hand.id))
    alert = chain.newest("drift")
    assert (alert.model, alert.version, alert.value) == ("iris", "1.0.0", 1.0)
    assert alert.state == alerts_pb2.ALERT_STATE_FIRING
    assert "(age by " in alert.message

    def requested() -> Any:
        listed = retraining_pb2.ListRetrainingRequestsRequest(model="iris")
        return chain.call(RetrainingServiceStub, "ListRetrainingRequests", listed).retraining_requests

    eventually(lambda: len(requested()) == 1)
    assert requested()[0].reason == retraining_pb2.RETRAINING_REASON_DRIFT_DETECTED
    chain.send(rows(3), hours_ago=1)
    assert chain.check_drift(ROWS, hours_ago=1).status == drift_pb2.DRIFT_STATUS_OK
    assert chain.newest("drift").state == alerts_pb2.ALERT_STATE_FIRING, "what was asked for by hand ends no alert"
    chain.configure(retraining=retraining, drift=recent)

    def over() -> bool:
        chain.come_due()
        return chain.newest("drift").state == alerts_pb2.ALERT_STATE_RESOLVED

    eventually(over)


def test_bad_data_that_is_found_fires(chain: Chain) -> None:
    chain.profile(rows(1, count=2_000))
    chain.send([{"income": row["income"]} for row in rows(2)], hours_ago=2)
    chain.check_drift(ROWS, hours_ago=2)  # all of it is counted
    chain.come_due()
    eventually(lambda: chain.newest("data-quality").state == alerts_pb2.ALERT_STATE_FIRING)
    alert = chain.newest("data-quality")
    check = chain.call(
        QualityServiceStub, "GetQualityCheck", quality_pb2.GetQualityCheckRequest(id=alert.check_id)
    ).check
    assert (check.trigger, alert.value) == (drift_pb2.TRIGGER_SCHEDULE, check.violation_count)
    assert "age" in alert.message

"""What Prometheus reads of models: real events, rules and checks, as every replica tells them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from penstock.api.monitoring.v1 import alerts_pb2, monitoring_pb2
from penstock.api.monitoring.v1.alerts_pb2_grpc import AlertServiceStub
from services.monitoring import gauges
from tests.monitoring import TIMEOUT_S, Monitoring, connect, eventually, labels, new_event
from tests.services import running_monitoring

pytestmark = pytest.mark.slow
Labels = tuple[str, ...]
PAGE = Path(__file__).parents[2] / "docs/monitoring.md"


@dataclass(frozen=True, slots=True)
class Scraped:
    """A service, and what it tells Prometheus."""

    monitoring: Monitoring
    metrics_port: int

    def page(self) -> dict[str, dict[Labels, float]]:
        """Give every sample of models by name and label values, those in the order of the labels' names."""
        found: dict[str, dict[Labels, float]] = {}
        for sample in chain.from_iterable(family.samples for family in self.families()):
            values = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name.removeprefix("penstock_model_"), {})[values] = sample.value
        return found

    def families(self) -> list[Metric]:
        """Give all that is told of models, what has no value among it."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=TIMEOUT_S) as page:
            text = page.read().decode()
        return [family for family in text_string_to_metric_families(text) if family.name.startswith("penstock_model_")]


@contextmanager
def scraped(database_url: str, **settings: Any) -> Iterator[Scraped]:
    with ExitStack() as stack:
        running = stack.enter_context(running_monitoring(database_url, health_interval_ms=50, **settings))
        port = int(running.address.rpartition(":")[2])
        yield Scraped(stack.enter_context(connect(database_url, port)), running.metrics_port)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each scrape read anew."""
    monkeypatch.setattr(gauges, "FRESH_S", 0.0)


@pytest.fixture
def url(clone_database: Callable[[str], str]) -> str:
    return clone_database("monitoring")


def test_traffic_is_counted_from_the_first_scrape_on_and_the_same_on_every_replica(url: str) -> None:
    with scraped(url) as one, scraped(url) as other:
        one.monitoring.record(*[new_event() for _ in range(5)])
        for replica in (one, other):
            assert replica.page()["requests_total"] == {("iris", "1.0.0"): 0}, "what was before is no increase"
        slow = new_event(latency_ms=70.0)
        one.monitoring.record(*[new_event(latency_ms=3.0) for _ in range(9)], slow)
        other.monitoring.record(new_event(error_code="INTERNAL", latency_ms=9_999), new_event(version="2.0.0"))
        one.monitoring.record(slow)
        for replica in (one, other):
            page = replica.page()
            assert page["requests_total"] == {("iris", "1.0.0"): 11, ("iris", "2.0.0"): 1}
            assert page["errors_total"] == {("iris", "1.0.0"): 1, ("iris", "2.0.0"): 0}
            buckets = {key[0]: value for key, value in page["latency_seconds_bucket"].items() if key[2] == "1.0.0"}
            bounds = ("0.0025", "0.005", "0.05", "0.1", "30", "+Inf")
            assert [buckets[bound] for bound in bounds] == [0, 9, 9, 10, 10, 10]
            assert page["latency_seconds_count"]["iris", "1.0.0"] == 10
            assert page["latency_seconds_sum"]["iris", "1.0.0"] == pytest.approx(0.097)


def test_a_replica_that_begins_again_counts_from_nothing(url: str) -> None:
    with scraped(url) as before:
        before.page()
        before.monitoring.record(*[new_event() for _ in range(5)])
        before.page()
    with scraped(url) as after:
        assert after.page()["requests_total"] == {("iris", "1.0.0"): 0}


def test_accuracy_is_told_where_there_is_feedback(url: str) -> None:
    with scraped(url) as service:
        judged = [new_event(prediction=labels(1)) for _ in range(4)]
        service.monitoring.record(*judged, new_event(model="other"))
        for event, actual in zip(judged, (1, 1, 1, 2), strict=True):
            service.monitoring.feedback(event.inference_id, actual=actual)
        page = service.page()
    assert page["accuracy"] == {("iris", "1.0.0"): 0.75}
    assert page["judged_rows"] == {("iris", "1.0.0"): 4, ("other", "1.0.0"): 0}


def test_alerts_and_checks_are_told(url: str) -> None:
    with (
        scraped(url, alert_interval_ms=50, quality_interval_ms=50) as service,
        grpc.insecure_channel(service.monitoring.address) as channel,
    ):
        payload = monitoring_pb2.Payload()
        payload.fields.update({"length": float("inf")})
        service.monitoring.record(*[new_event(features=payload, error_code="INTERNAL") for _ in range(60)])
        rule = alerts_pb2.AlertRule(
            name="failing",
            enabled=True,
            type=alerts_pb2.ALERT_TYPE_ERROR_RATE,
            severity=alerts_pb2.SEVERITY_CRITICAL,
            metric="error_rate",
            operator=alerts_pb2.OPERATOR_GREATER,
            threshold=0.5,
            window="1h",
        )
        AlertServiceStub(channel).CreateAlertRule(alerts_pb2.CreateAlertRuleRequest(rule=rule), timeout=TIMEOUT_S)
        eventually(lambda: service.page()["open_alerts"]["iris", "critical"] == 1)
        eventually(lambda: "quality_violations" in service.page())
        page = service.page()
        for alert in AlertServiceStub(channel).ListAlerts(alerts_pb2.ListAlertsRequest(), timeout=TIMEOUT_S).alerts:
            acknowledgement = alerts_pb2.AcknowledgeAlertRequest(id=alert.id, note="on it")
            AlertServiceStub(channel).AcknowledgeAlert(acknowledgement, timeout=TIMEOUT_S)
        attended = service.page()
    assert page["open_alerts"].keys() == {("iris", severity) for severity in ("critical", "info", "warning")}
    assert page["open_alerts"]["iris", "info"] == 0, "none is a value, too"
    assert page["unattended_alerts"]["iris", "critical"] == 1
    assert attended["open_alerts"]["iris", "critical"] == 1, "acknowledged, it fires on"
    assert attended["unattended_alerts"]["iris", "critical"] == 0, "and pages nobody"
    assert page["quality_violations"] == {("iris", "1.0.0"): 1}
    assert page["quality_check_timestamp_seconds"].keys() == {("iris", "1.0.0")}
    assert "drift_effect" not in page, "no check, no value"


def test_the_page_of_monitoring_names_each_series_that_is_told_with_its_type_and_labels(url: str) -> None:
    rows = re.findall(r"^\| `(penstock_model_\w+)` \| (\w+) \| (.+?) \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    with scraped(url) as service:
        service.monitoring.record(new_event())
        families = service.families()
    assert sorted((name.removesuffix("_total"), kind) for name, kind, _ in rows) == sorted(
        (family.name, family.type) for family in families
    )
    assert all(name.endswith("_total") == (kind == "counter") for name, kind, _ in rows)
    labels_of = {name.removesuffix("_total"): labels for name, _, labels in rows}
    for family in families:
        told = {name for sample in family.samples for name in sample.labels} - {"le"}
        assert not family.samples or labels_of[family.name] == (", ".join(sorted(told)) or "none"), family.name


def test_the_busiest_versions_are_told_and_how_many_are_not(url: str) -> None:
    with scraped(url, metrics_max_versions=2) as service:
        for number in range(1, 6):
            service.monitoring.record(*[new_event(version=str(number)) for _ in range(number)])
        page = service.page()
    assert page["requests_total"].keys() == {("iris", "4"), ("iris", "5")}
    assert page["unlisted_versions"] == {(): 3}

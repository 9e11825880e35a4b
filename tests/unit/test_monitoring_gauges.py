"""Counters that never go back, whatever their source says for a while, and scrapes that cost a bounded time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.common.errors import Unavailable
from services.monitoring import gauges
from services.monitoring.configuration.models import DriftGate
from services.monitoring.drift.models import DriftCheck, DriftStatus, Trigger
from services.monitoring.gauges import ModelCollector, Sources
from services.monitoring.models import Window
from services.monitoring.rollups.latency import Latencies
from services.monitoring.rollups.models import Counts
from services.monitoring.rollups.totals import EveryTotal

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Script:
    """Says of each model what it is told to, and of checks and alerts that there are none."""

    def __init__(self, *models: str) -> None:
        self.counts: dict[str, Mapping[str, Counts]] = {model: {"1": Counts()} for model in models}
        self.asked = 0
        self.away = False

    def every(self, window: Window, *, latencies: bool) -> EveryTotal:
        if self.away:
            raise Unavailable("the database is away")
        self.asked += 1
        counts = {(model, version): each for model, of in self.counts.items() for version, each in of.items()}
        return EveryTotal(window, counts)

    def latest_of(self, versions: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Any]:
        return {}

    def open_counts(self) -> Sequence[Any]:
        return ()


def collector_of(script: Script) -> ModelCollector:
    return ModelCollector(Sources(script, script, script, script), lambda: NOON, max_versions=10)


def samples(collector: ModelCollector) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("penstock_model_"), *sample.labels.values()): sample.value
        for family in collector.collect()
        for sample in family.samples
    }


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "FRESH_S", 0.0)


def test_no_count_goes_back_when_its_source_does_for_a_while() -> None:
    """A span that waits for its recount may be read as it stood before: Prometheus would take that for a restart."""
    script = Script("iris")
    collector = collector_of(script)
    collector.collect()
    seen = []
    for count in (0, 10, 7, 12):
        script.counts["iris"] = {
            "1": Counts(inference_count=count, error_count=count, latencies=Latencies((1,), (count,)))
        }
        found = samples(collector)
        seen.append((found["requests_total", "iris", "1"], found["latency_seconds_count", "iris", "1"]))
    assert seen == [(0, 0), (10, 10), (10, 10), (12, 12)]


def test_a_process_that_runs_for_weeks_reads_days_and_still_counts_all() -> None:
    hourly, now, read = Counts(inference_count=1, latencies=Latencies((1,), (1,))), NOON, []
    waits: datetime | None = None

    class Steady(Script):
        def every(self, window: Window, *, latencies: bool) -> EveryTotal:
            hours = (window.to_time - window.from_time) // timedelta(hours=2 if waits else 1)
            read.append(hours)
            return EveryTotal(window, {("iris", "1"): Counts.merged([hourly] * hours)}, waits)

    script = Steady()
    collector = ModelCollector(Sources(script, script, script, script), lambda: now, max_versions=10)
    samples(collector)
    for day in range(1, 30):
        read.clear()
        now = NOON + timedelta(days=day)
        found = samples(collector)
        assert (found["requests_total", "iris", "1"], found["latency_seconds_count", "iris", "1"]) == (24 * day,) * 2
        assert sum(read) <= 24 * 6
    waits, now = NOON, now + timedelta(days=9)  # for a recount: what may change is not settled
    for _ in range(2):
        samples(collector)
    waits = None
    assert samples(collector)["requests_total", "iris", "1"] == 24 * 38


def test_while_the_database_is_away_what_was_read_last_is_told() -> None:
    script = Script("iris")
    collector = collector_of(script)
    samples(collector)
    script.counts["iris"] = {"1": Counts(inference_count=5)}
    assert samples(collector)["requests_total", "iris", "1"] == 5
    script.away = True
    assert samples(collector)["requests_total", "iris", "1"] == 5


def test_a_model_that_comes_later_counts_from_its_first_request_on() -> None:
    script = Script("a")
    collector = collector_of(script)
    samples(collector)
    script.counts["b"] = {"1": Counts(inference_count=9)}
    found = samples(collector)
    assert (found["requests_total", "a", "1"], found["requests_total", "b", "1"]) == (0, 9)


def test_scrapes_close_to_each_other_ask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "FRESH_S", 1_000.0)
    script = Script("iris")
    collector = collector_of(script)
    assert samples(collector) == samples(collector)
    assert script.asked == 2, "lately, and since the beginning, of all models at once"


class Checked(Script):
    """Has a drift check of every version."""

    def __init__(self, *models: str) -> None:
        super().__init__(*models)
        self.status = DriftStatus.DRIFTED

    def latest_of(self, versions: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Any]:
        return {version: self.check(*version) for version in versions}

    def check(self, model: str, version: str) -> DriftCheck:
        return DriftCheck(
            id=UUID(int=1),
            model=model,
            version=version,
            profile_id=UUID(int=2),
            window=Window(NOON, NOON),
            status=self.status,
            drifted_types=(),
            drifted_count=1,
            compared_count=4,
            effect=0.31,
            live_count=900,
            alpha=0.05,
            gate=DriftGate.PSI_CALIBRATED,
            false_alarm_rate=0.05,
            summary="",
            results=(),
            trigger=Trigger.SCHEDULE,
            create_time=NOON,
        )


def test_drift_is_told_as_the_latest_check_found_it_and_too_little_data_is_no_value() -> None:
    script, drift = Script("iris"), Checked()
    collector = ModelCollector(Sources(script, drift, script, script), lambda: NOON, max_versions=10)
    found = samples(collector)
    assert (found["drift_effect", "iris", "1"], found["drifted", "iris", "1"]) == (0.31, 1)
    assert found["drift_check_timestamp_seconds", "iris", "1"] == NOON.timestamp()
    drift.status = DriftStatus.OK
    assert samples(collector)["drifted", "iris", "1"] == 0
    drift.status = DriftStatus.INSUFFICIENT_DATA
    assert not [key for key in samples(collector) if key[0] in ("drift_effect", "drifted")]


def test_latencies_are_folded_into_fewer_bounds_and_none_is_lost() -> None:
    script = Script("iris")
    collector = collector_of(script)
    samples(collector)
    latencies = Latencies((-(2**31), 0, 115, 600), (1, 2, 4, 8))  # 0, 1, 10 and 163,000 ms
    script.counts["iris"] = {"1": Counts(inference_count=15, latencies=latencies)}
    found = samples(collector)
    bounds = {key[3]: value for key, value in found.items() if key[0] == "latency_seconds_bucket"}
    assert (bounds["0.0005"], bounds["0.001"], bounds["0.01"], bounds["30"], bounds["+Inf"]) == (1, 3, 7, 7, 15)

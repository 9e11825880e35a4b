"""Drift over feature views: the registry's process, monitoring's, PostgreSQL and the SDK."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest

import penstock
from penstock.api.monitoring.v1 import drift_pb2 as pb
from penstock.cli.__main__ import run
from penstock.profiles import Columns
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.services import Running, running_monitoring, running_registry

ROWS, ENTITIES = 1_200, 300
OFTEN = {"drift_interval_ms": 50, "alert_interval_ms": 50}
KINDS = {
    "amount": "float64", "visits": "int64", "member": "bool", "city": "string", "taste": "float64_list",
    "since": "timestamp",
}  # fmt: skip


@pytest.fixture(scope="module")
def present() -> datetime:
    """A whole five minutes, so that all falls into the same buckets in each run."""
    now = datetime.now(UTC)
    return now - (now - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(minutes=5)


@pytest.fixture(scope="module")
def services(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, present: datetime
) -> Iterator[tuple[Running, Running, penstock.Client, str]]:
    """A view whose rows of four days ago are the reference: two days ago they are alike, since then they are not."""
    folder, database_url = tmp_path_factory.mktemp("views"), postgres_server.clone("monitoring")
    with (
        running_registry(postgres_server.clone("registry"), folder) as registry,
        running_monitoring(database_url, registry_address=registry.address, **OFTEN) as monitoring,
        penstock.Client(registry=registry.address, monitoring=monitoring.address) as client,
    ):
        client.features.create_view("spending", entity="customer", features=KINDS)
        for days, shift in ((4, 0.0), (2, 0.0), (1, 0.6), (0, 0.6)):
            write(client, present - timedelta(days=days, hours=1), shift, seed=days)
        client.monitoring.profiles.create_from_window(
            "view:spending",
            "1",
            from_time=present - timedelta(days=5),
            to_time=present - timedelta(days=3),
            columns=Columns(ignored=("since",)),
        )
        yield registry, monitoring, client, database_url


def write(client: penstock.Client, end: datetime, shift: float, *, seed: int) -> None:
    """Write rows of twenty hours up to a time; amounts are shifted by so many σ, and more come from Basel."""
    draw = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "amount": np.ma.masked_array(draw.normal(shift, 1, ROWS), draw.random(ROWS) < 0.02),
        "visits": draw.integers(0, 1_000, ROWS),
        "member": (draw.random(ROWS) < 0.3).tolist(),
        "city": draw.choice(["Basel", "Bern", "Chur"], ROWS, p=[0.3 + shift / 2, 0.3, 0.4 - shift / 2]).tolist(),
        "taste": draw.normal(0, 1, (ROWS, 4)),
        "since": draw.integers(0, 2**40, ROWS),
    }
    keys = [f"customer-{each}" for each in draw.integers(0, ENTITIES, ROWS)]
    times = int(end.timestamp() * 1e6) - np.sort(draw.integers(0, 20 * 3_600_000_000, ROWS))
    client.features.load("spending", keys, values, event_times=times)


def check(client: penstock.Client, present: datetime, days: int, **more: Any) -> pb.DriftCheck:
    begin, end = present - timedelta(days=days + 1), present - timedelta(days=days)
    return client.monitoring.drift.check("view:spending", from_time=begin, to_time=end, **more)


def test_a_view_whose_values_stay_alike_has_not_drifted(services: Any, present: datetime) -> None:
    found = check(services[2], present, 2)
    assert (found.model, found.version, found.status) == ("view:spending", "1", pb.DRIFT_STATUS_OK)
    assert found.live_count == ROWS
    compared = {result.feature: result for result in found.results}
    assert set(compared) == {"amount", "visits", "member", "city", "taste"}
    assert compared["amount"].reference_count == ROWS
    (missing,) = (each for each in compared["amount"].bins if each.label == "missing")
    assert 0.01 < missing.live_share < 0.04
    assert compared["taste"].type == pb.DRIFT_TYPE_EMBEDDING
    assert compared["taste"].status == pb.DRIFT_STATUS_OK
    assert found.uncounted_bucket_count == 0


def test_what_has_drifted_is_told_by_feature_and_kept(services: Any, present: datetime) -> None:
    client = services[2]
    found = check(client, present, 1, version="1")
    assert found.status == pb.DRIFT_STATUS_DRIFTED
    drifted = [result.feature for result in found.results if result.status == pb.DRIFT_STATUS_DRIFTED]
    assert sorted(drifted) == ["amount", "city"]
    assert client.monitoring.drift.get(found.id) == found
    assert found.id in [each.id for each in client.monitoring.drift.list(model="view:spending")]


def scheduled(client: penstock.Client, view: str) -> list[pb.DriftCheck]:
    return [each for each in client.monitoring.drift.list(model=view) if each.trigger == pb.TRIGGER_SCHEDULE]


def test_a_view_is_checked_by_schedule_and_raises_alerts_and_no_retraining(services: Any) -> None:
    *_, client, database_url = services
    (check,) = wait_until(lambda: scheduled(client, "view:spending") or None)
    assert (check.version, check.status) == ("1", pb.DRIFT_STATUS_DRIFTED)
    assert check.alpha == pytest.approx(0.25 / 91)
    (alert,) = wait_until(lambda: list(client.monitoring.alerts.list(model="view:spending")) or None)
    assert (alert.version, alert.rule_name, alert.check_id) == ("1", "drift", check.id)
    asked = client.monitoring.drift.check("view:spending", as_scheduled=True)
    assert (asked.trigger, asked.status) == (pb.TRIGGER_SCHEDULE, pb.DRIFT_STATUS_DRIFTED)
    causes = "SELECT count(*) FROM monitoring.retraining_causes WHERE model = 'view:spending'"
    with psycopg.connect(database_url) as connection:
        assert connection.execute(causes).fetchone() == (0,)


def test_a_view_that_is_gone_is_asked_for_once_an_interval(services: Any, present: datetime) -> None:
    *_, client, database_url = services
    client.features.create_view("gone", entity="customer", features={"amount": "float64"})
    times = int(present.timestamp() * 1e6) - 3 * 86_400_000_000 + np.arange(400) * 1_000_000
    amounts = np.random.default_rng(1).normal(0, 1, 400)
    client.features.load("gone", [f"k{number}" for number in range(400)], {"amount": amounts}, event_times=times)
    begin = present - timedelta(days=4)
    client.monitoring.profiles.create_from_window("view:gone", "1", from_time=begin, to_time=present)
    made = wait_until(lambda: scheduled(client, "view:gone") or None)
    client.features.delete_view("gone", 1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE monitoring.drift_schedule SET due_time = now() WHERE model = 'view:gone'")
        due = "SELECT due_time > now() + interval '5 hours' FROM monitoring.drift_schedule WHERE model = 'view:gone'"
        wait_until(lambda: connection.execute(due).fetchone() == (True,) or None)
    assert scheduled(client, "view:gone") == made


def test_a_view_with_too_many_rows_of_one_entity_is_asked_for_once_an_interval(
    services: Any, present: datetime
) -> None:
    *_, client, database_url = services
    client.features.create_view("busy", entity="customer", features={"amount": "float64"})
    end, draw = int(present.timestamp() * 1e6), np.random.default_rng(2)
    for last, keys in ((end - 3 * 86_400_000_000, [f"k{number}" for number in range(400)]), (end, ["k"] * 100_001)):
        times = last - 10 * 3_600_000_000 + np.arange(len(keys)) * 1_000
        client.features.load("busy", keys, {"amount": draw.normal(0, 1, len(keys))}, event_times=times)
    begin, before = present - timedelta(days=5), present - timedelta(days=3)
    client.monitoring.profiles.create_from_window("view:busy", "1", from_time=begin, to_time=before)
    (check,) = wait_until(lambda: scheduled(client, "view:busy") or None)
    assert (check.status, check.live_count, list(check.results)) == (pb.DRIFT_STATUS_INSUFFICIENT_DATA, 0, [])
    assert "more than 100,000 rows; take a shorter window" in check.summary
    assert client.monitoring.drift.get(check.id).summary == check.summary
    due = "SELECT due_time > now() + interval '5 hours' FROM monitoring.drift_schedule WHERE model = 'view:busy'"
    with psycopg.connect(database_url) as connection:
        assert connection.execute(due).fetchone() == (True,)
    assert reason(lambda: client.monitoring.drift.check("view:busy")) == "TOO_MANY"


def test_rows_of_few_entities_say_little(services: Any, present: datetime) -> None:
    client = services[2]
    client.features.create_view("few", entity="customer", features={"amount": "float64"})
    draw, end = np.random.default_rng(0), int(present.timestamp() * 1e6)
    for days, mean in ((4, 0.0), (1, 1.0)):
        times = end - days * 86_400_000_000 + np.arange(400) * 1_000_000
        keys = [f"k{number % 3}" for number in range(400)]
        client.features.load("few", keys, {"amount": draw.normal(mean, 1, 400)}, event_times=times)
    begin = present - timedelta(days=5)
    client.monitoring.profiles.create_from_window("view:few", "1", from_time=begin, to_time=present - timedelta(days=3))
    begin, end_time = present - timedelta(days=2), present
    found = client.monitoring.drift.check("view:few", from_time=begin, to_time=end_time)
    assert found.status == pb.DRIFT_STATUS_INSUFFICIENT_DATA
    assert "so few users" in found.summary


def reason(call: Any) -> str:
    with pytest.raises(penstock.PenstockError) as refused:
        call()
    return refused.value.reason


def test_what_cannot_be_compared_is_refused(services: Any, present: datetime) -> None:
    monitoring = services[2].monitoring
    begin = present - timedelta(days=5)
    create = monitoring.profiles.create_from_window
    assert reason(lambda: monitoring.drift.check("view:nowhere")) == "VIEW_NOT_FOUND"
    assert reason(lambda: monitoring.drift.check("view:spending", version="2")) == "NO_REFERENCE"
    assert reason(lambda: create("view:nowhere", "1", from_time=begin)) == "VIEW_NOT_FOUND"
    for version in ("2", "newest", "0"):
        assert reason(lambda version=version: create("view:spending", version, from_time=begin)) == (
            "VIEW_VERSION_NOT_FOUND"
        )
    long_ago = present - timedelta(days=30)
    assert reason(
        lambda: create("view:spending", "1", from_time=long_ago, to_time=long_ago + timedelta(days=1))
    ) == "TOO_FEW_ROWS"  # fmt: skip
    assert reason(
        lambda: create("view:spending", "1", from_time=begin, columns=Columns(ignored=("other",)))
    ) == "UNKNOWN_COLUMN"  # fmt: skip


def test_the_command_line_takes_a_view_where_models_are(
    services: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_MONITORING_ADDRESS", services[1].address)
    assert run(["profile", "show", "view:spending", "1"]) == 0
    assert "amount" in capsys.readouterr().out
    assert run(["drift", "check", "view:spending", "--window", "2d", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["model"], document["status"]) == ("view:spending", "drifted")
    assert run(["monitoring", "set", "drift.interval=12h", "--model", "view:spending"]) == 0
    capsys.readouterr()
    assert run(["drift", "list", "view:spending", "--json"]) == 0
    assert document["id"] in capsys.readouterr().out


def test_a_registry_that_is_away_is_said_to_be_and_ends_no_round_of_checks(
    clone_database: Callable[[str], str], services: Any
) -> None:
    database_url, drop = clone_database("monitoring"), "SELECT count(*) FROM monitoring.drift_checks"
    with psycopg.connect(services[3]) as source, psycopg.connect(database_url, autocommit=True) as copy:
        for table in ("profiles", "profile_features", "profile_attachments"):
            with (
                source.cursor().copy(f"COPY monitoring.{table} TO STDOUT") as rows,
                copy.cursor().copy(f"COPY monitoring.{table} FROM STDIN") as taken,
            ):
                for block in rows:
                    taken.write(block)
        copy.execute(
            "INSERT INTO monitoring.drift_checks VALUES (gen_random_uuid(), 'iris', '1', gen_random_uuid(), 1, 1, "
            "now() - interval '400 days', '', '')"
        )
        with (
            running_monitoring(database_url, **OFTEN) as alone,
            penstock.Client(monitoring=alone.address, retry=penstock.retries.NO_RETRIES) as client,
        ):
            assert reason(lambda: client.monitoring.drift.check("view:spending")) == "FEATURES_UNAVAILABLE"
            # What is too old is dropped at the end of a round.
            wait_until(lambda: copy.execute(drop).fetchone() == (0,) or None)

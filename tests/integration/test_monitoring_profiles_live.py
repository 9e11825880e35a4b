"""Live traffic counted against profiles: as it comes, late, and once it is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from services.common.postgres import Database
from services.monitoring.profiles.live import floor
from services.monitoring.profiles.references import References
from services.monitoring.profiles.store import payloads
from services.monitoring.profiles.store.profiles import ProfileStore
from services.monitoring.store.days import Days, by_time
from tests.live_profiles import AGE_S, execute, iris, mark_all, marks, rows, settled
from tests.monitoring import TIMEOUT_S, eventually, new_event
from tests.profiles import CloneDatabase, Service, fields, iris_csv, iris_events, serving


@pytest.fixture
def service(clone_database: CloneDatabase) -> Iterator[Service]:
    with serving(clone_database("monitoring")) as running:
        yield running


def test_events_are_counted_in_the_bins_of_their_reference(service: Service) -> None:
    service.record(*iris_events(age_s=AGE_S))
    made = iris(service)
    eventually(lambda: rows(service, made) == 150)

    live = service.live(made.id)
    for feature in made.features[:4]:
        counts = live.features[feature.name].counts.sum(axis=0)
        assert counts.tolist() == [one.count for one in feature.bins], feature.name
    length = live.features["sepal_length"]
    assert live.features["prediction"].counts.sum(axis=0).tolist() == [50, 50, 50, 0, 0]
    assert length.groups.sum() == live.group_row_counts.sum() == 150
    assert live.unknown_features == {}
    assert (length.min, length.max) == (4.3, 7.9)
    assert length.last_time is not None
    assert abs(length.last_time - (datetime.now(UTC) - timedelta(seconds=AGE_S))) < timedelta(minutes=3)
    assert live.duplicate_count == 1  # iris has one flower twice
    assert (live.from_time, live.to_time) == (floor(live.from_time), floor(live.to_time))


def test_late_events_are_counted_and_those_sent_twice_once(service: Service) -> None:
    made = iris(service)
    early, late = iris_events(age_s=AGE_S)[:100], iris_events(age_s=AGE_S)[100:]
    service.record(*early)
    eventually(lambda: rows(service, made) == 100)
    assert set(service.monitoring.record(*early[:50])) == {"DUPLICATE"}
    service.record(*late)
    eventually(lambda: rows(service, made) == 150)


def test_another_profile_has_all_that_is_kept_counted_anew(service: Service) -> None:
    service.record(*iris_events(age_s=AGE_S))
    first = iris(service)
    eventually(lambda: rows(service, first) == 150)
    second = service.upload(iris_csv(), columns=pb.Columns(ignored=["predicted", "species", "sepal_width"]))
    eventually(lambda: rows(service, second) == 150)
    live = service.live(second.id)
    assert list(live.features) == ["sepal_length", "petal_length", "petal_width"]
    assert live.unknown_features == {"sepal_width": 150}
    assert rows(service, first) == 150


def test_a_profile_stays_as_it_was_made_whatever_is_counted_attached_or_made_after_it(service: Service) -> None:
    def kept(profile: pb.Profile) -> list[str]:
        whole = [("profiles", "profile_id"), ("profile_features", "position")]
        statements = [
            f"SELECT kept::text FROM monitoring.{table} AS kept WHERE profile_id = '{profile.id}' ORDER BY {order}"
            for table, order in whole
        ]
        return [text for statement in statements for (text,) in service.monitoring.query(statement)]

    def shown(profile: pb.Profile) -> pb.Profile:
        found = service.get(id=profile.id)
        found.ClearField("attached_versions")
        return found

    first = iris(service)
    before, shown_before = kept(first), shown(first)
    assert len(before) == 1 + first.feature_count
    for version in ("1.0.0", "2.0.0"):
        service.record(*iris_events(age_s=AGE_S, version=version))
        service.stub.AttachProfile(pb.AttachProfileRequest(id=first.id, version=version), timeout=TIMEOUT_S)
    eventually(lambda: rows(service, first) == 150)
    second = service.upload(iris_csv(), columns=pb.Columns(ignored=["predicted", "species"]))
    mark_all(service)
    eventually(lambda: rows(service, second) == 150 and settled(service))
    service.stub.AttachProfile(pb.AttachProfileRequest(id=first.id, version="1.0.0"), timeout=TIMEOUT_S)
    service.record(*iris_events(age_s=AGE_S))
    eventually(lambda: rows(service, first) == 300)
    assert kept(first) == before
    assert shown(first) == shown_before


def test_whatever_an_event_holds_is_counted_beside_the_others(service: Service) -> None:
    bad: list[object] = [float("nan"), float("inf"), None, {"deep": [1]}, "x" * 900_000, [1, 2], True, -1e300]
    service.record(*iris_events(age_s=AGE_S))
    for value in bad:  # one by one: together they may be more than a message
        service.record(
            new_event(age_s=AGE_S, features=fields({"sepal_length": value}), prediction=fields({"label": 9}))
        )
    made = iris(service)
    eventually(lambda: rows(service, made) == 150 + len(bad))
    live = service.live(made.id).features["sepal_length"]
    assert live.counts.sum(axis=0)[-2:].tolist() == [2, 5]
    assert live.quality.sum(axis=0).tolist()[:3] == [4, 1, 1]
    assert live.min == -1e300
    assert service.live(made.id).features["prediction"].counts.sum(axis=0)[-1] == len(bad)


def test_a_bucket_whose_events_were_dropped_stays_as_it_was_counted(service: Service) -> None:
    service.record(*iris_events(age_s=AGE_S))
    made = iris(service)
    eventually(lambda: rows(service, made) == 150)
    eventually(lambda: marks(service) == 0)
    day = (datetime.now(UTC) - timedelta(seconds=AGE_S)).date()
    execute(service, f"DROP TABLE monitoring.inferences_{day:%Y%m%d}")
    mark_all(service)
    eventually(lambda: marks(service) == 0)
    assert rows(service, made) == 150
    # Made again for an event that came late, the day is whole no more.
    execute(service, "INSERT INTO monitoring.dropped_days VALUES ('inferences', %s)", day)
    with Database(service.monitoring.database_url, pool_size=2) as database:
        Days(database).ensure([day])
    service.record(iris_events(age_s=AGE_S)[0])
    mark_all(service)
    eventually(lambda: marks(service) == 0)
    assert rows(service, made) == 150


def test_a_version_without_a_profile_leaves_nothing(service: Service) -> None:
    service.record(*iris_events(age_s=AGE_S))
    execute(service, "INSERT INTO monitoring.profile_marks VALUES ('iris', '1.0.0', %s)", floor(datetime.now(UTC)))
    eventually(lambda: marks(service) == 0)
    assert service.monitoring.query("SELECT count(*) FROM monitoring.live_profiles") == [(0,)]


def test_of_more_than_may_be_read_a_uniform_sample_is_counted(
    clone_database: CloneDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = iris_events(age_s=AGE_S)
    size = len(events[0].features.SerializeToString()) + len(events[0].prediction.SerializeToString())
    monkeypatch.setattr(payloads, "MAX_EVENTS_BYTES", 100 * size)
    monkeypatch.setattr(payloads, "SLICE_EVENTS", 7)
    monkeypatch.setattr(payloads, "_PAGE_EVENTS", 13)
    with serving(clone_database("monitoring")) as service:
        service.record(*events)
        made = iris(service)
        eventually(lambda: rows(service, made) > 0 and settled(service))
        live = service.live(made.id)
        assert 30 < live.row_count <= 101
        assert live.features["prediction"].counts.sum() == live.row_count
        assert live.share in (0.5, 0.25)
        assert live.row_count / live.share == pytest.approx(150, rel=0.3)


def test_days_of_live_profiles_are_made_ready_and_dropped(clone_database: CloneDatabase) -> None:
    settings = {"profile_retention_days": 2, "retention_interval_ms": 50}
    with serving(clone_database("monitoring"), **settings) as service:

        def there(day: date) -> bool:
            name = f"live_profiles_{day:%Y%m%d}"
            return bool(service.monitoring.query(f"SELECT FROM pg_class WHERE relname = '{name}'"))

        service.record(*iris_events(age_s=AGE_S))
        today = datetime.now(UTC).date()
        with Database(service.monitoring.database_url, pool_size=2) as database:
            Days(database, [by_time("live_profiles")]).ensure([today - timedelta(days=9), today - timedelta(days=1)])
        eventually(lambda: not there(today - timedelta(days=9)))
        eventually(lambda: there(today + timedelta(days=1)))
        assert there(today - timedelta(days=1))


def test_an_embedding_keeps_a_sample_of_its_vectors(service: Service) -> None:
    generator = np.random.default_rng(4)
    rows_of = "\n".join(json.dumps({"e": generator.normal(size=8).tolist()}) for _ in range(100))
    service.record(
        *(new_event(age_s=AGE_S, features=fields({"e": generator.normal(size=8).tolist()})) for _ in range(40))
    )
    made = service.upload(rows_of.encode(), "JSONL")
    eventually(lambda: rows(service, made) == 40)
    sample = service.live(made.id).features["e"].sample
    assert sample is not None
    assert sample.vectors.shape == (40, 8)
    with Database(service.monitoring.database_url, pool_size=2) as database:
        known = References(ProfileStore(database)).get(UUID(made.id)).features["e"].sample
    assert known is not None
    assert known.vectors.shape == (100, 8)
    assert known.users.shape == (100,)

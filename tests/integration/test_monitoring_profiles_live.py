"""Live traffic counted against profiles: as it comes, late, twice, once it is gone, and by several replicas."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from services.common.errors import Aborted
from services.common.postgres import Database
from services.monitoring.chores import Turn
from services.monitoring.models import Retention
from services.monitoring.profiles.live import Recounts, floor
from services.monitoring.profiles.models import BUCKET
from services.monitoring.profiles.references import References
from services.monitoring.profiles.store import payloads
from services.monitoring.profiles.store.live import LiveStore, Mark
from services.monitoring.profiles.store.profiles import ProfileStore
from services.monitoring.store.days import Days, by_time
from tests.monitoring import TIMEOUT_S, eventually, new_event
from tests.profiles import CloneDatabase, Service, fields, iris_columns, iris_csv, iris_events, serving

NEVER = {"profile_interval_ms": 3_600_000, "rollup_interval_ms": 3_600_000}
AGE_S = 900.0
FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC).date()


@pytest.fixture
def service(clone_database: CloneDatabase) -> Iterator[Service]:
    with serving(clone_database("monitoring")) as running:
        yield running


@contextmanager
def store_of(service: Service) -> Iterator[LiveStore]:
    with Database(service.monitoring.database_url, pool_size=4) as database:
        yield LiveStore(database, Days(database, [by_time("live_profiles")]))


def execute(service: Service, statement: str, *values: object) -> None:
    with psycopg.connect(service.monitoring.database_url, autocommit=True) as connection:
        connection.execute(statement.encode(), values)


def marks(service: Service) -> int:
    return int(service.monitoring.query("SELECT count(*) FROM monitoring.profile_marks")[0][0])


def settled(service: Service) -> bool:
    """Whether all is counted that a new profile has had marked."""
    waiting = service.monitoring.query(
        "SELECT (SELECT count(*) FROM monitoring.profile_marks), (SELECT count(recount_day) FROM "
        "monitoring.profile_attachments), (SELECT count(*) FROM monitoring.chores WHERE name = 'profiles' "
        "AND lease_time > now())"
    )
    return waiting == [(0, 0, 0)]


def mark_all(service: Service) -> None:
    """Mark what has been counted, as the rollups do when more of it comes."""
    execute(
        service,
        "INSERT INTO monitoring.profile_marks SELECT model, version, start_time FROM monitoring.live_profiles",
    )


def iris(service: Service, **more: Any) -> pb.Profile:
    return service.upload(iris_csv(), columns=iris_columns(), **more)


def rows(service: Service, profile: pb.Profile) -> int:
    return service.live(profile.id).row_count


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
    assert live.quality.sum(axis=0).tolist()[:3] == [4, 2, 1]
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


def test_closed_buckets_go_first_and_an_open_one_is_not_counted_all_the_time(clone_database: CloneDatabase) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        iris(service)
        eventually(lambda: settled(service))
        now = datetime.now(UTC)
        begins = [floor(now) - number * BUCKET for number in (0, 3, 1, 2)]
        for start in begins:
            execute(service, "INSERT INTO monitoring.profile_marks VALUES ('iris', '1.0.0', %s)", start)

        def listed(counted_before: datetime) -> list[datetime]:
            found = store.marked(closed=now - BUCKET, counted_before=counted_before, limit=100)
            return [mark.start_time for mark in found]

        in_order = [*sorted(begins[1:], reverse=True), begins[0]]
        assert listed(now) == in_order
        recounts = recounts_of(service, store, now=now)
        assert [mark.start_time for mark in recounts._marked()] == in_order
        recounts.recount(turn())
        assert marks(service) == 0
        counted = now - timedelta(seconds=30)
        execute(
            service,
            "INSERT INTO monitoring.live_profiles "
            "SELECT model, version, profile_id, %s, %s, 1, 0, 0, '', '', '', '', '{}' FROM monitoring.profiles",
            begins[0],
            counted,
        )
        for start in begins:
            execute(service, "INSERT INTO monitoring.profile_marks VALUES ('iris', '1.0.0', %s)", start)
        assert listed(now - timedelta(minutes=1)) == sorted(begins[1:], reverse=True)
        assert listed(counted) == in_order


def test_open_buckets_of_many_versions_without_a_profile_hold_up_no_other(clone_database: CloneDatabase) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        iris(service)
        eventually(lambda: settled(service))
        now = datetime.now(UTC)
        service.record(*(new_event(model="other", version=str(number)) for number in range(150)))
        execute(service, "INSERT INTO monitoring.profile_marks VALUES ('iris', '1.0.0', %s)", floor(now) - 3 * BUCKET)
        found = store.marked(closed=now - BUCKET, counted_before=now, limit=100)
        assert found[0].start_time == floor(now) - 3 * BUCKET
        assert {mark.model for mark in found} == {"iris"}


def test_a_bucket_that_cannot_be_counted_holds_up_no_other(
    clone_database: CloneDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        iris(service)
        eventually(lambda: settled(service))
        now = datetime.now(UTC)
        for number in (3, 4):
            execute(
                service,
                "INSERT INTO monitoring.profile_marks VALUES ('iris', '1.0.0', %s)",
                floor(now) - number * BUCKET,
            )
        recounts = recounts_of(service, store, now=now)
        count = Recounts._count

        def fail_once(self: Recounts, mark: Mark, turn: Turn, present: datetime) -> None:
            if mark.start_time == floor(now) - 3 * BUCKET:
                raise ValueError("a defect that this bucket's events bring about")
            count(self, mark, turn, present)

        monkeypatch.setattr(Recounts, "_count", fail_once)
        recounts.recount(turn())
        assert marks(service) == 1


def test_a_mark_that_comes_while_its_bucket_is_counted_outlives_the_count(clone_database: CloneDatabase) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        iris(service)
        eventually(lambda: settled(service))
        mark = Mark("iris", "1.0.0", floor(datetime.now(UTC)))
        insert = "INSERT INTO monitoring.profile_marks VALUES ('iris', '1.0.0', %s)"
        execute(service, insert, mark.start_time)
        with store.counting(mark, FIRST_DAY) as bucket:
            assert bucket is not None
            execute(service, insert, mark.start_time)
        assert marks(service) == 1


def test_of_two_replicas_that_count_a_bucket_at_once_one_tries_again(clone_database: CloneDatabase) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        iris(service)
        service.record(*iris_events(age_s=AGE_S))
        eventually(lambda: settled(service))
        start = floor(datetime.now(UTC) - timedelta(seconds=AGE_S))
        mark = Mark("iris", "1.0.0", start)
        execute(service, "INSERT INTO monitoring.profile_marks VALUES ('iris', '1.0.0', %s)", start)
        first_has_it, second_began = threading.Event(), threading.Event()
        outcomes: list[str] = []

        def second() -> None:
            assert first_has_it.wait(TIMEOUT_S)
            try:
                with ExitStack() as stack:
                    second_began.set()
                    stack.enter_context(store.counting(mark, FIRST_DAY))
                outcomes.append("counted")
            except Aborted as error:
                outcomes.append(error.reason)

        thread = threading.Thread(target=second)
        thread.start()
        with store.counting(mark, FIRST_DAY) as bucket:
            assert bucket is not None
            first_has_it.set()
            assert second_began.wait(TIMEOUT_S)
            eventually(lambda: waiting(service) == 1)
        thread.join(TIMEOUT_S)
        assert outcomes == ["TRANSACTION_CONFLICT"]


def waiting(service: Service) -> int:
    """How many wait for another's lock."""
    found = service.monitoring.query("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    return int(found[0][0])


def test_recounting_is_the_same_each_time(clone_database: CloneDatabase) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        service.record(*iris_events(age_s=AGE_S))
        made = iris(service)
        eventually(lambda: rows(service, made) == 150 and settled(service))
        columns = "row_count, duplicate_count, counts, groups, extremes, samples, unknown"
        before = service.monitoring.query(f"SELECT {columns} FROM monitoring.live_profiles")
        mark_all(service)
        recounts_of(service, store).recount(turn())
        assert service.monitoring.query(f"SELECT {columns} FROM monitoring.live_profiles") == before


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


def test_a_replica_whose_clock_is_years_ahead_loses_no_count(clone_database: CloneDatabase) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        service.record(*iris_events(age_s=AGE_S))
        made = iris(service)
        eventually(lambda: rows(service, made) == 150 and settled(service))
        mark_all(service)
        execute(service, "DELETE FROM monitoring.live_profiles")
        recounts_of(service, store, now=datetime.now(UTC) + timedelta(days=3_650)).recount(turn())
        assert rows(service, made) == 150
        assert marks(service) == 0


def test_a_window_says_which_of_its_buckets_still_wait_to_be_counted(clone_database: CloneDatabase) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        made = iris(service)
        eventually(lambda: settled(service))
        now = floor(datetime.now(UTC))
        service.record(*iris_events(age_s=AGE_S)[:20])  # a mark of the rollups
        execute(service, "INSERT INTO monitoring.profile_marks VALUES ('iris', '1.0.0', %s)", now - 6 * BUCKET)
        execute(service, "INSERT INTO monitoring.profile_marks VALUES ('iris', '2.0.0', %s)", now - 7 * BUCKET)
        recorded = floor(now + (datetime.now(UTC) - now) - timedelta(seconds=AGE_S))
        assert set(service.live(made.id).uncounted_buckets) >= {now - 6 * BUCKET, recorded}
        assert len(service.live(made.id).uncounted_buckets) <= 3
        recounts_of(service, store).recount(turn())
        execute(
            service,
            "INSERT INTO monitoring.profile_marks "
            "SELECT model, version, start_time FROM monitoring.rollup_marks WHERE granularity = 1",
        )
        execute(service, "DELETE FROM monitoring.rollup_marks")
        recounts_of(service, store).recount(turn())
        assert service.live(made.id).uncounted_buckets == []
        service.stub.AttachProfile(pb.AttachProfileRequest(id=made.id, version="1.0.0"), timeout=TIMEOUT_S)
        assert now - 5 * BUCKET in service.live(made.id).uncounted_buckets


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
    assert sample.shape == (40, 8)
    with Database(service.monitoring.database_url, pool_size=2) as database:
        known = References(ProfileStore(database)).get(UUID(made.id)).features["e"].sample
    assert known is not None
    assert known.shape == (100, 8)


class _Going(Turn):
    def __init__(self) -> None:
        """Of nobody: there is no lease."""

    def renew(self) -> bool:
        return True


def turn() -> Turn:
    return _Going()


def recounts_of(service: Service, store: LiveStore, *, now: datetime | None = None) -> Recounts:
    stack = ExitStack()
    database = stack.enter_context(Database(service.monitoring.database_url, pool_size=2))
    return Recounts(
        store,
        References(ProfileStore(database)),
        Retention(30),
        Days(database, [by_time("live_profiles")]),
        lambda: now or datetime.now(UTC),
        retention_days=90,
        open_interval=timedelta(minutes=1),
    )

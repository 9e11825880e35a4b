"""Buckets that are marked, counted: in which order, by several replicas, again, put off, and what waits meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from services.common.errors import Aborted
from services.common.postgres import Database
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.models import Scope
from services.monitoring.configuration.store import ConfigurationStore
from services.monitoring.profiles.live import Recounts, floor
from services.monitoring.profiles.models import BUCKET
from services.monitoring.profiles.store.live import Mark
from tests.live_profiles import AGE_S, NEVER, execute, iris, mark_all, marks, recounts_of, rows, settled, store_of, turn
from tests.monitoring import TIMEOUT_S, eventually, new_event
from tests.profiles import CloneDatabase, Service, iris_events, serving
from tests.rollups import leave_to_the_test, rollups

FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC).date()


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
        assert [mark.start_time for mark in recounts._marked(())] == in_order
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


def test_open_buckets_without_captured_features_hold_up_no_other(clone_database: CloneDatabase) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        made = iris(service, version="9")
        eventually(lambda: settled(service))
        attach = (
            "INSERT INTO monitoring.profile_attachments (model, version, profile_id, attach_time, attached_by) "
            "SELECT 'iris', number::text, %s, now(), '' FROM generate_series(100, 249) AS number"
        )
        execute(service, attach, made.id)
        service.record(*(new_event(version=str(number)) for number in range(100, 250)))
        service.record(*iris_events(age_s=0, version="9"))
        recounts_of(service, store).recount(turn())
        assert service.monitoring.query("SELECT DISTINCT version FROM monitoring.live_profiles") == [("9",)]


def test_a_model_whose_live_profiles_are_off_is_counted_when_they_are_on_again(clone_database: CloneDatabase) -> None:
    url = clone_database("monitoring")
    with Database(url, pool_size=2) as database:
        configurations = Configurations(ConfigurationStore(database), lambda: datetime.now(UTC))
        configurations.set(Scope("iris"), {"profiles": {"enabled": False}}, etag="", note="")
        with serving(url, **NEVER) as service, store_of(service) as store:
            made = iris(service)
            service.record(*iris_events(age_s=AGE_S))
            start = floor(datetime.now(UTC) - timedelta(seconds=AGE_S))
            execute(service, "INSERT INTO monitoring.profile_marks VALUES ('iris', '1.0.0', %s)", start)
            asked = recounts_of(service, store).count_now("iris", "1.0.0", [start], within_s=TIMEOUT_S)
            assert (asked, marks(service)) == (set(), 1), "nor by who asks for a check"
            recounts_of(service, store).recount(turn())
            assert (rows(service, made), marks(service)) == (0, 0)
            assert start in service.live(made.id).uncounted_buckets
            configurations.set(Scope("iris"), {}, etag=configurations.get(Scope("iris")).etag, note="")
            recounts_of(service, store).recount(turn())
            assert rows(service, made) == 150


def test_profiles_that_were_off_for_a_while_have_the_days_counted_that_changed(clone_database: CloneDatabase) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        service.record(*iris_events(age_s=5 * 86_400)[:20])
        iris(service)
        eventually(lambda: settled(service))
        recounts = recounts_of(service, store)
        times = "SELECT start_time, count_time FROM monitoring.live_profiles ORDER BY start_time"
        before = service.monitoring.query(times)
        assert len(before) == 1
        service.record(*iris_events(age_s=2 * 86_400)[:20], *iris_events(age_s=AGE_S)[:20])
        late = floor(datetime.now(UTC) - timedelta(days=2))
        for age in (late, floor(datetime.now(UTC) - timedelta(seconds=AGE_S))):
            with store.counting(Mark("iris", "1.0.0", age), FIRST_DAY) as bucket:
                assert bucket is not None
                bucket.put_off()
        recounts.recount(turn())
        after = service.monitoring.query(times)
        assert (len(after), after[0]) == (3, before[0])
        assert settled(service)


def test_versions_that_are_switched_off_hide_none_that_waits(clone_database: CloneDatabase) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        made = iris(service)
        attach = (
            "INSERT INTO monitoring.profile_attachments (model, version, profile_id, attach_time, attached_by, "
            "recount_day) SELECT 'a', number::text, %s, now(), '', current_date + 1 FROM generate_series(1, 1200) "
            "AS number"
        )
        eventually(lambda: settled(service))
        execute(service, attach, made.id)
        execute(service, "UPDATE monitoring.profile_attachments SET recount_day = current_date WHERE model = 'iris'")
        now = datetime.now(UTC)

        def mark_day() -> bool:
            return store.mark_day(now.date(), now, most_waiting=9_999, wanted=lambda model, _: model == "iris")

        assert (mark_day(), mark_day()) == (True, False)


def test_while_rollups_are_off_a_window_that_is_counted_says_so(clone_database: CloneDatabase) -> None:
    url = clone_database("monitoring")
    leave_to_the_test(url)
    with serving(url, **NEVER) as service, store_of(service) as store, rollups(url) as rolled:
        made = iris(service)
        rolled.configure(enabled=False)
        eventually(lambda: settled(service))
        service.record(*iris_events(age_s=AGE_S))
        assert service.live(made.id).uncounted_buckets
        rolled.recount()
        assert service.live(made.id).uncounted_buckets
        recounts_of(service, store).recount(turn())
        assert rows(service, made) == 150
        assert service.live(made.id).uncounted_buckets == []


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

        def fail_once(self: Recounts, mark: Mark, goes_on: Callable[[], bool], present: datetime) -> None:
            if mark.start_time == floor(now) - 3 * BUCKET:
                raise ValueError("a defect that this bucket's events bring about")
            count(self, mark, goes_on, present)

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


def test_who_asks_for_a_check_counts_anew_what_the_chore_was_counting(clone_database: CloneDatabase) -> None:
    with serving(clone_database("monitoring"), **NEVER) as service, store_of(service) as store:
        profile = iris(service)
        eventually(lambda: settled(service))
        service.record(*iris_events(age_s=AGE_S))
        start = floor(datetime.now(UTC) - timedelta(seconds=AGE_S))
        execute(service, "INSERT INTO monitoring.profile_marks VALUES ('iris', '1.0.0', %s)", start)
        recounts, counted = recounts_of(service, store), list[Collection[datetime]]()

        def ask() -> None:
            counted.append(recounts.count_now("iris", "1.0.0", [start], within_s=TIMEOUT_S))

        with store.counting(Mark("iris", "1.0.0", start), FIRST_DAY) as bucket:
            assert bucket is not None
            thread = threading.Thread(target=ask)
            thread.start()
            eventually(lambda: waiting(service) == 1)
        thread.join(TIMEOUT_S)
        assert counted == [{start}]
        assert rows(service, profile) == 150
        assert recounts.count_now("iris", "1.0.0", [start], within_s=0) == set(), "time was up"


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

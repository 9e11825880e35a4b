"""What happens when schedules' times come, turn by turn, on a real database: one job, whoever looks or dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from penstock.ids import uuid7
from services.common.jobs import Backoff, Concurrency, Failure, JobFilters, JobState, JobStore
from services.common.postgres import Database
from services.fetcher.faults import HostBusy, NetworkError, RateLimited
from services.fetcher.models import FetchSpec, Plan, Reference, RemoteFile
from services.fetcher.schedules.metrics import ScheduleCollector
from services.fetcher.schedules.models import Look, NewSchedule, Schedule, When, job_id_of
from services.fetcher.schedules.store import ScheduleStore
from services.fetcher.schedules.turning import Turning, TurnLimits
from services.fetcher.sources.catalogue import Sources
from services.fetcher.sources.source import Found, Source, Stopping
from services.fetcher.store.fetches import FetchStore

pytestmark = pytest.mark.slow
CloneDatabase = Callable[[str], str]
RARELY = When(cron="0 3 29 2 *")


@dataclass
class Told:
    """A source that says what a test tells it."""

    revision: str = "one"
    fault: Exception | None = None
    disabled_reason: str = ""
    looks: int = 0
    name: str = "told"

    def check(self, reference: Reference) -> None:
        """Any will do."""

    def host(self, reference: Reference) -> str:
        return "host"

    def find(self, reference: Reference, stopping: Stopping) -> Found:
        self.looks += 1
        if self.fault is not None:
            raise self.fault
        return Found(Plan(self.revision, (RemoteFile("model.onnx", "x", ""),)), "model")


@dataclass
class Bench:
    """Schedules on a real database, and a source that does as it is told."""

    url: str
    jobs: JobStore
    store: ScheduleStore
    turning: Turning
    told: Told = field(default_factory=Told)

    def schedule(self, when: When = RARELY, *, auto_update: bool = False) -> Schedule:
        spec = FetchSpec(Reference("told", "x"), b"", model="model")
        new = NewSchedule(spec, 5, 3, when, auto_update, request_id="", body_sha256="")
        with self.store.transaction() as connection:
            now = self.store.now(connection)
            following = when.after(now)
            assert following is not None
            return self.store.insert(connection, UUID(uuid7()), new, "tests", following)

    def sql(self, statement: str, *values: object) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(statement.encode(), values)

    def come_due(self, schedule: Schedule, ago: str = "1 second") -> datetime:
        """Have a schedule's time come, so long ago; gives it."""
        self.sql(
            "UPDATE fetcher.fetch_schedules SET next_time = clock_timestamp() - %s::interval, try_count = 0, "
            "try_time = NULL, retry_time = NULL WHERE schedule_id = %s",
            ago,
            schedule.schedule_id,
        )
        due = self.get(schedule).next_time
        assert due is not None
        return due

    def wait(self, schedule: Schedule, days: int = 0) -> None:
        """Have it be time for the next try, so many days after the first."""
        self.sql(
            "UPDATE fetcher.fetch_schedules SET retry_time = clock_timestamp(), try_time = try_time - %s "
            "WHERE schedule_id = %s AND retry_time IS NOT NULL",
            timedelta(days=days),
            schedule.schedule_id,
        )

    def fill(self) -> None:
        """Have the key have as many jobs as it may."""
        for _ in range(2):
            self.come_due(self.schedule(), "3 hours")
            assert self.turning.turn(looks=False) is True

    def end_jobs(self, state: str = "COMPLETED") -> None:
        """End all that have not ended, as a worker does, or somebody who cancels them."""
        waiting = self.jobs.page(JobFilters(states=frozenset({JobState.QUEUED})), before=None, limit=100)
        for job in waiting if state == "CANCELLED" else ():
            self.jobs.cancel(job.job_id)
        while claimed := self.jobs.claim("worker", 60, Concurrency()):
            lease, _ = claimed
            with self.jobs.holding(lease) as connection:
                if state == "FAILED":
                    self.jobs.fail(connection, lease, Failure("NETWORK_ERROR", "nobody is there"))
                else:
                    self.jobs.complete(connection, lease, {})

    def get(self, schedule: Schedule) -> Schedule:
        return self.store.get(schedule.schedule_id)

    def made(self) -> list[UUID]:
        return [job.job_id for job in self.jobs.page(JobFilters(), before=None, limit=100)]

    def look(self, schedule: Schedule) -> Schedule:
        """Have its time come, look, and conclude."""
        self.come_due(schedule)
        return self.try_on(schedule)

    def try_on(self, schedule: Schedule) -> Schedule:
        """Look, and conclude."""
        look = self.turning.turn(looks=True)
        assert isinstance(look, Look)
        self.turning.conclude(look, self.turning.see(look, Stopping()))
        return self.get(schedule)


@pytest.fixture
def bench(clone_database: CloneDatabase) -> Iterator[Bench]:
    url, told = clone_database("fetcher"), Told()
    with Database(url, pool_size=8) as database:
        store = ScheduleStore(database)
        jobs = JobStore(database, "fetcher", "fetch_jobs", on_end=store.ended)
        sources, limits = Sources([cast("Source", told)]), TurnLimits(hard_limit_ms=60_000, max_unended=2)
        yield Bench(url, jobs, store, Turning(store, jobs, FetchStore(), sources, limits), told)


def test_a_time_that_has_not_come_makes_nothing(bench: Bench) -> None:
    bench.schedule()
    assert bench.turning.turn(looks=True) is False
    assert bench.made() == []


def test_a_time_makes_one_job_and_times_that_passed_meanwhile_none(bench: Bench) -> None:
    schedule = bench.schedule()
    due = bench.come_due(schedule, "5 hours")
    assert bench.turning.turn(looks=False) is True
    assert bench.turning.turn(looks=False) is False
    after = bench.get(schedule)
    assert bench.made() == [job_id_of(schedule.schedule_id, due)]
    assert (after.last_time, after.last_job_id) == (due, bench.made()[0])
    assert after.next_time is not None
    assert after.next_time > after.read_time
    job = bench.jobs.get(bench.made()[0])
    assert (job.created_by, job.limit_key, job.payload["schedule_id"]) == ("tests", "host", schedule.schedule_id)
    assert (job.priority, job.max_attempts, job.hard_limit_ms) == (5, 3, 60_000)


def test_many_replicas_at_once_make_one_job_a_time(bench: Bench) -> None:
    schedules = [bench.schedule() for _ in range(2)]
    expected = {job_id_of(each.schedule_id, bench.come_due(each)) for each in schedules}
    barrier = threading.Barrier(4)

    def replica(_: int) -> None:
        barrier.wait(60)
        while bench.turning.turn(looks=True):
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(replica, range(4)))
    while bench.turning.turn(looks=True):
        pass  # what one had locked while another looked
    assert sorted(bench.made()) == sorted(expected)


def test_a_death_between_the_job_and_the_next_time_leaves_neither(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = bench.schedule()
    due = bench.come_due(schedule)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(bench.store, "advance", die)
        with pytest.raises(KeyboardInterrupt):
            bench.turning.turn(looks=True)
    assert bench.made() == []
    assert bench.get(schedule).next_time == due
    assert bench.turning.turn(looks=True) is True
    assert bench.made() == [job_id_of(schedule.schedule_id, due)]


def test_a_time_that_comes_again_since_a_clock_went_back_makes_no_second_job(bench: Bench) -> None:
    schedule = bench.schedule()
    due = bench.come_due(schedule)
    bench.turning.turn(looks=True)
    bench.end_jobs()
    bench.sql("UPDATE fetcher.fetch_schedules SET next_time = %s", due)
    assert bench.turning.turn(looks=True) is True
    assert bench.turning.turn(looks=True) is False
    assert len(bench.made()) == 1


def test_an_only_time_comes_once_and_is_over(bench: Bench) -> None:
    with bench.store.transaction() as connection:
        soon = bench.store.now(connection) + timedelta(hours=1)
    schedule = bench.schedule(When(at_time=soon))
    assert schedule.next_time == soon
    bench.sql("UPDATE fetcher.fetch_schedules SET at_time = at_time - interval '2 hours'")
    bench.come_due(schedule)
    assert bench.turning.turn(looks=True) is True
    after = bench.get(schedule)
    assert (after.next_time, after.enabled, len(bench.made())) == (None, True, 1)
    assert bench.turning.turn(looks=True) is False
    assert bench.store.expire(kept_s=3_600) == 0
    assert bench.store.expire(kept_s=0) == 1


def test_a_job_that_still_runs_is_not_joined_by_another(bench: Bench) -> None:
    schedule = bench.schedule()
    bench.come_due(schedule)
    bench.turning.turn(looks=True)
    second = bench.come_due(schedule)
    assert bench.turning.turn(looks=True) is True
    after = bench.get(schedule)
    assert len(bench.made()) == 1
    assert after.trouble is not None
    assert (after.trouble.reason, after.last_time) == ("STILL_RUNNING", second)
    bench.end_jobs("CANCELLED")
    bench.come_due(schedule)
    bench.turning.turn(looks=True)
    assert len(bench.made()) == 2
    assert bench.get(schedule).trouble is None


def test_what_may_not_be_fetched_any_more_says_so_and_goes_on(bench: Bench) -> None:
    schedule = bench.schedule()
    bench.come_due(schedule)
    bench.told.disabled_reason = "switched off"
    assert bench.turning.turn(looks=True) is True
    after = bench.get(schedule)
    assert after.trouble is not None
    assert (after.trouble.reason, after.last_job_id, after.enabled) == ("SOURCE_DISABLED", None, True)
    assert after.next_time is not None


def test_a_key_whose_jobs_do_not_end_gets_no_more(bench: Bench) -> None:
    schedules = [bench.schedule() for _ in range(3)]
    for each in schedules:
        bench.come_due(each)
    while bench.turning.turn(looks=True):
        pass
    assert len(bench.made()) == 2
    reasons = [each.trouble.reason for each in map(bench.get, schedules) if each.trouble]
    assert reasons == ["TOO_MANY_JOBS"]


def test_a_look_fetches_first_and_then_what_is_new(bench: Bench) -> None:
    schedule = bench.schedule(auto_update=True)
    first = bench.look(schedule)
    assert (first.last_revision, len(bench.made())) == ("one", 1)
    bench.end_jobs()
    same = bench.look(schedule)
    assert (same.last_job_id, len(bench.made()), same.trouble) == (first.last_job_id, 1, None)
    assert same.last_check_time is not None
    assert first.last_check_time is not None
    assert same.last_check_time > first.last_check_time
    bench.told.revision = "two"
    changed = bench.look(schedule)
    assert (changed.last_revision, len(bench.made())) == ("two", 2)
    assert changed.last_job_id != first.last_job_id


def test_what_is_not_known_again_is_fetched_each_time(bench: Bench) -> None:
    schedule, bench.told.revision = bench.schedule(auto_update=True), ""
    for count in (1, 2):
        bench.look(schedule)
        bench.end_jobs()
        assert len(bench.made()) == count


@pytest.mark.parametrize(("state", "jobs"), [("FAILED", 2), ("CANCELLED", 1), ("COMPLETED", 1)])
def test_what_was_not_fetched_since_it_failed_is_fetched_at_the_next_time(bench: Bench, state: str, jobs: int) -> None:
    schedule = bench.schedule(auto_update=True)
    bench.look(schedule)
    bench.end_jobs(state)
    bench.look(schedule)
    assert len(bench.made()) == jobs


def test_what_was_seen_while_the_key_could_have_no_more_jobs_is_fetched_later(bench: Bench) -> None:
    schedule = bench.schedule(auto_update=True)
    bench.look(schedule)
    bench.end_jobs()
    bench.told.revision = "two"
    bench.come_due(schedule)
    look = bench.turning.turn(looks=True)
    assert isinstance(look, Look)
    bench.fill()
    bench.turning.conclude(look, bench.turning.see(look, Stopping()))
    for _ in range(2):  # seen meanwhile, and not even looked at
        full = bench.get(schedule)
        assert full.trouble is not None
        assert (full.trouble.reason, full.last_revision, full.next_time) == (
            "TOO_MANY_JOBS",
            "one",
            look.schedule.next_time,
        )
        bench.wait(schedule)
        looks = bench.told.looks
        assert bench.turning.turn(looks=True) is True
        assert bench.told.looks == looks
    bench.end_jobs()
    bench.wait(schedule)
    after = bench.try_on(schedule)
    assert (after.trouble, after.last_revision, len(bench.made())) == (None, "two", 4)


@pytest.mark.parametrize(("state", "jobs"), [("FAILED", 2), ("COMPLETED", 1)])
def test_how_a_fetch_ended_is_known_although_it_was_deleted(bench: Bench, state: str, jobs: int) -> None:
    schedule = bench.schedule(auto_update=True)
    first = bench.look(schedule).last_job_id
    assert first is not None
    bench.end_jobs(state)
    bench.jobs.delete(first)
    bench.look(schedule)
    assert len(bench.made()) == jobs - 1


def test_a_failed_fetch_that_was_tried_again_and_is_done_is_not_made_again(bench: Bench) -> None:
    schedule = bench.schedule(auto_update=True)
    first = bench.look(schedule).last_job_id
    assert first is not None
    bench.end_jobs("FAILED")
    with bench.store.transaction() as connection:
        bench.jobs.retry(connection, first)
    bench.end_jobs()
    bench.look(schedule)
    assert bench.made() == [first]


def test_a_source_that_cannot_be_asked_is_asked_again_soon_and_then_at_the_next_time(bench: Bench) -> None:
    schedule = bench.schedule(auto_update=True)
    bench.told.fault = NetworkError("nobody is there")
    due = bench.come_due(schedule)
    for tries in (1, 2):
        tried = bench.try_on(schedule)
        assert (tried.next_time, tried.try_count, tried.last_time) == (due, tries, None)
        assert (tried.trouble and tried.trouble.reason) == "NETWORK_ERROR"
        assert bench.store.next_s() <= Backoff().bound_s(tries)
        bench.wait(schedule)
    failed = bench.try_on(schedule)
    assert (failed.last_time, failed.try_count, failed.try_time, failed.retry_time) == (due, 0, None, None)
    assert failed.trouble is not None
    assert (failed.trouble.reason, failed.trouble.message) == ("NETWORK_ERROR", "nobody is there")
    assert (failed.enabled, failed.last_revision, bench.made()) == (True, "", [])
    assert failed.next_time is not None
    bench.told.fault = RuntimeError("a defect with a secret in it")
    broken = bench.look(schedule)
    assert broken.trouble is not None
    assert broken.trouble.reason == "INTERNAL"
    assert "secret" not in broken.trouble.message
    bench.told.fault = None
    assert bench.look(schedule).trouble is None
    assert len(bench.made()) == 1


def test_a_source_that_answers_at_the_second_try_is_fetched_at_once(bench: Bench) -> None:
    schedule = bench.schedule(auto_update=True)
    bench.told.fault = NetworkError("reset")
    bench.look(schedule)
    bench.told.fault = None
    bench.wait(schedule)
    after = bench.try_on(schedule)
    assert (after.trouble, after.try_count, after.retry_time, len(bench.made())) == (None, 0, None, 1)


def test_a_source_is_left_alone_for_as_long_as_it_asks_but_no_longer_than_to_the_next_time(bench: Bench) -> None:
    bench.told.fault = RateLimited("it asks for patience", retry_after_s=1_000)
    rarely = bench.look(bench.schedule(auto_update=True))
    assert rarely.retry_time is not None
    assert rarely.trouble_time is not None
    assert rarely.retry_time - rarely.trouble_time >= timedelta(seconds=999)
    assert bench.turning.turn(looks=True) is False, "it is not asked before"
    often = bench.look(bench.schedule(When(cron="*/5 * * * *"), auto_update=True))
    assert often.retry_time is None
    assert often.next_time is not None
    assert often.next_time > often.read_time


def test_a_host_that_is_busy_costs_no_try_and_is_waited_for_a_day(bench: Bench) -> None:
    schedule = bench.schedule(auto_update=True)
    bench.told.fault = HostBusy("it is asked again in 6 s", retry_after_s=6)
    due = bench.come_due(schedule)
    for _ in range(5):
        tried = bench.try_on(schedule)
        assert (tried.next_time, tried.try_count) == (due, 0)
        bench.wait(schedule)
    bench.wait(schedule, days=1)
    assert bench.try_on(schedule).last_time == due


@pytest.fixture
def once(bench: Bench) -> Schedule:
    """A schedule whose only time has come."""
    with bench.store.transaction() as connection:
        soon = bench.store.now(connection) + timedelta(hours=1)
    schedule = bench.schedule(When(at_time=soon))
    bench.sql("UPDATE fetcher.fetch_schedules SET at_time = at_time - interval '2 hours'")
    bench.come_due(schedule)
    return bench.get(schedule)


@pytest.mark.parametrize("reason", ["TOO_MANY_JOBS", "SOURCE_DISABLED"])
def test_an_only_time_waits_until_a_job_may_be_created(bench: Bench, once: Schedule, reason: str) -> None:
    if reason == "TOO_MANY_JOBS":
        bench.fill()
    else:
        bench.told.disabled_reason = "switched off"
    assert bench.turning.turn(looks=False) is True
    waits = bench.get(once)
    assert waits.trouble is not None
    assert (waits.trouble.reason, waits.next_time, waits.last_job_id) == (reason, once.next_time, None)
    assert waits.retry_time is not None
    assert waits.trouble_time is not None
    assert waits.retry_time - waits.trouble_time >= timedelta(seconds=59)
    bench.end_jobs()
    bench.told.disabled_reason = ""
    bench.wait(once)
    assert bench.turning.turn(looks=False) is True
    after = bench.get(once)
    assert once.next_time is not None
    assert after.last_job_id == job_id_of(once.schedule_id, once.next_time)
    assert (after.trouble, after.next_time) == (None, None)


def test_an_only_time_that_waited_for_a_day_is_over_and_says_why(bench: Bench, once: Schedule) -> None:
    bench.told.disabled_reason = "switched off"
    assert bench.turning.turn(looks=False) is True
    assert bench.store.expire(kept_s=0) == 0, "it is not over"
    bench.wait(once, days=1)
    assert bench.turning.turn(looks=False) is True
    after = bench.get(once)
    assert (after.trouble and after.trouble.reason) == "SOURCE_DISABLED"
    assert (after.next_time, after.retry_time, bench.turning.turn(looks=False)) == (None, None, False)
    assert bench.store.expire(kept_s=0) == 1


def test_what_is_switched_off_and_on_again_is_not_tried_again_before_its_next_time(bench: Bench) -> None:
    schedule = bench.schedule(auto_update=True)
    bench.told.fault = NetworkError("reset")
    waits = bench.look(schedule)
    with bench.store.transaction() as connection:
        bench.store.enable(connection, schedule.schedule_id, enabled=False, next_time=None)
        on = bench.store.enable(connection, schedule.schedule_id, enabled=True, next_time=schedule.next_time)
    assert waits.retry_time is not None
    assert (on.try_count, on.try_time, on.retry_time, on.next_time) == (0, None, None, schedule.next_time)


def test_one_replica_looks_and_another_once_it_is_dead(bench: Bench) -> None:
    schedule = bench.schedule(auto_update=True)
    bench.come_due(schedule)
    first = bench.turning.turn(looks=True)
    assert isinstance(first, Look)
    assert bench.turning.turn(looks=True) is False, "another looks"
    bench.sql("UPDATE fetcher.fetch_schedules SET look_expire_time = clock_timestamp()")
    second = bench.turning.turn(looks=True)
    assert isinstance(second, Look)
    bench.turning.conclude(first, "late")
    assert bench.made() == [], "whoever lost the right to look writes nothing"
    bench.turning.conclude(second, "one")
    bench.turning.conclude(second, "one")
    assert (len(bench.made()), bench.get(schedule).last_revision) == (1, "one")


def test_a_look_that_is_given_back_is_anothers_at_once(bench: Bench) -> None:
    schedule = bench.schedule(auto_update=True)
    bench.come_due(schedule)
    look = bench.turning.turn(looks=True)
    assert isinstance(look, Look)
    bench.turning.give_back(look)
    assert isinstance(bench.turning.turn(looks=True), Look)


def test_a_schedule_that_was_switched_or_deleted_meanwhile_makes_nothing_of_a_look(bench: Bench) -> None:
    for change in ("switch", "delete"):
        schedule = bench.schedule(auto_update=True)
        bench.come_due(schedule)
        look = bench.turning.turn(looks=True)
        assert isinstance(look, Look)
        if change == "delete":
            bench.store.delete(schedule.schedule_id)
        else:
            with bench.store.transaction() as connection:
                bench.store.enable(connection, schedule.schedule_id, enabled=False, next_time=None)
        bench.turning.conclude(look, "one")
        assert bench.made() == []


def test_a_look_holds_up_no_schedule_that_needs_none(bench: Bench) -> None:
    looking, plain = bench.schedule(auto_update=True), bench.schedule()
    bench.come_due(looking, "2 hours")
    bench.come_due(plain, "1 hour")
    assert bench.turning.turn(looks=False) is True
    assert [bench.jobs.get(job).payload["schedule_id"] for job in bench.made()] == [plain.schedule_id]
    assert bench.turning.turn(looks=False) is False
    assert isinstance(bench.turning.turn(looks=True), Look)


def test_an_expression_of_another_release_is_tried_again_later_and_stops_nobody(bench: Bench) -> None:
    unknown, known = bench.schedule(), bench.schedule()
    move = "UPDATE fetcher.fetch_schedules SET time_zone = 'Mars/Olympus' WHERE schedule_id = %s"
    bench.sql(move, unknown.schedule_id)
    bench.come_due(unknown, "2 hours")
    bench.come_due(known)
    while bench.turning.turn(looks=True):
        pass
    assert len(bench.made()) == 2
    after = bench.get(unknown)
    assert after.next_time is not None
    assert after.next_time > after.read_time


def test_it_is_counted_how_many_fail(bench: Bench, once: Schedule) -> None:
    registry = CollectorRegistry()
    registry.register(ScheduleCollector(bench.store))

    def count() -> float | None:
        return registry.get_sample_value("penstock_fetch_failing_schedules")

    schedule = bench.schedule(auto_update=True)
    assert count() == 0
    bench.told.disabled_reason = "switched off"
    assert bench.turning.turn(looks=False) is True
    assert count() == 1
    bench.wait(once, days=1)
    assert bench.turning.turn(looks=False) is True
    assert count() == 1, "it is over, and nobody may have noticed"
    bench.told.disabled_reason = ""
    failed = bench.look(schedule).last_job_id
    assert failed is not None
    bench.end_jobs("FAILED")
    bench.jobs.delete(failed)
    assert count() == 2
    bench.sql("UPDATE fetcher.fetch_schedules SET end_time = end_time - interval '1 day' WHERE end_time IS NOT NULL")
    assert count() == 1
    with bench.store.transaction() as connection:
        bench.store.enable(connection, schedule.schedule_id, enabled=False, next_time=None)
    assert count() == 0


def test_it_is_known_how_long_it_is_until_the_next_time(bench: Bench) -> None:
    assert bench.store.next_s() == float("inf")
    schedule = bench.schedule(auto_update=True)
    assert 0 < bench.store.next_s() < float("inf")
    bench.come_due(schedule)
    assert bench.store.next_s() <= 0
    assert isinstance(bench.turning.turn(looks=True), Look)
    assert bench.store.next_s() > 60, "nobody looks before the lease is over"

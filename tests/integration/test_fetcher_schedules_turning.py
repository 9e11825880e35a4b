"""What happens when schedules' times come, turn by turn, on a real database: one job, whoever looks or dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from services.fetcher.models import StoredWebhook
from services.fetcher.schedules.metrics import ScheduleCollector
from services.fetcher.schedules.models import Look, Schedule, When, job_id_of
from tests.schedules import Bench, open_bench

pytestmark = pytest.mark.slow
CloneDatabase = Callable[[str], str]


@pytest.fixture
def bench(clone_database: CloneDatabase) -> Iterator[Bench]:
    with open_bench(clone_database("fetcher")) as opened:
        yield opened


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


@pytest.fixture
def once(bench: Bench) -> Schedule:
    """A schedule whose only time has come."""
    with bench.store.transaction() as connection:
        soon = bench.store.now(connection) + timedelta(hours=1)
    webhook = StoredWebhook("https://example.org/", signed=False, target="{}", sealed=False)
    schedule = bench.schedule(When(at_time=soon), webhook=webhook)
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
    assert bench.messages() == []
    bench.wait(once, days=1)
    assert bench.turning.turn(looks=False) is True
    after = bench.get(once)
    assert (after.trouble and after.trouble.reason) == "SOURCE_DISABLED"
    (message,) = bench.messages()
    assert (message["type"], message["schedule"]["id"]) == ("fetch_schedule", str(once.schedule_id))
    assert message["error"]["reason"] == "SOURCE_DISABLED"
    assert (after.next_time, after.retry_time, bench.turning.turn(looks=False)) == (None, None, False)
    assert bench.store.expire(kept_s=0) == 1


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

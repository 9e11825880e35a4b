"""What a look at a schedule's source leads to, on a real database: what is new, once, and nothing that is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from penstock.api.fetcher.v1.fetch_jobs_pb2 import FetchTarget
from penstock.api.registry.v1 import registry_pb2
from services.common.errors import InvalidArgument
from services.common.jobs import Backoff
from services.fetcher.faults import HostBusy, NetworkError, RateLimited
from services.fetcher.schedules.models import Look, When
from services.fetcher.sources.source import Stopping
from tests.schedules import Bench, open_bench

pytestmark = pytest.mark.slow
CloneDatabase = Callable[[str], str]


@pytest.fixture
def bench(clone_database: CloneDatabase) -> Iterator[Bench]:
    with open_bench(clone_database("fetcher")) as opened:
        yield opened


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


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"refusal": InvalidArgument("name one of two variants", reason="UNKNOWN_VARIANT")}, "UNKNOWN_VARIANT"),
        ({"unserved": "nobody serves safetensors"}, "UNSUPPORTED_FRAMEWORK"),
        ({"files": ("model.pt",)}, "UNSUPPORTED_FRAMEWORK"),
        ({"files": ("encoder.onnx", "decoder.onnx")}, "UNSUPPORTED_FRAMEWORK"),
    ],
    ids=["variant", "unserved", "pickle", "graphs"],
)
def test_what_a_job_could_only_refuse_makes_none_and_the_schedule_says_why(
    bench: Bench, told: dict[str, Any], reason: str
) -> None:
    schedule = bench.schedule(auto_update=True)
    for name, value in told.items():
        setattr(bench.told, name, value)
    for bench.told.revision in ("one", "two"):
        refused = bench.look(schedule)
        assert (refused.trouble and refused.trouble.reason) == reason
        assert (bench.made(), refused.retry_time, refused.last_revision, refused.enabled) == ([], None, "", True)
        assert refused.next_time is not None
        assert refused.next_time > refused.read_time
    bench.told.refusal, bench.told.unserved, bench.told.files = None, "", ("model.onnx",)
    after = bench.look(schedule)
    assert (after.trouble, after.last_revision, len(bench.made())) == (None, "two", 1)


def test_what_only_its_framework_was_lacking_is_fetched_where_that_is_named(bench: Bench) -> None:
    bench.told.unserved = "the source tells no framework"
    target = FetchTarget(framework=registry_pb2.FRAMEWORK_ONNX)
    bench.look(bench.schedule(auto_update=True, target=target))
    assert len(bench.made()) == 1

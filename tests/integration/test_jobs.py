"""Jobs as their owners and their workers meet them, on a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from penstock.ids import uuid7
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.common.jobs import (
    Backoff,
    Concurrency,
    Failure,
    Job,
    JobFilters,
    JobRun,
    JobState,
    JobStore,
    LeaseLost,
    Progress,
    Stopped,
    StopReason,
)
from tests import jobs
from tests.jobs import execute, new_job, working
from tests.registry import wait_until

LEASE_S = 30.0
NO_LIMITS = Concurrency()


@pytest.fixture
def url(empty_database: str) -> str:
    jobs.create_table(empty_database)
    return empty_database


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    with jobs.opened(url) as opened:
        yield opened


def ended(store: JobStore, job_id: UUID) -> Job:
    def look() -> Job | None:
        job = store.get(job_id)
        return job if job.ended else None

    return wait_until(look)


def until_state(store: JobStore, job_id: UUID, state: JobState) -> Job:
    def look() -> Job | None:
        job = store.get(job_id)
        return job if job.state is state else None

    return wait_until(look)


def test_a_job_goes_from_the_queue_to_its_result(store: JobStore) -> None:
    def work(run: JobRun) -> dict[str, object]:
        run.report(Progress(done=3, failed=1, total=4))
        return {"said": run.job.payload["what"].upper()}

    created = store.create(new_job("tea"))
    assert (created.state, created.attempt, created.progress.total) == (JobState.QUEUED, 0, None)
    with working(store, work):
        job = ended(store, created.job_id)
    assert (job.state, job.result, job.attempt) == (JobState.COMPLETED, {"said": "TEA"}, 1)
    assert job.progress == Progress(3, 1, 4)
    assert job.worker_id
    assert job.start_time is not None
    assert job.create_time <= job.start_time <= (job.end_time or job.start_time)
    assert job.lease_expire_time is None


def test_the_lowest_priority_goes_first_then_the_oldest(store: JobStore) -> None:
    made = [
        store.create(new_job(what, priority=priority)) for what, priority in (("c", 5), ("a", 1), ("d", 5), ("b", 1))
    ]
    claimed = [store.claim("w", LEASE_S, NO_LIMITS) for _ in made]
    assert [found[1].payload["what"] for found in claimed if found] == ["a", "b", "c", "d"]
    assert store.claim("w", LEASE_S, NO_LIMITS) is None


def test_many_workers_race_and_each_job_is_claimed_once(store: JobStore) -> None:
    for _ in range(40):
        store.create(new_job())
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: store.claim(f"w{n}", LEASE_S, NO_LIMITS), range(60)))
    won = [found[0].job_id for found in claims if found]
    assert (len(won), len(set(won))) == (40, 40)


def test_two_race_for_one_job_and_one_has_it(store: JobStore) -> None:
    for _ in range(20):
        store.create(new_job())
        gate = threading.Barrier(2)

        def claim(name: str, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            return store.claim(name, LEASE_S, NO_LIMITS) is not None

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(claim, ("one", "two"))) == [False, True]


def test_no_more_run_at_once_than_the_limits_say_whoever_claims(store: JobStore) -> None:
    for number in range(12):
        store.create(new_job(limit_key=f"host-{number % 3}"))
    store.create(new_job("free"))
    limits = Concurrency(total=6, per_key=2)
    with ThreadPoolExecutor(8) as pool:
        claims = [found for found in pool.map(lambda n: store.claim(f"w{n}", LEASE_S, limits), range(20)) if found]
    assert len(claims) == 6
    by_key = [job.limit_key for _, job in claims]
    assert max(by_key.count(key) for key in {*by_key} - {""}) == 2
    lease, first = claims[0]
    with store.holding(lease) as connection:
        store.complete(connection, lease, {})
    found = store.claim("w", LEASE_S, limits)
    assert found is not None, "what ended made room"
    assert found[1].limit_key in ("", first.limit_key)


def test_whoever_lost_the_lease_by_time_can_neither_report_nor_finish_nor_renew(store: JobStore, url: str) -> None:
    created = store.create(new_job())
    lease, _ = store.claim("slow", LEASE_S, NO_LIMITS) or pytest.fail("nothing to claim")
    execute(url, "UPDATE shop.orders SET lease_expire_time = clock_timestamp()")
    store.renew([lease], LEASE_S)
    assert store.standings([lease]) == {}
    with pytest.raises(LeaseLost), store.holding(lease) as connection:
        store.complete(connection, lease, {"stale": True})
    assert store.sweep() == 1
    again, job = store.claim("quick", LEASE_S, NO_LIMITS) or pytest.fail("not rescued")
    assert (job.job_id, job.attempt) == (created.job_id, 2), "a rescue counts as an attempt"
    with pytest.raises(LeaseLost), store.holding(lease) as connection:
        store.fail(connection, lease, Failure("STALE"))
    with store.holding(again) as connection:
        store.complete(connection, again, {"by": "quick"})
    assert store.get(created.job_id).result == {"by": "quick"}


def test_what_is_written_while_holding_is_undone_with_a_lost_lease(store: JobStore, url: str) -> None:
    store.create(new_job())
    lease, _ = store.claim("w", LEASE_S, NO_LIMITS) or pytest.fail("nothing to claim")
    execute(url, "UPDATE shop.orders SET token = token + 1")
    entered = False
    with pytest.raises(LeaseLost), store.holding(lease):
        entered = True
    assert not entered


def test_a_job_whose_workers_keep_dying_fails_and_says_so(store: JobStore, url: str) -> None:
    created = store.create(new_job(max_attempts=2))
    for _ in range(2):
        assert store.claim("mortal", LEASE_S, NO_LIMITS)
        execute(url, "UPDATE shop.orders SET lease_expire_time = clock_timestamp()")
        store.sweep()
    job = store.get(created.job_id)
    assert (job.state, job.error.reason, job.attempt) == (JobState.FAILED, "WORKER_LOST", 2)


def test_a_passing_fault_is_tried_again_after_a_pause_and_then_given_up(store: JobStore) -> None:
    def work(run: JobRun) -> None:
        raise Unavailable("the other side is down", reason="DOWN")

    created = store.create(new_job(max_attempts=3))
    with working(store, work, backoff=Backoff(base_s=0.001, cap_s=0.001)):
        job = ended(store, created.job_id)
    assert (job.state, job.error.reason, job.error.message) == (JobState.FAILED, "DOWN", "the other side is down")
    assert job.attempt == 3
    assert "Traceback" in job.error.detail


def test_a_job_that_waits_between_attempts_is_pending_and_says_why(store: JobStore) -> None:
    def work(run: JobRun) -> None:
        raise Unavailable("come back later", reason="DOWN", retry_after_s=3_000)

    created = store.create(new_job())
    with working(store, work, backoff=Backoff(base_s=0.001, cap_s=0.001)):
        job = until_state(store, created.job_id, JobState.PENDING)
    assert job.error.reason == "DOWN"
    assert job.due_time - job.read_time > timedelta(seconds=2_900), "what the other side asked for is waited"


def test_a_fault_that_will_not_pass_is_not_tried_again(store: JobStore) -> None:
    def work(run: JobRun) -> None:
        raise InvalidArgument("the file is no file", reason="BAD_FILE")

    created = store.create(new_job())
    with working(store, work):
        job = ended(store, created.job_id)
    assert (job.state, job.error.reason, job.attempt) == (JobState.FAILED, "BAD_FILE", 1)


def test_a_defect_fails_the_job_and_only_operators_see_where(store: JobStore) -> None:
    def work(run: JobRun) -> None:
        raise ZeroDivisionError("secret path\0")

    created = store.create(new_job())
    with working(store, work):
        job = ended(store, created.job_id)
    assert (job.state, job.error.reason) == (JobState.FAILED, "INTERNAL")
    assert "secret" not in job.error.message
    assert "ZeroDivisionError: secret path" in job.error.detail


def test_a_job_that_waits_is_cancelled_at_once_and_one_that_runs_is_told(store: JobStore) -> None:
    began, told = threading.Event(), threading.Event()

    def work(run: JobRun) -> None:
        run.on_stop(told.set)
        began.set()
        run.wait(60)

    with working(store, work):
        running = store.create(new_job())
        assert began.wait(60)
        waiting = store.create(new_job())
        assert store.cancel(waiting.job_id).state is JobState.CANCELLED
        assert store.cancel(running.job_id).cancel_time is not None
        assert ended(store, running.job_id).state is JobState.CANCELLED
        assert told.is_set()
    assert store.cancel(running.job_id).state is JobState.CANCELLED, "asking again changes nothing"


def test_a_cancelled_job_whose_worker_died_is_cancelled_and_not_rescued(store: JobStore, url: str) -> None:
    created = store.create(new_job())
    store.claim("w", LEASE_S, NO_LIMITS)
    store.cancel(created.job_id)
    execute(url, "UPDATE shop.orders SET lease_expire_time = clock_timestamp()")
    store.sweep()
    assert store.get(created.job_id).state is JobState.CANCELLED


def test_a_soft_limit_asks_and_a_hard_limit_takes(store: JobStore) -> None:
    reasons: list[StopReason] = []
    stuck = threading.Event()

    def work(run: JobRun) -> None:
        try:
            run.wait(60)
        except Stopped as stopped:
            reasons.append(stopped.reason)
            if run.job.payload["what"] == "deaf":
                stuck.wait(60)
            raise

    soft = store.create(new_job(soft_limit_ms=1))
    with working(store, work):
        job = ended(store, soft.job_id)
        assert (job.state, job.error.reason) == (JobState.FAILED, "SOFT_LIMIT")
        hard = store.create(new_job("deaf", hard_limit_ms=1))
        job = ended(store, hard.job_id)
        assert (job.state, job.error.reason) == (JobState.FAILED, "HARD_LIMIT")
        wait_until(lambda: len(reasons) == 2 or None)
        stuck.set()
    assert reasons == [StopReason.SOFT_LIMIT, StopReason.LEASE_LOST]
    assert store.get(hard.job_id).error.reason == "HARD_LIMIT", "its worker could write nothing more"


def test_a_run_that_goes_on_without_its_lease_is_reported(store: JobStore) -> None:
    over, stuck = threading.Event(), threading.Event()

    def deaf(run: JobRun) -> None:
        over.wait(60)

    created = store.create(new_job(hard_limit_ms=1))
    with working(store, deaf, stuck_after_s=0.0, on_stuck=lambda run: stuck.set()):
        assert stuck.wait(60)
        over.set()
    assert store.get(created.job_id).error.reason == "HARD_LIMIT"


def test_a_worker_that_ends_gives_its_job_back_uncounted(store: JobStore) -> None:
    began = threading.Event()

    def work(run: JobRun) -> None:
        began.set()
        run.wait(60)

    created = store.create(new_job())
    with working(store, work):
        assert began.wait(60)
    job = store.get(created.job_id)
    assert (job.state, job.attempt) == (JobState.QUEUED, 0)
    assert store.workers(live_s=60) == []


def test_workers_are_seen_while_they_live(store: JobStore) -> None:
    with working(store, lambda run: {}, slots=3) as workers:
        seen = wait_until(lambda: store.workers(live_s=60) or None)
        assert [(each.worker_id, each.slot_count, each.live) for each in seen] == [(workers.worker_id, 3, True)]
        assert not store.workers(live_s=0)[0].live


def test_the_same_request_creates_one_job_and_another_body_is_refused(store: JobStore, url: str) -> None:
    asked = {"request_id": "r1", "body_sha256": "a"}
    first = store.create(new_job(**asked))
    assert store.create(new_job(**asked)).job_id == first.job_id
    with pytest.raises(FailedPrecondition) as refused:
        store.create(new_job(request_id="r1", body_sha256="b"))
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert store.create(new_job(**asked, created_by="bob")).job_id != first.job_id
    execute(url, "UPDATE shop.orders SET create_time = create_time - interval '8 days'")
    assert store.create(new_job(request_id="r1", body_sha256="b")).job_id != first.job_id


def test_the_same_request_from_many_at_once_creates_one_job(store: JobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: store.create(new_job(request_id="r", body_sha256="a")).job_id, range(16)))
    assert len(set(made)) == 1


def test_a_job_is_tried_again_and_deleted_only_once_it_has_ended(store: JobStore) -> None:
    created = store.create(new_job())
    for refused in (store.delete, lambda job_id: retry(store, job_id)):
        with pytest.raises(FailedPrecondition) as error:
            refused(created.job_id)
        assert error.value.reason == "WRONG_STATE"
    store.cancel(created.job_id)
    assert retry(store, created.job_id).state is JobState.QUEUED
    with working(store, lambda run: {"ok": 1}):
        assert ended(store, created.job_id).state is JobState.COMPLETED
    with pytest.raises(FailedPrecondition) as error:
        store.cancel(created.job_id)
    assert error.value.reason == "JOB_ENDED"
    store.delete(created.job_id)
    for gone in (store.get, store.delete, store.cancel):
        with pytest.raises(NotFound):
            gone(created.job_id)


def retry(store: JobStore, job_id: UUID) -> Job:
    with store.transaction() as connection:
        return store.retry(connection, job_id)


def test_jobs_are_listed_by_what_they_are_and_old_ones_expire(store: JobStore, url: str) -> None:
    for number in range(5):
        store.create(new_job(f"w{number % 2}", created_by="ada" if number else "bob"))
    store.cancel(store.page(JobFilters(), before=None, limit=1)[0].job_id)
    later = store.create(new_job(due_time=datetime.now(UTC) + timedelta(hours=1)))
    assert later.state is JobState.PENDING
    first = store.page(JobFilters(), before=None, limit=4)
    rest = store.page(JobFilters(), before=first[-1].create_number, limit=4)
    assert len({job.job_id for job in first + rest}) == 6

    def listed(**more: object) -> int:
        return len(store.page(JobFilters(**more), before=None, limit=10))  # type: ignore[arg-type] # its own fields

    assert listed(states=frozenset({JobState.CANCELLED})) == 1
    assert listed(states=frozenset({JobState.PENDING})) == 1
    assert listed(created_by="bob") == 1
    assert listed(columns={"what": "w1"}) == 2
    assert store.counts()[JobState.QUEUED] == 4
    assert store.queue_age_s() >= 0
    assert store.expire(3_600) == 0
    execute(url, "UPDATE shop.orders SET end_time = end_time - interval '2 hours' WHERE end_time IS NOT NULL")
    assert store.expire(3_600) == 1
    assert listed() == 5


def test_a_fresh_job_wakes_a_worker_without_a_poll(url: str) -> None:
    patient = {"poll_s": 3_600.0, "lease_s": 36_000.0}
    with jobs.opened(url) as store, working(store, lambda run: {}, **patient):
        wait_until(lambda: store.workers(live_s=60) or None)
        assert ended(store, store.create(new_job()).job_id).state is JobState.COMPLETED


def test_a_lost_notification_is_made_up_for_by_the_poll(store: JobStore, url: str) -> None:
    with working(store, lambda run: {}):
        wait_until(lambda: store.workers(live_s=60) or None)
        job_id = uuid7()
        execute(url, f"INSERT INTO shop.orders (job_id, created_by, what) VALUES ('{job_id}', 'sql', '')")
        assert ended(store, UUID(job_id)).state is JobState.COMPLETED


def test_the_wait_between_attempts_is_drawn_up_to_a_bound_that_doubles_to_a_cap() -> None:
    backoff = Backoff(base_s=2, cap_s=10, max_asked_s=100)
    assert [backoff.bound_s(attempt) for attempt in (1, 2, 3, 4, 10_000)] == [2, 4, 8, 10, 10]
    drawn = [backoff.delay_s(3) for _ in range(500)]
    assert 0 <= min(drawn) < 1
    assert 7 < max(drawn) <= 8
    assert 50 <= backoff.delay_s(1, 50) <= 52
    assert 100 <= backoff.delay_s(1, 1e9) <= 102

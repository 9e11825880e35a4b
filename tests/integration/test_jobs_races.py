"""Jobs whose end, lease or count two things change at once, and tables in which nearly all jobs have ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from services.common.errors import Unavailable
from services.common.jobs import (
    Backoff,
    Concurrency,
    Failure,
    Job,
    JobFilters,
    JobRun,
    JobState,
    JobStore,
    Lease,
    Progress,
)
from tests import jobs
from tests.jobs import SCHEMA, TABLE, execute, new_job, working
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


def claimed(store: JobStore) -> tuple[Lease, Job]:
    store.create(new_job())
    return store.claim("w", LEASE_S, NO_LIMITS) or pytest.fail("nothing to claim")


@pytest.mark.parametrize("draining", [False, True])
def test_a_cancelled_job_that_meets_a_passing_fault_or_a_drain_is_not_queued_again(
    store: JobStore, draining: bool
) -> None:
    lease, job = claimed(store)
    store.cancel(job.job_id)
    with store.holding(lease) as connection:
        if draining:
            store.put_back(connection, lease, counted=False)
        else:
            store.put_back(connection, lease, delay_s=60.0, failure=Failure("DOWN", "the other side is down", "trace"))
    found = store.get(job.job_id)
    assert (found.state, found.error) == (JobState.CANCELLED, Failure())
    assert found.end_time is not None
    assert store.claim("w", LEASE_S, NO_LIMITS) is None


def test_work_that_fails_just_after_its_cancellation_is_cancelled(store: JobStore) -> None:
    def work(run: JobRun) -> None:
        store.cancel(run.job.job_id)
        raise Unavailable("the other side is down", reason="DOWN")

    created = store.create(new_job())
    with working(store, work, backoff=Backoff(base_s=0.001, cap_s=0.001)):
        found = wait_until(lambda: job if (job := store.get(created.job_id)).ended else None)
    assert (found.state, found.attempt) == (JobState.CANCELLED, 1)


def test_a_lease_whose_row_is_locked_costs_no_other_its_lease(store: JobStore, url: str) -> None:
    first, _ = claimed(store)
    second, _ = claimed(store)
    execute(url, "UPDATE shop.orders SET lease_expire_time = clock_timestamp() + interval '5 s'")
    with psycopg.connect(url) as other:
        other.execute("SELECT 1 FROM shop.orders WHERE job_id = %s FOR UPDATE", [first.job_id])
        assert store.renew([first, second], LEASE_S) == {second.job_id}
    renewed, left = store.get(second.job_id), store.get(first.job_id)
    assert renewed.lease_expire_time
    assert left.lease_expire_time
    assert (renewed.lease_expire_time - left.lease_expire_time).total_seconds() > 20
    assert store.renew([first, second], LEASE_S) == {first.job_id, second.job_id}


def test_a_job_that_is_begun_anew_has_nothing_done(store: JobStore) -> None:
    for anew, expected in ((False, Progress(7, 3, 9)), (True, Progress())):
        lease, job = claimed(store)
        with store.holding(lease) as connection:
            store.report(connection, lease, Progress(7, 3, 9))
            store.fail(connection, lease, Failure("BAD"))
        with store.transaction() as connection:
            assert store.retry(connection, job.job_id, anew=anew).progress == expected
        store.cancel(job.job_id)


def test_no_question_that_is_asked_all_the_time_reads_the_whole_table(
    store: JobStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(url, autocommit=True) as hands:
        hands.execute(
            "INSERT INTO shop.orders (job_id, created_by, what, state, start_time, end_time, hard_limit_ms, "
            "error_detail) SELECT gen_random_uuid(), 'user-' || n % 50, 'tea', 'COMPLETED', clock_timestamp(), "
            "clock_timestamp(), 1, repeat('x', 1000) "
            "FROM generate_series(1, 20000) n"
        )
        hands.execute("ANALYZE shop.orders")
        asked = recorded(monkeypatch)
        store.sweep()
        store.queue_age_s()
        store.claim("w", LEASE_S, Concurrency(total=5, per_key=2))
        store.expire(3_600.0)
        lease = Lease(new_job().job_id, 1, "w")
        store.renew([lease], LEASE_S)
        store.standings([lease])
        for filters in (
            JobFilters(),
            JobFilters(created_by="user-7"),
            JobFilters(created_by="nobody"),
            JobFilters(states=frozenset({JobState.FAILED})),
            JobFilters(states=frozenset({JobState.PENDING, JobState.QUEUED, JobState.RUNNING})),
        ):
            store.page(filters, before=None, limit=51)
        monkeypatch.undo()
        assert len(asked) >= 11
        for statement, values in asked:
            plan = hands.execute(sql.SQL("EXPLAIN {}").format(statement), values).fetchall()
            text = "\n".join(line for (line,) in plan)
            assert "Seq Scan on orders" not in text, text
            assert "Parallel" not in text, text


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[sql.Composed, Any]]:
    """Note each statement on the table of jobs, as it is sent."""
    found: list[tuple[sql.Composed, Any]] = []
    execute_as_ever = psycopg.Connection.execute

    def execute(self: Any, query: Any, params: Any = None, **more: Any) -> Any:
        if isinstance(query, sql.Composed) and sql.Identifier(SCHEMA, TABLE).as_string() in query.as_string():
            found.append((query, params))
        return execute_as_ever(self, query, params, **more)

    monkeypatch.setattr(psycopg.Connection, "execute", execute)
    return found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_process_whose_workers_are_all_dead_is_not_healthy(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: object) -> None:
        raise SystemExit

    with working(store, lambda run: {}, slots=2) as workers:
        workers.check()
        monkeypatch.setattr(store, "claim", dead)
        store.create(new_job())  # wakes them

        def look() -> bool | None:
            try:
                workers.check()
            except Unavailable as error:
                return error.reason == "NO_LIVE_WORKER"
            return None

        assert wait_until(look)

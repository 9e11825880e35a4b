"""Who is told of jobs' ends hears of each, once, and of no other move: in the transaction that ends the job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from services.common.errors import Unavailable
from services.common.jobs import Concurrency, Failure, Job, JobConnection, JobState, JobStore, Lease
from services.common.postgres import Database
from tests import jobs
from tests.jobs import execute, new_job

CANCELLED, COMPLETED, FAILED = JobState.CANCELLED, JobState.COMPLETED, JobState.FAILED


@dataclass
class Bench:
    """A table of jobs, what was told of it, and what the hook writes, which tells whether its transaction stood."""

    url: str
    store: JobStore = field(init=False)
    told: list[tuple[str, JobState, str]] = field(default_factory=list)
    refusing: bool = False

    def hear(self, connection: JobConnection, job: Job) -> None:
        connection.execute("INSERT INTO shop.told VALUES (%s)", [job.job_id])
        self.told.append((job.payload["what"], job.state, job.error.reason))
        assert job.end_time is not None
        if self.refusing:
            raise Unavailable("not now")

    def claimed(self, **more: int) -> Lease:
        self.store.create(new_job("tea", **more))
        claimed = self.store.claim("w", 30.0, Concurrency())
        assert claimed is not None
        return claimed[0]

    def written(self) -> int:
        with self.store.transaction() as connection:
            return len(connection.execute("SELECT FROM shop.told").fetchall())


@pytest.fixture
def bench(empty_database: str) -> Iterator[Bench]:
    jobs.create_table(empty_database)
    execute(empty_database, "CREATE TABLE shop.told (job_id uuid)")
    with Database(empty_database, pool_size=4) as database:
        made = Bench(empty_database)
        made.store = JobStore(database, jobs.SCHEMA, jobs.TABLE, on_end=made.hear)
        yield made


def complete(bench: Bench) -> None:
    lease = bench.claimed()
    with bench.store.holding(lease) as connection:
        bench.store.complete(connection, lease, {"cups": 1})


def fail(bench: Bench) -> None:
    lease = bench.claimed()
    with bench.store.holding(lease) as connection:
        bench.store.fail(connection, lease, Failure("COLD", "it went cold"))


def end_cancelled(bench: Bench) -> None:
    lease = bench.claimed()
    bench.store.cancel(lease.job_id)
    with bench.store.holding(lease) as connection:
        bench.store.end_cancelled(connection, lease)


def put_back_cancelled(bench: Bench) -> None:
    lease = bench.claimed()
    bench.store.cancel(lease.job_id)
    with bench.store.holding(lease) as connection:
        bench.store.put_back(connection, lease, failure=Failure("COLD", "it went cold"))


def cancel_queued(bench: Bench) -> None:
    bench.store.cancel(bench.store.create(new_job("tea")).job_id)


def cancel_twice(bench: Bench) -> None:
    job = bench.store.create(new_job("tea"))
    bench.store.cancel(job.job_id)
    bench.store.cancel(job.job_id)


def lose_the_last_worker(bench: Bench) -> None:
    bench.claimed(max_attempts=1)
    execute(bench.url, "UPDATE shop.orders SET lease_expire_time = clock_timestamp()")
    bench.store.sweep()
    bench.store.sweep()


def lose_a_cancelled_one(bench: Bench) -> None:
    bench.store.cancel(bench.claimed().job_id)
    execute(bench.url, "UPDATE shop.orders SET lease_expire_time = clock_timestamp()")
    bench.store.sweep()


def pass_the_hard_limit(bench: Bench) -> None:
    bench.claimed(hard_limit_ms=1_000)
    execute(bench.url, "UPDATE shop.orders SET start_time = start_time - interval '1 minute'")
    bench.store.sweep()


@pytest.mark.parametrize(
    ("ending", "state", "reason"),
    [
        (complete, COMPLETED, ""),
        (fail, FAILED, "COLD"),
        (end_cancelled, CANCELLED, ""),
        (put_back_cancelled, CANCELLED, ""),
        (cancel_queued, CANCELLED, ""),
        (cancel_twice, CANCELLED, ""),
        (lose_the_last_worker, FAILED, "WORKER_LOST"),
        (lose_a_cancelled_one, CANCELLED, ""),
        (pass_the_hard_limit, FAILED, "HARD_LIMIT"),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_an_end_is_told_once_as_it_is(
    bench: Bench, ending: Callable[[Bench], None], state: JobState, reason: str
) -> None:
    ending(bench)
    assert bench.told == [("tea", state, reason)]
    assert bench.written() == 1


def test_a_sentence_that_no_text_can_hold_is_kept_without_what_cannot_be(bench: Bench) -> None:
    lease = bench.claimed()
    with bench.store.holding(lease) as connection:
        bench.store.fail(connection, lease, Failure("COLD", "file\udcff is\0cold", "in \ud800"))
    assert bench.store.get(lease.job_id).error == Failure("COLD", "file? is cold", "in ?")


def test_what_goes_on_is_not_told(bench: Bench) -> None:
    lease = bench.claimed()
    bench.store.cancel(bench.claimed().job_id)  # it is asked to end, and has not yet
    with bench.store.holding(lease) as connection:
        bench.store.put_back(connection, lease, failure=Failure("COLD", "it went cold"))
    execute(bench.url, "UPDATE shop.orders SET lease_expire_time = clock_timestamp(), cancel_time = NULL "
                       "WHERE state = 'RUNNING'")  # fmt: skip
    assert bench.store.sweep() == 1
    assert bench.told == []


def test_a_job_that_is_tried_again_is_told_of_again(bench: Bench) -> None:
    job = bench.store.create(new_job("tea"))
    bench.store.cancel(job.job_id)
    with bench.store.transaction() as connection:
        bench.store.retry(connection, job.job_id)
    assert len(bench.told) == 1
    bench.store.cancel(job.job_id)
    assert bench.told == [("tea", CANCELLED, "")] * 2


def test_an_end_that_cannot_be_told_of_is_none(bench: Bench) -> None:
    lease = bench.claimed()
    bench.refusing = True
    with pytest.raises(Unavailable), bench.store.holding(lease) as connection:
        bench.store.complete(connection, lease, {})
    assert (bench.store.get(lease.job_id).state, bench.written()) == (JobState.RUNNING, 0)

"""Whatever is done to a queue of jobs, by workers that live or are late: it stands as one in memory says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from services.common.errors import DomainError
from services.common.jobs import Concurrency, Failure, JobConnection, JobFilters, JobState, JobStore, Lease, Progress
from tests import jobs
from tests.jobs import execute, new_job
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]  # thousands of moves take as long as they take
LIMITS = Concurrency(total=4, per_key=1)
MAX_ATTEMPTS = 2
ANY_LEASE = st.integers(0, 5)


@dataclass
class Remembered:
    """A job as memory has it."""

    order: int
    priority: int
    key: str
    state: str = "QUEUED"
    attempt: int = 0
    token: int = 0
    overdue: bool = False
    cancelled: bool = False
    done: int = 0
    reason: str = ""

    def holds(self, lease: Lease) -> bool:
        return self.state == "RUNNING" and self.token == lease.token and not self.overdue

    def leave(self, state: str, reason: str = "") -> None:
        self.state, self.reason, self.overdue = state, reason, False


class History(RuleBasedStateMachine):
    """The same moves in PostgreSQL and in a dictionary."""

    def __init__(self, store: JobStore, url: str) -> None:
        super().__init__()
        execute(url, "TRUNCATE shop.orders, shop.orders_workers")
        self._store, self._url = store, url
        self.memory: dict[UUID, Remembered] = {}
        self.leases: list[Lease] = []
        self.count = 0

    @initialize()
    def begin(self) -> None:
        """Begin with a queue in use: some run, some wait, one of them behind another of its key."""
        self.create([(1, "a"), (1, "a"), (2, "b"), (2, ""), (3, "")])
        self.claim(3)

    @rule(made=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["", "a", "b"])), min_size=1, max_size=4))
    def create(self, made: list[tuple[int, str]]) -> None:
        for priority, key in made:
            self._create(priority, key)

    def _create(self, priority: int, key: str) -> None:
        job = self._store.create(new_job(priority=priority, limit_key=key, max_attempts=MAX_ATTEMPTS))
        self.count += 1
        self.memory[job.job_id] = Remembered(self.count, priority, key)

    @rule(times=st.integers(1, 5))
    def claim(self, times: int) -> None:
        for number in range(times):
            self._claim(f"w{number}")

    def _claim(self, worker: str) -> None:
        found = self._store.claim(worker, 3_600, LIMITS)
        expected = self._next()
        assert (found[1].job_id if found else None) == expected
        if found is None or expected is None:
            return
        remembered = self.memory[expected]
        remembered.state, remembered.attempt, remembered.token = "RUNNING", remembered.attempt + 1, found[0].token
        self.leases.append(found[0])

    @rule(which=ANY_LEASE)
    def complete(self, which: int) -> None:
        self._write(which, "COMPLETED", "", lambda c, lease: self._store.complete(c, lease, {"by": lease.token}))

    @rule(which=ANY_LEASE)
    def fail(self, which: int) -> None:
        self._write(which, "FAILED", "BROKE", lambda c, lease: self._store.fail(c, lease, Failure("BROKE", "x")))

    @rule(which=ANY_LEASE)
    def end_cancelled(self, which: int) -> None:
        self._write(which, "CANCELLED", "", self._store.end_cancelled)

    @rule(which=ANY_LEASE, counted=st.booleans())
    def put_back(self, which: int, counted: bool) -> None:
        lease = self._lease(which)
        remembered = self.memory.get(lease.job_id) if lease else None
        state = "CANCELLED" if remembered and remembered.cancelled else "QUEUED"
        lease = self._write(which, state, "", lambda c, lease: self._store.put_back(c, lease, counted=counted))
        if lease is not None and not counted:
            self.memory[lease.job_id].attempt -= 1

    @rule(which=ANY_LEASE, done=st.integers(1, 100))
    def report(self, which: int, done: int) -> None:
        lease = self._write(which, "", "", lambda c, lease: self._store.report(c, lease, Progress(done)))
        if lease is not None:
            self.memory[lease.job_id].done = done

    @rule(which=ANY_LEASE)
    def renew(self, which: int) -> None:
        if lease := self._lease(which):
            self._store.renew([lease], 3_600)
            remembered = self.memory.get(lease.job_id)
            assert bool(self._store.standings([lease])) == bool(remembered and remembered.holds(lease))

    @rule(which=ANY_LEASE)
    def let_time_pass(self, which: int) -> None:
        """Let a lease run out, its worker dead or late."""
        lease = self._lease(which)
        if lease and (remembered := self.memory.get(lease.job_id)) and remembered.state == "RUNNING":
            when = "clock_timestamp() - interval '1 second'"
            execute(self._url, f"UPDATE shop.orders SET lease_expire_time = {when} WHERE job_id = '{lease.job_id}'")
            remembered.overdue = True

    @rule()
    def sweep(self) -> None:
        late = [each for each in self.memory.values() if each.state == "RUNNING" and each.overdue]
        assert self._store.sweep() == len(late)
        for each in late:
            if each.cancelled:
                each.leave("CANCELLED")
            elif each.attempt >= MAX_ATTEMPTS:
                each.leave("FAILED", "WORKER_LOST")
            else:
                each.leave("QUEUED")

    @rule(which=ANY_LEASE)
    def cancel(self, which: int) -> None:
        if job_id := self._job(which):
            remembered = self.memory[job_id]
            told = self._told(lambda: self._store.cancel(job_id))
            ended = remembered.state in ("COMPLETED", "FAILED")
            assert told == ("JOB_ENDED" if ended else "")
            if remembered.state in ("QUEUED", "RUNNING"):
                remembered.cancelled = True
            if remembered.state == "QUEUED":
                remembered.state = "CANCELLED"

    @rule(which=ANY_LEASE)
    def retry(self, which: int) -> None:
        if job_id := self._job(which):
            remembered = self.memory[job_id]

            def again() -> None:
                with self._store.transaction() as connection:
                    self._store.retry(connection, job_id)

            allowed = remembered.state in ("FAILED", "CANCELLED")
            assert self._told(again) == ("" if allowed else "WRONG_STATE")
            if allowed:
                remembered.leave("QUEUED")
                remembered.attempt, remembered.cancelled = 0, False

    @rule(which=ANY_LEASE, chance=st.integers(0, 2))
    def delete(self, which: int, chance: int) -> None:
        if not chance and (job_id := self._job(which)):
            ended = self.memory[job_id].state in ("COMPLETED", "FAILED", "CANCELLED")
            assert self._told(lambda: self._store.delete(job_id)) == ("" if ended else "WRONG_STATE")
            if ended:
                del self.memory[job_id]

    @invariant()
    def both_show_the_same(self) -> None:
        listed = self._store.page(JobFilters(), before=None, limit=1_000)
        shown = [(j.job_id, j.state, j.attempt, j.cancel_time is not None, j.progress.done) for j in listed]
        newest = sorted(self.memory.items(), key=lambda item: -item[1].order)
        assert shown == [(job_id, m.state, m.attempt, m.cancelled, m.done) for job_id, m in newest]
        assert [job.error.reason for job in listed] == [m.reason for _, m in newest]
        counts = self._store.counts()
        assert {state: counts[JobState(state)] for state in ("QUEUED", "RUNNING")} == {
            state: sum(m.state == state for m in self.memory.values()) for state in ("QUEUED", "RUNNING")
        }

    def _next(self) -> UUID | None:
        running = [each for each in self.memory.values() if each.state == "RUNNING"]
        if len(running) >= 4:
            return None
        waiting = [
            (each.priority, each.order, job_id)
            for job_id, each in self.memory.items()
            if each.state == "QUEUED" and (not each.key or sum(r.key == each.key for r in running) < 1)
        ]
        return min(waiting)[2] if waiting else None

    def _lease(self, which: int) -> Lease | None:
        """Choose a lease: of those that nobody else has yet, overdue or not, or of the latest, mostly stale."""
        fresh = [each for each in self.leases if self._is_latest(each)]
        among = fresh if fresh and which < 4 else self.leases
        return among[-1 - which % len(among)] if among else None

    def _is_latest(self, lease: Lease) -> bool:
        remembered = self.memory.get(lease.job_id)
        return remembered is not None and remembered.state == "RUNNING" and remembered.token == lease.token

    def _job(self, which: int) -> UUID | None:
        ids = list(self.memory)
        return ids[which % len(ids)] if ids else None

    def _write(
        self, which: int, state: str, reason: str, write: Callable[[JobConnection, Lease], None]
    ) -> Lease | None:
        """Write as a lease's holder; gives the lease where it held."""
        lease = self._lease(which)
        if lease is None:
            return None
        remembered = self.memory.get(lease.job_id)

        def do() -> None:
            with self._store.holding(lease) as connection:
                write(connection, lease)

        held = remembered is not None and remembered.holds(lease)
        assert self._told(do) == ("" if held else "LEASE_LOST")
        if not held or remembered is None:
            return None
        if state:
            remembered.leave(state, reason)
        return lease

    def _told(self, do: Callable[[], object]) -> str:
        try:
            do()
        except DomainError as error:
            return error.reason
        return ""


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.empty()
    jobs.create_table(url)
    yield url
    postgres_server.drop(url)


def test_the_queue_stands_as_one_in_memory_says(url: str) -> None:
    with jobs.opened(url) as store:

        class HereAndNow(History):
            def __init__(self) -> None:
                super().__init__(store, url)

        run_state_machine_as_test(
            HereAndNow,
            settings=settings(
                max_examples=80,
                stateful_step_count=50,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )

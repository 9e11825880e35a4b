"""One version's way through the engine: who runs now, who waits, and who runs next.

A request that finds the model idle runs at once. Those that come meanwhile wait in the queue. Whoever ran a batch hands
the lead to the oldest that waits, of the most urgent first, which takes with it what can be joined: every caller runs
its own batch, and nobody serves others twice. There is no batching thread, and nothing is polled.

A caller that blocks lends its own thread to the batch it leads. For one that does not (a stream, a job) a runner leads,
a thread of the engine's.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from services.common.errors import ResourceExhausted
from services.inference.engine.batch import WrongRowCount, run_alone, run_joined
from services.inference.engine.requests import State, Ticket, cancelled_error, late_error
from services.inference.engine.signature import SignatureCheck
from services.inference.engine.statistics import VersionStatistics
from services.inference.engine.waiting import WaitingQueue
from services.inference.models import ModelFailed, QueueFullAction, ResolvedVersion
from services.inference.runtimes.runtime import Session
from services.inference.sessions.cached_session import CachedSession

log = logging.getLogger(__name__)

RUNNER_BATCHES = 64
"""A runner leads so many batches of one version in a row before another version may have its thread."""


class Sessions(Protocol):
    """Has the models in memory; see `SessionCache`."""

    def acquire(self, version: ResolvedVersion, timeout_s: float) -> CachedSession:
        """Return the version's session, loading it if need be."""
        ...

    def release(self, entry: CachedSession) -> None:
        """Give a session back."""
        ...


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What holds for versions that say nothing else, see ServingSettings in registry.proto; and of the engine itself.

    `max_in_flight` bounds the threads that callers lend to one model, so that no model takes the whole pool.
    `load_wait_s` bounds how long a request without a deadline waits for its model to be loaded. `parallel_runs`: runs
    at once of a version that is not batched and whose runtime has no opinion. `runners`: threads for who lends none.
    """

    max_in_flight: int = 64
    load_wait_s: float = 60.0
    max_batch_size: int = 32
    max_queue_size: int = 1_000
    parallel_runs: int = 1
    runners: int = 16


class ModelShare:
    """What the versions of a model have in common: a lock, and the callers' threads that they hold."""

    __slots__ = ("in_flight", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.in_flight = 0


class Lane:
    """See above. The version's settings may change while requests are in the lane; its files may not."""

    __slots__ = (
        "_default_level", "_delay_ns", "_displaces", "_gatherer", "_has_rows", "_instances", "_joins", "_joins_well",
        "_last_rows", "_levels", "_limits", "_lock", "_max_in_flight", "_max_rows", "_max_waiting", "_runners",
        "_sessions", "_settled", "_timeout_ns", "check", "queue", "running", "share", "statistics", "version",
    )  # fmt: skip

    def __init__(
        self, version: ResolvedVersion, share: ModelShare, sessions: Sessions, limits: EngineLimits, runners: Executor
    ) -> None:
        self.check = SignatureCheck(version.signature)
        self.statistics = VersionStatistics(version)
        self.share = share
        self.queue = WaitingQueue()
        self.running = 0
        self._lock = share.lock
        self._sessions = sessions
        self._limits = limits
        self._runners = runners
        self._instances = 1
        self._joins_well = True
        self._settled = False
        self._last_rows = 0
        self._gatherer: Ticket | None = None
        self.adopt(version)

    def adopt(self, version: ResolvedVersion) -> None:
        """Serve by these settings from now on."""
        serving, limits = version.serving, self._limits
        with self._lock:
            self.version = version
            self._has_rows = version.rows_independent and self.check.joinable
            joinable = self._has_rows and self._joins_well
            self._max_rows = (serving.max_batch_size or limits.max_batch_size) if joinable else 1
            self._joins = self._max_rows > 1
            self._max_in_flight = serving.max_in_flight or limits.max_in_flight
            self._max_waiting = serving.max_queue_size or limits.max_queue_size
            self._displaces = serving.queue_full_action is QueueFullAction.DISPLACE
            self._delay_ns = serving.max_queue_delay_us * 1000 if self._joins else 0
            self._levels = max(1, serving.priority_levels)
            self._default_level = (serving.default_priority or self._levels) - 1
            self._timeout_ns = serving.timeout_ms * 1_000_000
            self._settled = False
            self.queue.set_levels(self._levels)

    # Coming in

    def admit(self, ticket: Ticket) -> bool:
        """Give a checked request a place; True: it is to lead at once, False: it waits.

        Raises ResourceExhausted(QUEUE_FULL), and Cancelled.
        """
        request = ticket.request
        ticket.rows = rows = self.check.row_count(request.inputs)
        if self._has_rows and rows:  # what no rows mean to a model is its own affair, and no neighbour's
            ticket.key = self.check.join_key(request.inputs, request.outputs)
        timeout_ns = request.timeout_ns or self._timeout_ns
        if timeout_ns:
            start_by_ns = ticket.began_ns + timeout_ns
            ticket.start_by_ns = min(start_by_ns, ticket.start_by_ns) if ticket.start_by_ns else start_by_ns
        displaced: Ticket | None = None
        lends = ticket.done is None
        with self._lock:
            if self._levels > 1:
                ticket.level = request.priority - 1 if 0 < request.priority <= self._levels else self._default_level
            leads = self.running < self._instances and self._gatherer is None
            if not leads:
                request.on_cancel = partial(self._cancel, ticket)
                if request.cancelled:  # before there was anybody to tell
                    raise cancelled_error()
            if lends and self.share.in_flight >= self._max_in_flight:
                displaced = self._displace(ticket, lent=True)
            elif not leads and self.queue.count >= self._max_waiting:
                displaced = self._displace(ticket, lent=False)
            if leads:
                self.running += 1
                ticket.state = State.LEADS
            else:
                self._enqueue(ticket)
            self.statistics.in_flight += 1
            if lends:
                self.share.in_flight += 1
        if displaced is not None:
            displaced.answer.error = _queue_full("a more urgent request took this one's place")
            self._conclude(displaced)
        return leads

    def wait(self, ticket: Ticket) -> None:
        """Sleep, on a caller's thread, until the request is answered or is to lead; then lead."""
        wake = ticket.wake
        if wake is None:  # pragma: no cover - whoever waits and lends a thread has one
            raise AssertionError(ticket.state)
        if not ticket.start_by_ns:
            wake.acquire()
        elif not wake.acquire(timeout=max(0.0, (ticket.start_by_ns - time.monotonic_ns()) / 1e9)):
            if self._withdraw(ticket, late_error()):
                return
            wake.acquire()  # it is in a batch, or was just handed the lead
        if ticket.state is State.LEADS:
            self.lead(ticket)

    def start_runner(self, ticket: Ticket) -> None:
        """Have a runner lead with this ticket."""
        self._runners.submit(self.lead, ticket)

    def _enqueue(self, ticket: Ticket) -> None:
        if ticket.done is None:
            ticket.let_sleep()
        self.queue.push(ticket)
        gatherer = self._gatherer
        if gatherer is not None and gatherer.rows + self.queue.rows >= self._max_rows:
            self._end_gathering(gatherer)

    def _displace(self, ticket: Ticket, *, lent: bool) -> Ticket:
        """Take out the one that has to make room; raises ResourceExhausted(QUEUE_FULL) where none has to."""
        displaced = self.queue.find_displaceable(ticket.level, lent=lent) if self._displaces else None
        if displaced is None and lent:
            raise self._too_many_in_flight()
        if displaced is None:
            raise _queue_full(f"{self.queue.count} requests for {self.version.model} wait; try again later")
        self.queue.remove(displaced)
        return displaced

    def enter(self, ticket: Ticket) -> None:
        """Let in work that goes beside the queue; it must `leave`. Raises ResourceExhausted(QUEUE_FULL)."""
        with self._lock:
            refused = self._too_many_in_flight() if self.share.in_flight >= self._max_in_flight else None
            if refused is None:
                self.statistics.in_flight += 1
                self.share.in_flight += 1
        if refused is not None:
            self.refuse(ticket, refused)
            raise refused

    def leave(self, ticket: Ticket) -> None:
        """Let out what was let in, and count it."""
        with self._lock:
            self._leave(ticket, time.monotonic_ns())

    def refuse(self, ticket: Ticket, error: Exception) -> None:
        """Count a request that was not let in."""
        answer = ticket.answer
        answer.error = error
        answer.timings.total_ns = time.monotonic_ns() - ticket.began_ns
        with self._lock:
            self.statistics.count_failure(error, answer.timings.total_ns)

    def _too_many_in_flight(self) -> ResourceExhausted:
        return _queue_full(f"{self.share.in_flight} requests for {self.version.model} are in flight; try again later")

    # Leading

    def lead(self, ticket: Ticket) -> None:
        """Run a batch with this ticket in it, answer all of it, and see that the next one runs."""
        following = self._run_batch(ticket)
        batches = 1
        while following is not None and ticket.done is not None and following.done is not None:
            if batches == RUNNER_BATCHES:
                break
            ticket = following
            following = self._run_batch(ticket)
            batches += 1
        if following is not None:
            self._hand_lead(following)

    def _hand_lead(self, ticket: Ticket) -> None:
        if ticket.done is not None:
            self.start_runner(ticket)
        elif ticket.wake is not None:
            ticket.wake.release()

    def _run_batch(self, leader: Ticket) -> Ticket | None:
        """Run and answer; whatever happens, everybody in the batch hears of it. Returns who leads next."""
        members = [leader]
        try:
            wait_s = self._limits.load_wait_s
            if leader.start_by_ns or leader.request.cancelled:
                wait_s = leader.remaining_s(time.monotonic_ns(), wait_s)
            entry = self._sessions.acquire(self.version, wait_s)
            try:
                if not self._settled:
                    self._settle(entry.session)
                self._form(members)
                self._run(members, entry.session)
            finally:
                self._sessions.release(entry)
        except BaseException as error:  # noqa: BLE001 - whoever asked must hear of it, whatever it is
            for member in members:
                member.answer.error = _as_error(error)
        return self._finish(members)

    def _settle(self, session: Session) -> None:
        """Learn from the open session how many runs at once become it."""
        wanted = self.version.serving.instances
        if not wanted:
            wanted = 1 if self._joins else getattr(session, "max_parallel_runs", 0) or self._limits.parallel_runs
        more: list[Ticket] = []
        with self._lock:
            self._settled = True
            self._instances = wanted
            while self.running < wanted and (ticket := self.queue.pop_first()) is not None:
                ticket.state = State.LEADS
                self.running += 1
                more.append(ticket)
        for ticket in more:
            self._hand_lead(ticket)

    def _form(self, members: list[Ticket]) -> None:
        """Let those who wait join the leader."""
        leader = members[0]
        handed = leader.handed
        if self._delay_ns and not handed and leader.key is not None:
            self._gather(leader)
        if leader.request.cancelled or leader.start_by_ns:
            leader.remaining_s(time.monotonic_ns(), 0)
        if not self.queue.count or leader.key is None or not self._joins:
            return
        with self._lock:
            rows = self._max_rows
            if handed:
                # Half of those who wait and of those who were just answered and are coming back: were all who wait
                # taken, a batch of one and a batch of all the others would take turns for ever.
                rows = min(rows, (leader.rows + self.queue.rows + self._last_rows + 1) // 2)
            joined, late = self.queue.take(leader.key, rows - leader.rows, time.monotonic_ns())
        members += joined
        for ticket in late:
            ticket.answer.error = late_error()
            self._conclude(ticket)

    def _gather(self, leader: Ticket) -> None:
        """Wait for others, as long as the version's settings say; a full batch and a cancel end it."""
        with self._lock:
            if leader.rows + self.queue.rows >= self._max_rows:
                return
            wake = leader.let_sleep()
            self._gatherer = leader
            leader.request.on_cancel = partial(self._cancel, leader)
        until_ns = leader.began_ns + self._delay_ns
        if leader.start_by_ns:
            until_ns = min(until_ns, leader.start_by_ns)
        if not leader.request.cancelled:
            wake.acquire(timeout=max(0.0, (until_ns - time.monotonic_ns()) / 1e9))
        with self._lock:
            self._gatherer = None
            leader.request.on_cancel = None

    def _end_gathering(self, gatherer: Ticket) -> None:
        self._gatherer = None
        if gatherer.wake is not None:
            gatherer.wake.release()

    def _run(self, members: list[Ticket], session: Session) -> None:
        if len(members) > 1:
            try:
                run_joined(members, session)
                return
            except WrongRowCount as error:
                with self._lock:
                    self._joins = self._joins_well = False
                    self._max_rows, self._delay_ns = 1, 0
                log.warning("%s is not batched any more: %s", self.version.key, error)
            except BaseException as error:  # noqa: BLE001 - each hears of its own when it runs alone
                log.info("a batch of %s failed and runs one by one: %s", self.version.key, error)
            self._part(members)
        run_alone(members[0], session, has_rows=self._has_rows)

    def _part(self, members: list[Ticket]) -> None:
        """Send everybody but the leader back to the head of the queue, to run alone, each led by itself.

        So a failed batch costs one run more for each, on its own caller's thread, and only who is to blame fails.
        """
        others = members[1:]
        del members[1:]
        gone: list[Ticket] = []
        now_ns = time.monotonic_ns()
        with self._lock:
            for ticket in reversed(others):
                ticket.key = None
                ticket.request.on_cancel = partial(self._cancel, ticket)
                ticket.answer.error = ticket.find_reason_to_drop(now_ns)
                if ticket.answer.error is None:
                    self.queue.push_back(ticket)
                else:
                    gone.append(ticket)
        for ticket in gone:
            self._conclude(ticket)

    # Going out

    def _finish(self, members: list[Ticket]) -> Ticket | None:
        """Count, choose who leads next, and answer; a caller that has its answer finds it in the statistics."""
        leader = members[0]
        statistics = self.statistics
        ended_ns = time.monotonic_ns()
        with self._lock:
            rows = 0
            for member in members:
                rows += member.rows
                self._leave(member, ended_ns)
            if leader.answer.error is None:
                statistics.count_run(rows, leader.answer.timings)
            self._last_rows = rows
            following = None
            if self.running <= self._instances:
                following = self.queue.pop_first()
            if following is None:
                self.running -= 1
            else:
                following.state = State.LEADS
                following.handed = True
        for member in members:
            if member is not leader or member.done is not None:
                member.tell()
        return following

    def _conclude(self, ticket: Ticket) -> None:
        """Answer one that never ran: it is out of the queue, and its error is set."""
        with self._lock:
            self._leave(ticket, time.monotonic_ns())
        ticket.tell()

    def _leave(self, ticket: Ticket, now_ns: int) -> None:
        answer = ticket.answer
        answer.timings.total_ns = total_ns = now_ns - ticket.began_ns
        self.statistics.in_flight -= 1
        if ticket.done is None:
            self.share.in_flight -= 1
        if answer.error is None:
            self.statistics.count_success(answer.row_count, answer.timings)
        else:
            self.statistics.count_failure(answer.error, total_ns)

    def _cancel(self, ticket: Ticket) -> None:
        """Hear, on any thread, that nobody waits for a request any more."""
        with self._lock:
            if ticket is self._gatherer:
                self._end_gathering(ticket)
                return
        self._withdraw(ticket, cancelled_error())

    def _withdraw(self, ticket: Ticket, error: Exception) -> bool:
        """Take a request out of the queue and answer it; False where it waits no longer."""
        with self._lock:
            if ticket.state is not State.WAITING:
                return False
            self.queue.remove(ticket)
        ticket.answer.error = error
        self._conclude(ticket)
        return True


def _as_error(error: BaseException) -> Exception:
    if isinstance(error, Exception):
        return error
    return ModelFailed(f"the model ended its run with {type(error).__name__}")


def _queue_full(sentence: str) -> ResourceExhausted:
    return ResourceExhausted(f"Exceeds maximum queue size: {sentence}", reason="QUEUE_FULL")

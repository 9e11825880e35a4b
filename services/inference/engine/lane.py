"""One version's way through the engine: who runs now, who waits, and who runs next.

A request that finds the model idle runs at once. Those that come meanwhile wait in the queue. Whoever ran a batch hands
the lead to the oldest that waits, of the most urgent first, which takes with it what can be joined: every caller runs
its own batch, and nobody serves others twice. There is no batching thread, and nothing is polled.

A caller that blocks lends its own thread to the batch it leads. For one that does not (a stream, a job) a runner leads,
a thread of the engine's; until there is one for it, it waits, and others may go first.
"""

from __future__ import annotations

import logging
import time
from functools import partial

from services.common.errors import ResourceExhausted
from services.common.pools import WAITING
from services.inference.engine.batch import WrongRowCount, run_alone, run_joined
from services.inference.engine.departures import let_out
from services.inference.engine.gathering import Gathering
from services.inference.engine.pace import Pace
from services.inference.engine.requests import State, Ticket, as_error, cancelled_error, late_error, queue_full_error
from services.inference.engine.runners import Runners
from services.inference.engine.signature import SignatureCheck
from services.inference.engine.statistics import VersionStatistics
from services.inference.engine.terms import EngineLimits, ModelShare, Terms
from services.inference.engine.waiting import WaitingQueue
from services.inference.models import ResolvedVersion
from services.inference.runtimes.runtime import Session
from services.inference.sessions.cached_session import Sessions

log = logging.getLogger(__name__)

MOMENT_S = 0.002


class Lane:
    """See above. The version's settings may change while requests are in the lane; its files may not."""

    __slots__ = (
        "_away_rows",
        "_gathering",
        "_instances",
        "_joins_well",
        "_limits",
        "_lock",
        "_pace",
        "_runners",
        "_sessions",
        "_settled",
        "_terms",
        "check",
        "queue",
        "running",
        "share",
        "statistics",
        "version",
    )

    def __init__(
        self,
        version: ResolvedVersion,
        statistics: VersionStatistics,
        share: ModelShare,
        sessions: Sessions,
        limits: EngineLimits,
        runners: Runners,
    ) -> None:
        self.check = SignatureCheck(version.signature)
        self.statistics = statistics
        self.share = share
        self.queue = WaitingQueue()
        self.running = 0
        self._lock = share.lock
        self._sessions = sessions
        self._limits = limits
        self._runners = runners
        self._instances = 1
        self._joins_well = True
        self._away_rows = 0  # answered with the last batch, and not back since
        self._gathering = Gathering(share.lock)
        self._pace = Pace()
        self.adopt(version)

    def adopt(self, version: ResolvedVersion) -> None:
        """Serve by these settings from now on."""
        with self._lock:
            self.version = version
            self._set_terms()

    def _set_terms(self) -> None:
        self._terms = Terms(self.version, self._limits, self.check, joins=self._joins_well)
        self._settled = False
        self.queue.set_levels(self._terms.levels)

    # Coming in

    def admit(self, ticket: Ticket) -> bool:
        """Give a checked request a place; True: it is to lead at once, False: it waits.

        Raises ResourceExhausted(QUEUE_FULL), and Cancelled.
        """
        request, terms = ticket.request, self._terms
        ticket.rows = rows = self.check.row_count(request.inputs)
        if terms.has_rows and rows:  # what no rows mean to a model is its own affair, and no neighbour's
            ticket.key = self.check.join_key(request.inputs, request.outputs)
        if request.timeout_ns or terms.timeout_ns:  # else its deadline, which it came with
            ticket.start_by_ns = terms.start_by_ns(ticket.began_ns, request.deadline_ns, request.timeout_ns)
        displaced: Ticket | None = None
        lends = ticket.done is None
        with self._lock:
            idle = self.running < self._instances and self._gathering.leader is None
            leads = idle and (lends or self._runners.take(self))
            if not leads:
                ticket.level = self._terms.level(request.priority)
                request.on_cancel = partial(self._cancel, ticket)
                if request.cancelled:  # before there was anybody to tell
                    raise cancelled_error()
            if lends and self.share.in_flight >= terms.max_in_flight:
                displaced = self._displace(ticket, lent=True)
            elif not leads and self.queue.count >= terms.max_waiting:
                displaced = self._displace(ticket, lent=False)
            if leads:
                self.running += 1
                ticket.state = State.LEADS
            else:
                self._enqueue(ticket)
                if idle and ticket.start_by_ns:
                    self._runners.expect(ticket.start_by_ns)
            self.statistics.in_flight += 1
            if lends:
                self.share.in_flight += 1
        if displaced is not None:
            displaced.answer.error = queue_full_error("a more urgent request took this one's place")
            self._conclude(displaced)
        return leads

    def wait(self, ticket: Ticket) -> None:
        """Sleep, on a caller's thread, until the request is answered or is to lead; then lead."""
        wake = ticket.wake
        # For a moment's wait no other thread is woken. If it lasts, since the model is being loaded again, one is.
        if not (self._pace.is_quick(ticket.rows) and wake.acquire(timeout=MOMENT_S)):
            with WAITING:
                if not wake.acquire(timeout=ticket.patience_s()):
                    if self._withdraw(ticket, late_error()):
                        return
                    wake.acquire()  # it is in a batch, or was just handed the lead
        if ticket.state is State.LEADS:
            self.lead(ticket)

    def _enqueue(self, ticket: Ticket) -> None:
        ticket.wake.acquire()
        self.queue.push(ticket)
        self._away_rows = max(0, self._away_rows - ticket.rows)
        gatherer = self._gathering.leader
        if gatherer is not None and gatherer.rows + self.queue.rows >= self._terms.max_rows:
            self._gathering.end()

    def _displace(self, ticket: Ticket, *, lent: bool) -> Ticket:
        """Take out the one that has to make room; raises ResourceExhausted(QUEUE_FULL) where none has to."""
        displaced = self.queue.find_displaceable(ticket.level, lent=lent) if self._terms.displaces else None
        if displaced is None and lent:
            raise self._too_many_in_flight()
        if displaced is None:
            raise queue_full_error(f"{self.queue.count} requests for {self.version.model} wait; try again later")
        self.queue.remove(displaced)
        return displaced

    def enter(self, ticket: Ticket) -> None:
        """Let in work that goes beside the queue; it must `leave`. Raises ResourceExhausted(QUEUE_FULL)."""
        with self._lock:
            if self.share.in_flight < self._terms.max_in_flight:
                self.statistics.in_flight += 1
                self.share.in_flight += 1
                return
            refused = self._too_many_in_flight()
        self.refuse(ticket, refused)
        raise refused

    def leave(self, ticket: Ticket) -> None:
        """Let out what was let in, and count it."""
        with self._lock:
            let_out([ticket], self.statistics, self.share)

    def refuse(self, ticket: Ticket, error: Exception) -> None:
        """Count a request that was not let in."""
        answer = ticket.answer
        answer.error = error
        answer.timings.total_ns = time.monotonic_ns() - ticket.began_ns
        with self._lock:
            self.statistics.count_failure(error, answer.timings.total_ns)

    def _too_many_in_flight(self) -> ResourceExhausted:
        in_flight = self.share.in_flight
        return queue_full_error(f"{in_flight} requests for {self.version.model} are in flight; try again later")

    # Leading

    def lead(self, ticket: Ticket) -> None:
        """Run a batch with this ticket in it, answer all of it, and see that the next one runs."""
        following = self.run_batch(ticket)
        if following is not None:
            self.hand_lead(following)

    def hand_lead(self, ticket: Ticket) -> None:
        """Have the chosen one lead, on its caller's thread or on the runner that was taken for it."""
        if ticket.done is not None:
            self._runners.start(self, ticket)
        else:
            ticket.wake.release()

    def run_batch(self, leader: Ticket, *, keeps_runner: bool = False) -> Ticket | None:
        """Run and answer; whatever happens, everybody in the batch hears of it. Returns who leads next.

        `keeps_runner`: this thread is a runner, and free to lead for the next.
        """
        members = [leader]
        try:
            wait_s = self._terms.load_wait_s
            if leader.start_by_ns or leader.request.cancelled:
                wait_s = leader.remaining_s(time.monotonic_ns(), wait_s)
            entry = self._sessions.acquire(self.version, wait_s)
            try:
                if not self._settled:
                    self._settle(entry.session)
                self._form(members)
                rows = leader.rows if len(members) == 1 else sum(member.rows for member in members)
                with self._pace.during(rows):
                    self._run(members, entry.session)
                if len(members) == 1:  # from the first on, or since the batch was parted
                    rows = leader.rows
                self._pace.ran(rows, leader.answer.timings.compute_infer_ns)
            finally:
                self._sessions.release(entry)
        except BaseException as error:  # noqa: BLE001 - whoever asked must hear of it, whatever it is
            for member in members:
                member.answer.error = as_error(error)
        return self._finish(members, keeps_runner=keeps_runner)

    def _settle(self, session: Session) -> None:
        """Learn from the open session how many runs at once become it."""
        wanted = self._terms.instances or getattr(session, "max_parallel_runs", 0) or self._limits.parallel_runs
        with self._lock:
            self._settled = True
            self._instances = wanted
        self.lead_more()

    def lead_more(self) -> None:
        """Let as many of those that wait lead as may run beside the others, and as there are threads for."""
        more: list[Ticket] = []
        with self._lock:
            while self.running < self._instances and self._gathering.leader is None:
                ticket = self._choose(keeps_runner=False)
                if ticket is None:
                    break
                self.running += 1
                more.append(ticket)
        for ticket in more:
            self.hand_lead(ticket)

    def _choose(self, *, keeps_runner: bool) -> Ticket | None:
        """Take out who leads next: the first in the queue that there is a thread for. The lock is held."""
        first = self.queue.first()
        if first is None:
            return None
        if first.done is None or keeps_runner or self._runners.take(self):
            chosen = self.queue.pop_first()
        else:
            chosen = self.queue.pop_lending()
            self._runners.expect(self.queue.due_ns())
        if chosen is not None:
            chosen.state, chosen.handed = State.LEADS, True
        return chosen

    def _form(self, members: list[Ticket]) -> None:
        """Let those who wait join the leader, who may wait for them first."""
        leader, terms = members[0], self._terms
        if not terms.delay_ns or leader.handed or leader.key is None:
            self._join(members, terms)
            return
        self._gather(leader, terms)
        try:
            self._join(members, terms)
        finally:
            self.lead_more()  # of those that came meanwhile and did not join

    def _join(self, members: list[Ticket], terms: Terms) -> None:
        leader = members[0]
        if leader.request.cancelled or leader.start_by_ns:
            leader.remaining_s(time.monotonic_ns(), 0)
        if not self.queue.count or leader.key is None or not terms.joins:
            return
        with self._lock:
            rows = terms.max_rows
            if leader.handed:
                # Half of all that are about: those that wait, and those that were answered and are on their way back.
                # Were all taken that wait, a batch of one and a batch of all the others would take turns for ever.
                rows = min(rows, (leader.rows + self.queue.rows + self._away_rows + 1) // 2)
            joined, late = self.queue.take(leader.key, rows - leader.rows, time.monotonic_ns())
        members += joined
        for ticket in late:
            ticket.answer.error = late_error()
            self._conclude(ticket)

    def _gather(self, leader: Ticket, terms: Terms) -> None:
        """Wait for others, as long as the version's settings say; a full batch and a cancel end it."""
        with self._lock:
            if self._gathering.leader is not None or leader.rows + self.queue.rows >= terms.max_rows:
                return
            self._gathering.begin(leader, partial(self._cancel, leader))
        self._gathering.wait(leader, leader.began_ns + terms.delay_ns)

    def _run(self, members: list[Ticket], session: Session) -> None:
        if len(members) > 1:
            try:
                run_joined(members, session)
                return
            except WrongRowCount as error:
                with self._lock:
                    self._joins_well = False
                    self._set_terms()
                log.warning("%s is not batched any more: %s", self.version.key, error)
            except BaseException as error:  # noqa: BLE001 - each hears of its own when it runs alone
                log.info("a batch of %s failed and runs one by one: %s", self.version.key, error)
            self._part(members)
        run_alone(members[0], session, has_rows=self._terms.has_rows)

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
        self.lead_more()

    def _finish(self, members: list[Ticket], *, keeps_runner: bool) -> Ticket | None:
        """Count, choose who leads next, and answer; a caller that has its answer finds it in the statistics."""
        leader = members[0]
        with self._lock:
            self._away_rows = let_out(members, self.statistics, self.share)
            following = None
            if self.queue.count and self.running <= self._instances:
                following = self._choose(keeps_runner=keeps_runner)
            if following is None:
                self.running -= 1
        for member in members:
            if member is not leader or member.done is not None:
                member.tell()
        return following

    def _conclude(self, ticket: Ticket) -> None:
        """Answer one that never ran: it is out of the queue, and its error is set."""
        with self._lock:
            let_out([ticket], self.statistics, self.share)
        ticket.tell()

    def drop_late(self) -> int:
        """Answer those that are too late to run; says when the next will be, on the monotonic clock, or NEVER_NS."""
        with self._lock:
            late = self.queue.take_late(time.monotonic_ns())
            due_ns = self.queue.due_ns()
        for ticket in late:
            ticket.answer.error = late_error()
            self._conclude(ticket)
        return due_ns

    def _cancel(self, ticket: Ticket) -> None:
        """Hear, on any thread, that nobody waits for a request any more."""
        with self._lock:
            if ticket is self._gathering.leader:
                self._gathering.end()
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

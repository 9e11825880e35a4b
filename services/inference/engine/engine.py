"""The engine: whole tensors in, whole tensors out, and one answer for each request whatever happens.

    resolve → check inputs → wait for its turn → session → run → answer

A caller that waits calls `infer` and lends its thread; one that must not (a stream, a job) calls `submit`. Either way
its request may run together with others: see `lane`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from services.common.counters import Counters
from services.common.errors import Cancelled
from services.inference.engine.lane import Lane
from services.inference.engine.requests import InferenceAnswer, InferenceRequest, Ticket
from services.inference.engine.runners import Runners
from services.inference.engine.statistics import StatisticsBook, VersionStatistics
from services.inference.engine.terms import EngineLimits, ModelShare
from services.inference.models import ResolvedVersion
from services.inference.runtimes.runtime import Session
from services.inference.sessions.cached_session import Sessions

__all__ = ["Engine", "EngineLimits", "InferenceAnswer", "InferenceRequest", "QueueStatus", "Resolver", "Tracked"]

log = logging.getLogger(__name__)


class Resolver(Protocol):
    """Knows which version a name means right now."""

    def resolve(self, model: str, version: str) -> ResolvedVersion:
        """Find the version, where '' means the default one; raises NotFound. Called for every request."""
        ...


class Tracked:
    """Work that `Engine.track` holds a session for; whoever does it may say how many rows it was."""

    __slots__ = ("row_count", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.row_count = 1


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What waits for a version now: requests, their rows, how long the oldest has waited; and how many runs go on."""

    version: ResolvedVersion
    waiting: int
    waiting_rows: int
    oldest_s: float
    running: int


class Engine:
    """Runs requests; how many at once and how long they may wait is settled by each version's serving settings."""

    def __init__(
        self,
        resolver: Resolver,
        sessions: Sessions,
        limits: EngineLimits | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._book = StatisticsBook(counters or Counters())
        self._resolver = resolver
        self._sessions = sessions
        self._limits = limits or EngineLimits()
        self._lanes: dict[str, Lane] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._models: dict[str, ModelShare] = {}
        self._adding = threading.Lock()
        self._runners = Runners(self._limits.runners)

    def infer(self, request: InferenceRequest) -> InferenceAnswer:
        """Run the request, alone or with others, on this thread or on one of theirs, and wait for the answer.

        Never raises what the request caused: `answer.error` is a DomainError, namely what the resolver and the session
        cache raise, InvalidArgument from the signature check, ResourceExhausted(QUEUE_FULL), DeadlineExceeded,
        Cancelled, ModelFailed; anything else is a defect, handed on for the front door to log.
        """
        ticket = Ticket(request, None, time.monotonic_ns())
        lane, leads = self._place(ticket)
        if lane is not None:
            if leads:
                lane.lead(ticket)
            else:
                lane.wait(ticket)
        return ticket.answer

    def submit(self, request: InferenceRequest, done: Callable[[InferenceAnswer], None]) -> None:
        """Have the request run without waiting for it; `done` is called exactly once with what `infer` would return.

        Here, if it is refused at once; else on whichever thread has the answer. It must be quick and must not raise.
        Such a request takes none of its model's share of callers' threads: the length of the queue alone bounds it.
        Where it expires while it waits, it hears so when the next batch is formed, or where it waits for a thread of
        the engine's, at once; a cancelled one hears at once.
        """
        ticket = Ticket(request, done, time.monotonic_ns())
        lane, leads = self._place(ticket)
        if lane is None:
            ticket.tell()
        elif leads:
            lane.hand_lead(ticket)

    @contextmanager
    def track(self, version: ResolvedVersion, *, deadline_ns: int = 0) -> Iterator[Tracked]:
        """Hold a version's session for work that is not one run, such as a stream of tokens.

        The work takes a place in flight and is counted as one request once the block ends: as a success, or as what
        it raised. Leaving a generator half-way (its `close`) counts as cancelled. Within the block only the model's
        own time should pass: what waits for a slow reader holds the place and the session as well.

        Raises ResourceExhausted(QUEUE_FULL) and what the session cache raises; a deadline on the monotonic clock
        bounds the wait for the load alone.
        """
        began_ns = time.monotonic_ns()
        ticket = Ticket(InferenceRequest(version.model, "", {}, deadline_ns=deadline_ns), None, began_ns)
        answer = ticket.answer
        lane = self._lane_of(version)
        lane.enter(ticket)
        try:
            entry = self._sessions.acquire(version, ticket.remaining_s(began_ns, self._limits.load_wait_s))
            try:
                run_ns = time.monotonic_ns()
                answer.timings.queue_ns = run_ns - began_ns
                tracked = Tracked(entry.session)
                yield tracked
                answer.row_count = tracked.row_count
                answer.timings.compute_infer_ns = time.monotonic_ns() - run_ns
            finally:
                self._sessions.release(entry)
        except BaseException as error:
            left = Cancelled("the caller went away; the work was ended")  # a generator's close
            answer.error = error if isinstance(error, Exception) else left
            raise
        finally:
            lane.leave(ticket)

    def queues(self) -> list[QueueStatus]:
        """Say of every version that was ever asked for what waits for it now."""
        found = []
        for lane in list(self._lanes.values()):
            with lane.share.lock:
                oldest_ns = lane.queue.oldest_ns()
                oldest_s = 0.0 if oldest_ns is None else (time.monotonic_ns() - oldest_ns) / 1e9
                found.append(QueueStatus(lane.version, lane.queue.count, lane.queue.rows, oldest_s, lane.running))
        return found

    def statistics(self) -> list[VersionStatistics]:
        """Copy the statistics of every version that was ever asked for, in the order of their first requests."""
        copies = []
        for lane in list(self._lanes.values()):
            with lane.share.lock:
                copies.append(lane.statistics.snapshot())
        return copies

    def service_statistics(self) -> list[VersionStatistics]:
        """Give what all workers of the service have counted, the dead ones too; alone, what is counted here."""
        return self._book.of_all_workers() if self._book.shared else self.statistics()

    def count_look(self, version: ResolvedVersion, *, hit: bool, duration_ns: int) -> None:
        """Count a look into the response cache; one that found something answered its request."""
        lane = self._lane_of(version)
        with lane.share.lock:
            lane.statistics.count_look(hit, duration_ns)

    def _place(self, ticket: Ticket) -> tuple[Lane | None, bool]:
        """Resolve and check the request, and give it a place in its lane, and say whether it leads.

        The check comes first: a bad request loads no model and joins nobody. No lane: it was refused.
        """
        request, answer = ticket.request, ticket.answer
        lane: Lane | None = None
        try:
            version = request.resolved or self._resolver.resolve(request.model, request.version)
            answer.version = version
            lane = self._lane_of(version)
            check_ns = time.monotonic_ns()
            lane.check.check(request.inputs)
            if request.outputs:
                lane.check.check_outputs(request.outputs)
            answer.timings.compute_input_ns = time.monotonic_ns() - check_ns
            return lane, lane.admit(ticket)
        except Exception as error:  # noqa: BLE001 - whoever asked must hear of it, whatever it is
            answer.error = error
            if lane is not None:
                lane.refuse(ticket, error)
            return None, False

    def _lane_of(self, version: ResolvedVersion) -> Lane:
        lane = self._lanes.get(version.key)
        if lane is None:
            return self._add_lane(version)
        if lane.version is not version:
            lane.adopt(version)
        return lane

    def _add_lane(self, version: ResolvedVersion) -> Lane:
        with self._adding:
            share = self._models.setdefault(version.model, ModelShare())
            new = Lane(version, self._book.open(version), share, self._sessions, self._limits, self._runners)
            lane = self._lanes.setdefault(version.key, new)
            before = self._keys.get((version.model, version.version))
            if before is not None and before != version.key:
                # Registered anew with other bytes: whoever counts by name must meet one of the two only.
                self._lanes.pop(before, None)
            self._keys[version.model, version.version] = version.key
            return lane

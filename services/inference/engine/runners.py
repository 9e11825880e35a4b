"""Threads that lead for requests which lend none of their own, and the lanes that wait for one.

A request waits in its lane's queue until a runner is there for it, so that others may lead the lane meanwhile, and so
that it is cancelled as any other that waits. No model has more than half of the runners: one whose streams are slow
does not stop those of the others.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, Protocol

from services.inference.engine.requests import Ticket
from services.inference.engine.terms import ModelShare

NEVER_NS: Final = 2**63 - 1
RUNNER_BATCHES = 64
"""A runner leads so many batches of one version in a row before another version may have its thread."""


class WaitingLane(Protocol):
    """What runners know of a lane."""

    share: ModelShare

    def run_batch(self, leader: Ticket, *, keeps_runner: bool) -> Ticket | None:
        """Run a batch with this ticket in it; returns who leads next."""
        ...

    def hand_lead(self, ticket: Ticket) -> None:
        """Have that one lead."""
        ...

    def lead_more(self) -> None:
        """Have those lead that wait for a runner, as far as there are runners."""
        ...

    def drop_late(self) -> int:
        """Answer those that are too late; says when the next one will be, on the monotonic clock, or NEVER_NS."""
        ...


class Runners:
    """So many threads, each started when it is first needed. Lock order: a lane's, then this one's."""

    def __init__(self, count: int) -> None:
        self._per_model = max(1, count // 2)
        self._free = count
        self._executor: Executor = ThreadPoolExecutor(count, thread_name_prefix="runner")
        self._news = threading.Condition(threading.Lock())
        self._lanes: dict[WaitingLane, None] = {}  # those that wait for a runner, in the order in which they came
        self._look_ns = NEVER_NS  # when one that waits will be too late, or may be
        self._watching = False

    def take(self, lane: WaitingLane) -> bool:
        """Take a runner for a lane whose lock the caller holds; False: the lane will be called when there is one."""
        share = lane.share
        with self._news:
            if self._free and share.runners < self._per_model:
                self._free -= 1
                share.runners += 1
                return True
            self._lanes[lane] = None
            return False

    def expect(self, due_ns: int) -> None:
        """Have the lanes that wait for a runner look for late requests at this time, on the monotonic clock."""
        with self._news:
            self._look_at(due_ns)

    def start(self, lane: WaitingLane, ticket: Ticket) -> None:
        """Have the runner that was taken lead."""
        self._executor.submit(self._lead, lane, ticket)

    def _lead(self, lane: WaitingLane, ticket: Ticket) -> None:
        """Lead, and go on with those that lend no thread either, until others may have the runner."""
        try:
            for more in range(RUNNER_BATCHES - 1, -1, -1):
                following = lane.run_batch(ticket, keeps_runner=more > 0)
                if following is None:
                    return
                if following.done is None or not more:
                    lane.hand_lead(following)
                    return
                ticket = following
        finally:
            self._give_back(lane.share)

    def _give_back(self, share: ModelShare) -> None:
        """Hand a runner back, and call the lanes that wait for one."""
        with share.lock:
            share.runners -= 1
        with self._news:
            self._free += 1
            waiting = tuple(self._lanes)
        for lane in waiting:
            if not self._free:
                break
            with self._news:
                self._lanes.pop(lane, None)  # if it is in vain, it comes back to the end
            lane.lead_more()

    def _look_at(self, due_ns: int) -> None:
        if due_ns < self._look_ns:
            self._look_ns = due_ns
            if self._watching:
                self._news.notify()
            else:
                self._watching = True
                threading.Thread(target=self._watch, name="runner-watch", daemon=True).start()

    def _watch(self) -> None:
        """Tell those that wait for a runner when they are too late; ends when none may be."""
        while True:
            with self._news:
                while (left_s := (self._look_ns - time.monotonic_ns()) / 1e9) > 0:
                    if self._look_ns == NEVER_NS:
                        self._watching = False
                        return
                    self._news.wait(min(left_s, threading.TIMEOUT_MAX))
                self._look_ns = NEVER_NS
                lanes = tuple(self._lanes)
            due_ns = min((lane.drop_late() for lane in lanes), default=NEVER_NS)
            self.expect(due_ns)

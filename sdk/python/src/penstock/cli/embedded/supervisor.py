"""Starts children in stages, keeps them running, and stops them in reverse. It prints nothing: it tells events."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.cli.embedded.child import Child, ChildSpec, RestartPolicy
from penstock.cli.embedded.errors import EmbeddedError, StopRequestedError

LOOK_INTERVAL_S = 0.1
START_LOOK_INTERVAL_S = 0.02


class EventKind(enum.Enum):
    """What happened to a child."""

    STARTED = "started"
    HEALTHY = "healthy"
    DIED = "died"
    STOPPING = "stopping"
    STOPPED = "stopped"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to one child."""

    kind: EventKind
    name: str
    pid: int | None = None
    exit_status: int | None = None
    """For DIED: the exit status, or minus the signal."""


OnEvent = Callable[[Event], None]


class Supervisor:
    """Runs `stages` of children: those of one start together, once all of the stage before are healthy.

    One thread calls `start`, `wait` and `stop`, and lives until the end: the kernel ends the children with
    it. `request_stop` may come from a signal handler or another thread.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[ChildSpec]],
        *,
        log_folder: Path,
        on_event: OnEvent = lambda _: None,
        policy: RestartPolicy | None = None,
    ) -> None:
        policy = policy or RestartPolicy()
        self._stages = [[Child(spec, log_folder / f"{spec.name}.log", policy) for spec in stage] for stage in stages]
        self._on_event = on_event
        self._begun: list[Child] = []
        self._stops_requested = 0

    def start(self, *, deadline_s: float) -> None:
        """Start everything and return when all are healthy.

        Raises EmbeddedError when a child keeps dying or the deadline passes, StopRequestedError when asked to
        stop meanwhile. What was started then still runs: `stop` ends it.
        """
        deadline = time.monotonic() + deadline_s
        for stage in self._stages:
            self._begun += stage
            while not all(child.healthy for child in stage):
                self._tend()
                for child in stage:
                    self._probe(child)
                if self._stops_requested:
                    raise StopRequestedError("Asked to stop while starting.")
                if time.monotonic() > deadline:
                    raise EmbeddedError(self._lateness(deadline_s))
                time.sleep(START_LOOK_INTERVAL_S)

    def wait(self) -> None:
        """Keep the children running until asked to stop; raises EmbeddedError when one keeps dying."""
        while not self._stops_requested:
            self._tend()
            for child in self._begun:
                if not child.healthy:
                    self._probe(child)
            time.sleep(LOOK_INTERVAL_S)

    def request_stop(self) -> None:
        """Make `start` or `wait` end; asked again while stopping, kill what still runs. Safe in signal handlers."""
        self._stops_requested += 1

    def stop(self) -> None:
        """Stop the children one after another, the last started first, and kill what outstays its grace."""
        already_requested = self._stops_requested
        while self._begun:
            child = self._begun[-1]
            if child.pid is not None:
                self._stop_child(child, hurried=lambda: self._stops_requested > max(1, already_requested))
            self._begun.pop()

    def _stop_child(self, child: Child, *, hurried: Callable[[], bool]) -> None:
        pid = child.pid
        self._on_event(Event(EventKind.STOPPING, child.spec.name, pid))
        child.ask_to_stop()
        deadline = time.monotonic() + child.spec.grace_s
        while not child.has_stopped():
            if hurried() or time.monotonic() > deadline:
                child.kill()
                self._on_event(Event(EventKind.KILLED, child.spec.name, pid))
                return
            time.sleep(START_LOOK_INTERVAL_S)
        self._on_event(Event(EventKind.STOPPED, child.spec.name, pid))

    def _tend(self) -> None:
        for child in self._begun:
            self._notice_death(child)
            if child.is_due:
                child.start()
                self._on_event(Event(EventKind.STARTED, child.spec.name, child.pid))
            child.bound_log()

    def _notice_death(self, child: Child) -> None:
        pid = child.pid
        status = child.reap()
        if status is None:
            return
        self._on_event(Event(EventKind.DIED, child.spec.name, pid, status))
        if child.has_given_up:
            raise EmbeddedError(
                f"{child.spec.name} keeps dying (last exit status {status}); its log {child.log} ends with:\n"
                f"{child.last_words()}"
            )

    def _probe(self, child: Child) -> None:
        if not child.healthy and child.pid is not None and child.spec.is_healthy():
            child.healthy = True
            self._on_event(Event(EventKind.HEALTHY, child.spec.name, child.pid))

    def _lateness(self, deadline_s: float) -> str:
        late = [child for child in self._begun if not child.healthy]
        words = "\n".join(f"{child.log} ends with:\n{child.last_words()}" for child in late)
        return f"Not healthy after {deadline_s:g} s: {', '.join(child.spec.name for child in late)}.\n{words}"

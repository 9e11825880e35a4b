"""The supervisor's children: starting one, and what is known of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.inference.workers.place import VARIABLE, Place
from services.inference.workers.wires import QueuedWire

WORKER = "services.inference.workers.worker"
FOLLOWER = "services.inference.workers.follower"
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 10.0
SETTLED_S = 10.0
"""A child that lived for so long has not died at once."""


class Child:
    """A process that was started, and the wire to it."""

    def __init__(self, process: subprocess.Popen[bytes], wire: QueuedWire, now: float) -> None:
        self.process = process
        self.wire = wire
        self.began = now
        self.heard = now
        """When it last said anything."""
        self.asked = 0.0
        self.joined = False
        self.ready = False
        self.has_been_ready = False
        self.ending_since: float | None = None
        self.failure: tuple[str, str] | None = None
        """Why it cannot begin: a sentence, and the reason."""

    def close(self) -> None:
        """Let go of the wire."""
        self.wire.socket.close()


@dataclass(slots=True)
class Slot:
    """A place that one child after the other fills."""

    name: str
    module: str
    place: Place
    child: Child | None = None
    due: float = 0.0
    """When the next child is to be started."""
    early_deaths: int = 0
    deaths: int = 0
    failed_starts: int = 0
    """In a row, for want of memory, processes or descriptors."""

    def start(self, arguments: Sequence[str], now: float) -> Child:
        """Start a child, by exec. The kernel ties its life to the thread that calls this.

        Raises OSError where the machine has nothing left for it.
        """
        ours, theirs = socket.socketpair()
        place = replace(self.place, wire=theirs.fileno(), parent=os.getpid())
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", self.module, *arguments],
                env={**os.environ, VARIABLE: place.to_variable()},
                pass_fds=(theirs.fileno(), *place.counters),
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.failed_starts = 0
        self.child = Child(process, QueuedWire(ours), now)
        return self.child

    def bury(self, now: float) -> None:
        """Note that the child is dead, and when the next is due: at once, unless they die at once."""
        if self.child is None:
            return
        self.child.close()
        settled = self.child.has_been_ready and now - self.child.began >= SETTLED_S
        self.early_deaths = 0 if settled else self.early_deaths + 1
        self.deaths += 1
        self.child, self.due = None, now + (0.0 if settled else _pause_s(self.early_deaths))

    def put_off(self, now: float) -> None:
        """Note that no child could be started, and when to try again."""
        self.failed_starts += 1
        self.due = now + _pause_s(self.failed_starts)


def _pause_s(failures: int) -> float:
    """Say how long to wait after so many failures in a row, at least one."""
    return float(min(FIRST_BACKOFF_S * 2 ** min(failures - 1, 10), MAX_BACKOFF_S))

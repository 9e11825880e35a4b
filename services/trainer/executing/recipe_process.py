"""A run's process: started, listened to, and ended with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from services.common.children.child import start_child
from services.trainer.faults import ExecutorUnavailable
from services.trainer.recipes.child import Settings
from services.trainer.recipes.confinement import Confinement

_CHILD: Final = "services.trainer.recipes.child"
_GONE_S: Final = 30.0
_LOOK_S: Final = 0.01


class RecipeProcess:
    """The group of processes of one run. `log`, `events` and `life` are to be read: descriptors that never block.

    `life` ends when the guard, the group's leader, does.
    """

    def __init__(self, folder: Path, environment: dict[str, str], confinement: Confinement, *, require: bool) -> None:
        """Start it; with `require` it runs nothing where its sandbox is not whole.

        Raises ExecutorUnavailable where the machine has nothing left for it.
        """
        self._lock = threading.Lock()
        self._reaped = False
        self._life, theirs = socket.socketpair()
        self.log, log = os.pipe()
        self.events, events = os.pipe()
        acks, self._acks = os.pipe()
        settings = Settings(events, acks, theirs.fileno(), **asdict(confinement), require_sandbox=require)
        try:
            self._process = start_child(
                _CHILD,
                settings.to_json(),
                folder,
                stdout=log,
                stderr=log,
                environment=environment,
                descriptors=(events, acks, theirs.fileno()),
            )
        except OSError as error:
            self._close()
            raise ExecutorUnavailable(f"no process can be started for the run: {error.strerror}") from error
        finally:
            theirs.close()
            for descriptor in (log, events, acks):
                os.close(descriptor)
        for descriptor in (self.log, self.events, self.life):
            os.set_blocking(descriptor, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        self._close()

    @property
    def life(self) -> int:
        """Ends when the guard does."""
        return self._life.fileno()

    @property
    def group(self) -> int:
        """The group's number."""
        return self._process.pid

    def acknowledge(self) -> None:
        """Let the recipe go on: its checkpoint is kept."""
        with contextlib.suppress(BrokenPipeError):  # it has ended meanwhile, which is heard elsewhere
            os.write(self._acks, b"\n")

    def kill(self) -> None:
        """End the whole group at once; from any thread, as often as one likes."""
        with self._lock:
            # Before the leader is reaped, so that the number is still its own.
            if not self._reaped:
                with contextlib.suppress(PermissionError, ProcessLookupError):  # a group that has ended
                    os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> int:
        """End the group, wait until nothing of it runs, and give the exit code; below 0 the signal that ended it."""
        self.kill()
        with self._lock:
            self._await_the_others()
            self._reaped = True
            return self._process.wait()

    def members(self) -> list[psutil.Process]:
        """The group's processes, the guard among them."""
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                if os.getpgid(pid) == self._process.pid:
                    found.append(psutil.Process(pid))
        return found

    def _await_the_others(self) -> None:
        """Wait for the members that are not ours to reap: they were killed, and are gone in a moment."""
        until = time.monotonic() + _GONE_S
        while time.monotonic() < until and any(map(_runs, self.members())):
            time.sleep(_LOOK_S)

    def _close(self) -> None:
        self._life.close()
        for descriptor in (self.log, self.events, self._acks):
            os.close(descriptor)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

"""One supervised process: how it is started, stopped, and how it is found healthy."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.cli.embedded import privileges

LOG_LIMIT_BYTES = 16 * 1024 * 1024
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run and how to tell that it works. Its whole process group ends with it."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """The whole environment; nothing is inherited."""
    is_healthy: Callable[[], bool]
    """Asked again and again while starting; must answer within a second or two."""
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals | None = signal.SIGKILL
    """What the kernel sends it when the supervisor dies; None when `command` sees to that itself."""
    grace_s: float = 25.0
    """How long it may take to stop before it is killed."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a child that died starts again, and when that is given up."""

    first_delay_s: float = 0.25
    max_delay_s: float = 10.0
    max_deaths: int = 5
    window_s: float = 60.0
    """Deaths longer ago than this are forgiven."""


class Child:
    """A process that is started again when it dies, within its policy. Not for use from several threads.

    The kernel ends the process when the thread that started it ends: one thread does all, and lives on.
    """

    def __init__(self, spec: ChildSpec, log: Path, policy: RestartPolicy) -> None:
        self.spec = spec
        self.log = log
        self.healthy = False
        self._policy = policy
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths: deque[float] = deque(maxlen=policy.max_deaths)
        self._start_at = 0.0

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.pid if self._process else None

    @property
    def is_due(self) -> bool:
        """Whether it does not run, and its pause is over."""
        return self._process is None and time.monotonic() >= self._start_at

    @property
    def has_given_up(self) -> bool:
        """Whether it died too often, too fast."""
        deaths = self._deaths
        return len(deaths) == self._policy.max_deaths and deaths[-1] - deaths[0] <= self._policy.window_s

    def start(self) -> None:
        """Start the process, in a session of its own: a Ctrl-C at the terminal is for the supervisor alone."""
        dying = privileges.dying_with_parent(self.spec.death_signal) if self.spec.death_signal else ()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*dying, *self.spec.command],
                env=dict(self.spec.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def reap(self) -> int | None:
        """Notice that the process died: returns its exit status once, and sets when it may start again."""
        if self._process is None or (status := self._process.poll()) is None:
            return None
        self._forget()
        now = time.monotonic()
        self._deaths.append(now)
        recent = sum(now - death <= self._policy.window_s for death in self._deaths)
        self._start_at = now + min(self._policy.first_delay_s * 2 ** (recent - 1), self._policy.max_delay_s)
        return status

    def ask_to_stop(self) -> None:
        """Send the stop signal; `has_stopped` says when it has worked."""
        if self._process is not None:
            self._process.send_signal(self.spec.stop_signal)

    def has_stopped(self) -> bool:
        """Say whether the process is gone; what it left of its group goes with it."""
        if self._process is not None and self._process.poll() is not None:
            self._forget()
        return self._process is None

    def kill(self) -> None:
        """End the process and its group at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()

    def bound_log(self) -> None:
        """Keep one older log beside the present one. The process goes on appending to the file it has."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
            older = self.log.with_suffix(".log.1")
            try:
                shutil.copyfile(self.log, older)
            except OSError:  # the disk is full: room matters more than old lines
                older.unlink(missing_ok=True)
            os.truncate(self.log, 0)

    def last_words(self) -> str:
        """Read the last lines of the log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])

    def _forget(self) -> None:
        """Let go of a process that has ended, and kill what it started and left running."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # usually nothing of the group is left
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None
        self.healthy = False

"""Ends runs that hang, so that a model which never answers keeps neither its caller nor a thread for ever."""

from __future__ import annotations

import logging
import threading

from services.inference.sessions.caches import SessionCaches

log = logging.getLogger(__name__)


class RunWatchdog:
    """Looks four times in `run_limit_s` and ends each run that has gone on for longer; its caller hears ModelFailed.

    A run may not heed that, for example in the midst of one endless operation. `stuck` is how many are still going on
    after twice the limit, and a look after they were told to end: nothing within this process ends those, so whoever
    watches over the process replaces it.
    """

    def __init__(self, sessions: SessionCaches, *, run_limit_s: float) -> None:
        self.terminated = 0
        self.stuck = 0
        self._late = 0
        self._sessions = sessions
        self._run_limit_s = run_limit_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="run-watchdog", daemon=True)

    def open(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._run_limit_s / 4):
            late = self._sessions.terminate_runs(longer_than_s=self._run_limit_s)
            if late > self._late:
                self.terminated += late - self._late
                log.warning("%d runs went on for over %g s and were ended", late - self._late, self._run_limit_s)
            # A process that was stopped for a while finds runs of any age; they had no time to heed it yet.
            stuck = min(self._late, self._sessions.terminate_runs(longer_than_s=2 * self._run_limit_s))
            if stuck > self.stuck:
                log.error("%d runs go on although they were ended; this process should be replaced", stuck)
            self._late, self.stuck = late, stuck

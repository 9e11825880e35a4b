"""Keeping the days: those to come are made ready, those past their retention are dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from services.common.errors import DomainError
from services.monitoring.models import Retention
from services.monitoring.store.days import Days

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
GRACE = timedelta(hours=1)
"""An event that was just young enough is stored before its day goes."""


class DayKeeper:
    """A thread that looks at the days now and then. Other days are made when an event of theirs comes."""

    def __init__(self, days: Days, retention: Retention, clock: Clock, *, interval_s: float) -> None:
        self._days = days
        self._retention = retention
        self._clock = clock
        self._interval_s = interval_s
        self._stopping = threading.Event()

    def open(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="days", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, when it is through with what it does."""
        self._stopping.set()
        self._thread.join()

    def keep(self) -> None:
        """Make today and tomorrow ready, and drop what is past its retention."""
        now = self._clock()
        self._days.ensure((now.date(), (now + timedelta(days=1)).date()))
        for name in self._days.drop_before(self._retention.first_day(now - GRACE)):
            _log.info("day dropped", partition=name)

    def _run(self) -> None:
        while True:
            try:
                self.keep()
            except DomainError as error:
                _log.warning("days not kept, trying again", reason=error.reason, message=error.message)
            if self._stopping.wait(self._interval_s):
                return

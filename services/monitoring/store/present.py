"""The time as the database tells it, so that every replica judges events and feedback by the same clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from services.common.postgres import Database

_READ = "SELECT clock_timestamp() AS time"
REREAD_S = 5.0
"""So soon a clock of the database that was set right is followed."""
# Where the system tells it, time that the machine slept counts as well.
_ELAPSING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class DatabaseClock:
    """Tells the database's time. It is read every few seconds; in between, what has passed since is added.

    The process's own time of day has no part in it: a replica whose clock is wrong refuses nothing that is good.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self._reading: tuple[datetime, float] | None = None

    def __call__(self) -> datetime:
        """Tell the time, in UTC.

        Raises:
            Unavailable: it is to be read anew, and the database can't be reached.
        """
        reading = self._reading
        if reading is None or _elapsed_s(reading) > REREAD_S:
            # Of threads that come at once each may read: that costs less than all of them waiting for one.
            reading = self._reading = self._read()
        return reading[0] + timedelta(seconds=_elapsed_s(reading))

    def _read(self) -> tuple[datetime, float]:
        with self._db.transaction() as connection:
            row = connection.execute(_READ).fetchone()
            read_s = time.clock_gettime(_ELAPSING)
        if row is None:
            raise AssertionError("a SELECT without FROM has one row")
        return row["time"].astimezone(UTC), read_s


def _elapsed_s(reading: tuple[datetime, float]) -> float:
    return time.clock_gettime(_ELAPSING) - reading[1]

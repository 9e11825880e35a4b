"""How long what is over is kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from services.monitoring.alerts.store.transaction import AlertStore
from services.monitoring.chores import Turn

Clock = Callable[[], datetime]
REQUESTS_KEPT = timedelta(days=7)
_AT_ONCE = 1_000


class Keeping:
    """The chore that deletes alerts, silences and changes of rules past their time; open ones stay, however old."""

    def __init__(self, store: AlertStore, clock: Clock, *, kept: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._kept = kept

    def take(self, turn: Turn) -> None:
        """Delete what is past its time, a thousand alerts a transaction."""
        now = self._clock()
        with self._store.write() as tables:
            tables.silences.expire(now - self._kept)
            tables.changes.expire(now - self._kept)
            tables.requests.expire(now - REQUESTS_KEPT)
        while turn.renew():
            with self._store.write() as tables:
                if tables.alerts.expire(now - self._kept, limit=_AT_ONCE) < _AT_ONCE:
                    return

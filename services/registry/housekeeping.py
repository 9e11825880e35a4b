"""What has to be done now and then: forget old changes and old requests, and count."""

from __future__ import annotations

import threading

import structlog
from prometheus_client import Gauge

from services.common.errors import DomainError
from services.registry.store import Store

_log = structlog.get_logger(__name__)


class Housekeeping:
    """Tidies up once an interval. Every registry may do it; doing it twice does no harm."""

    def __init__(self, store: Store, *, kept_revisions: int, interval_s: float, versions: Gauge) -> None:
        self._store = store
        self._kept_revisions = kept_revisions
        self._interval_s = interval_s
        self._versions = versions
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def open(self) -> None:
        """Start; the first round is at once."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stopping.set()
        self._thread.join()

    def tidy(self) -> None:
        """Do one round."""
        with self._store.write() as tables:
            tables.requests.expire()
            counts = tables.versions.count_by_state()
            # Last: it locks the revisions' row, for which everyone who writes would wait.
            tables.changes.compact(self._kept_revisions)
        for state in ("VALIDATING", "READY", "FAILED"):
            self._versions.labels(state=state.lower()).set(counts.get(state, 0))

    def _run(self) -> None:
        while True:
            try:
                self.tidy()
            except DomainError as error:
                _log.warning("housekeeping put off", reason=error.reason, message=error.message)
            if self._stopping.wait(self._interval_s):
                return

"""What has to be done now and then: forget old changes and old requests, count, and collect garbage."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import structlog
from prometheus_client import Gauge

from services.common.errors import DomainError
from services.registry.garbage import Garbage
from services.registry.store import Store

_log = structlog.get_logger(__name__)
CLOSE_WAIT_S = 5.0
MAX_FIRST_ROUND_S = 300.0


class Housekeeping:
    """Tidies up and collects garbage, each once an interval. Every registry may do it; twice does no harm."""

    def __init__(
        self,
        store: Store,
        garbage: Garbage,
        *,
        kept_revisions: int,
        interval_s: float,
        garbage_interval_s: float,
        versions: Gauge,
    ) -> None:
        self._store = store
        self._garbage = garbage
        self._kept_revisions = kept_revisions
        self._versions = versions
        self._stopping = threading.Event()
        # The first round comes soon, so that a registry that never runs for long collects too, and not everyone's at
        # once.
        first_s = random.uniform(0, min(garbage_interval_s, MAX_FIRST_ROUND_S))  # noqa: S311 - spread, not secrecy
        # Daemons: a blob store that does not answer must not hold up the end of the process.
        self._threads = [
            threading.Thread(target=self._repeat, args=(self.tidy, 0.0, interval_s), name="housekeeping", daemon=True),
            threading.Thread(
                target=self._repeat, args=(self.collect, first_s, garbage_interval_s), name="garbage", daemon=True
            ),
        ]

    def open(self) -> None:
        """Start; the first round of tidying is at once."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop. A round of garbage collection that does not end soon is left as it stands; the next one goes on."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(CLOSE_WAIT_S)

    def tidy(self) -> None:
        """Forget old changes and old requests, and count the versions."""
        with self._store.write() as tables:
            tables.requests.expire()
            counts = tables.versions.count_by_state()
            # Last: it locks the revisions' row, for which everyone who writes would wait.
            tables.changes.compact(self._kept_revisions)
        for state in ("VALIDATING", "READY", "FAILED"):
            self._versions.labels(state=state.lower()).set(counts.get(state, 0))

    def collect(self) -> None:
        """Do one round of garbage collection."""
        report = self._garbage.collect()
        _log.info(
            "garbage collected",
            purged_versions=report.purged_versions,
            purged_models=report.purged_models,
            expired_uploads=report.expired_uploads,
            **{fate.lower(): count for fate, count in report.counts.items()},
        )

    def _repeat(self, do: Callable[[], None], first_s: float, interval_s: float) -> None:
        wait_s = first_s
        while not self._stopping.wait(wait_s):
            wait_s = interval_s
            try:
                do()
            except DomainError as error:
                _log.warning("housekeeping put off", reason=error.reason, message=error.message)
            except Exception:  # noqa: BLE001 - one round that breaks must not be the last one
                _log.exception("housekeeping broke")

"""What has to be done now and then: forget old jobs and files, and delete the blobs that nothing names."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from services.common.blobs import BlobStore
from services.common.blobs.store import BlobLedger
from services.common.errors import DomainError
from services.common.jobs.store import JobStore

_log = structlog.get_logger(__name__)
CLOSE_WAIT_S = 5.0
PAGE = 1_000
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Kept:
    """How long things are kept, in seconds."""

    jobs_s: float
    files_s: float
    blob_grace_s: float


class Files(Protocol):
    """What jobs read or bring: a service's own table, which names blobs."""

    ledger: BlobLedger

    def expire(self, kept_s: float) -> object:
        """Forget those that are so old."""
        ...


class Housekeeping:
    """Tidies up once an interval. Every replica may; twice does no harm."""

    def __init__(
        self,
        jobs: JobStore,
        files: Files,
        blobs: BlobStore,
        kept: Kept,
        *,
        interval_s: float,
        also: Callable[[], None] = lambda: None,
    ) -> None:
        """`also` is what a service tidies up besides."""
        self._jobs = jobs
        self._files = files
        self._blobs = blobs
        self._kept = kept
        self._interval_s = interval_s
        self._also = also
        self._stopping = threading.Event()
        # A daemon: a blob store that does not answer must not hold up the end of the process.
        self._thread = threading.Thread(target=self._repeat, name="job-housekeeping", daemon=True)

    def open(self) -> None:
        """Start; the first round is at once."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stopping.set()
        self._thread.join(CLOSE_WAIT_S)

    def tidy(self) -> int:
        """Do one round; gives how many blobs were deleted."""
        while self._jobs.expire(self._kept.jobs_s, limit=PAGE) == PAGE and not self._stopping.is_set():
            pass
        self._files.expire(self._kept.files_s)
        self._also()
        return self._files.ledger.collect(self._blobs, self._kept.blob_grace_s, self._stopping.is_set)

    def _repeat(self) -> None:
        wait_s = 0.0
        while not self._stopping.wait(wait_s):
            wait_s = self._interval_s
            try:
                if deleted := self.tidy():
                    _log.info("garbage collected", blobs=deleted)
            except DomainError as error:
                _log.warning("housekeeping put off", reason=error.reason, message=error.message)
            except Exception:  # noqa: BLE001 - one round that breaks must not be the last one
                _log.exception("housekeeping broke")

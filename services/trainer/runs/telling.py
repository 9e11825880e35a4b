"""What a recipe tells, kept as it comes: epochs and what it printed a few times a second, checkpoints at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from services.common.errors import DomainError
from services.common.jobs import JobRun, JobStore, Progress
from services.trainer.runs.store import KEPT_LOG_BYTES, RunStore
from services.trainer.task import CheckpointWritten, Epoch, Event, Flush, Log

INTERVAL_S = 0.25
MAX_EPOCHS = 1_000_000
"""That one run may tell of; the later ones are left out."""
LOG_PIECE_BYTES = 64 * 1024
_log = structlog.get_logger(__name__)


class Telling:
    """Keeps what a run tells, inside the block; at its end all of it is kept, unless the lease is lost."""

    def __init__(self, run: JobRun, jobs: JobStore, store: RunStore, keep_checkpoint: Callable[[], None]) -> None:
        self._run = run
        self._jobs = jobs
        self._store = store
        self._keep_checkpoint = keep_checkpoint
        self._lock = threading.Lock()
        # Held from taking to keeping, so that what was told first is kept first.
        self._keeping = threading.Lock()
        self._epochs: list[Epoch] = []
        self._printed = bytearray()
        self._progress = run.job.progress
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="run-telling", daemon=True)

    def __call__(self, event: Event) -> None:
        """Hear an event; a checkpoint is kept when this comes back, and with a Flush all that was told before.

        Raises DomainError where a Flush finds the database away; what it was to keep is kept later.
        """
        match event:
            case Epoch() as epoch:
                with self._lock:
                    self._progress = Progress(done=epoch.number, total=epoch.total or None)
                    if epoch.number <= MAX_EPOCHS:
                        self._epochs.append(epoch)
            case Log(chunk=chunk):
                with self._lock:
                    self._printed += chunk
                    # Of what comes faster than it is kept, the end.
                    del self._printed[: max(0, len(self._printed) - 2 * KEPT_LOG_BYTES)]
            case CheckpointWritten():
                self.flush()
                self._keep_checkpoint()
            case Flush():
                self._keep()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.flush()

    def flush(self) -> None:
        """Keep what came since the last time, or leave it for the next."""
        try:
            self._keep()
        except DomainError as error:
            # They are news, no result: the run goes on, and the database may be back before it ends.
            _log.info("epochs not kept", run=str(self._run.job.job_id), reason=error.reason)

    def _keep(self) -> None:
        """Keep what came since the last time; where that fails, it is there for the next."""
        with self._keeping:
            with self._lock:
                epochs, self._epochs = self._epochs, []
                printed, self._printed = bytes(self._printed), bytearray()
                progress = self._progress
            if not (epochs or printed):
                return
            run_id, attempt = self._run.job.job_id, self._run.job.attempt
            try:
                with self._run.holding() as connection:
                    self._store.told(connection, run_id, epochs, attempt)
                    for begin in range(0, len(printed), LOG_PIECE_BYTES):
                        self._store.printed(connection, run_id, printed[begin : begin + LOG_PIECE_BYTES])
                    self._jobs.report(connection, self._run.lease, progress)
            except DomainError:
                with self._lock:
                    self._epochs = epochs + self._epochs
                    self._printed[:0] = printed
                raise

    def _repeat(self) -> None:
        while not self._over.wait(INTERVAL_S):
            self.flush()

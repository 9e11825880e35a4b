"""Tells the trainer how a training goes, and hears from it when to stop."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog

from penstock.api.trainer.v1 import worker_pb2 as pb
from penstock.errors import PenstockError, PermissionDenied, Unauthenticated
from penstock.training_worker import TrainingWorkerClient
from services.common.jobs import Stopped, StopReason
from services.trainer.executing.plain_files import plain_files
from services.trainer.task import CheckpointWritten, Epoch, Event, Log, RunFolder

_log = structlog.get_logger(__name__)
GATHERED_S: Final = 0.5
"""How long what was told waits for more."""
MAX_LOG_BYTES: Final = 256 * 1024
MAX_EPOCHS: Final = 1_000
KEPT_LOG_BYTES: Final = 4 * 1024 * 1024
"""Of what is printed faster than it is taken, or while nobody takes it, the end is told."""


class Reporting:
    """What a recipe tells, sent on; a `Stopping`, which says when nobody wants the run any more.

    A report that was not answered is sent again, under its number, so that nothing is told twice.
    """

    def __init__(self, client: TrainingWorkerClient, run_token: str, folder: RunFolder, interval_s: float) -> None:
        self._client = client
        self._token = run_token
        self._folder = folder
        self._interval_s = interval_s
        self._epochs: deque[pb.TaskEpoch] = deque()
        self._printed = bytearray()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._sequence = 0
        self._unanswered: tuple[list[pb.TaskEpoch], bytes] | None = None
        self._news = threading.Event()
        self._over = threading.Event()
        self._stopping = threading.Event()
        self._reason: StopReason | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._repeat, name="reporting", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._news.set()
        self._thread.join(self._interval_s)

    def tell(self, event: Event) -> None:
        """Hear what a recipe tells; a checkpoint is with the trainer when this comes back.

        Raises TrainingFailed (INVALID_OUTCOME) where the checkpoint holds what is no plain file.
        """
        match event:
            case Epoch():
                epoch = pb.TaskEpoch(number=event.number, metrics=event.metrics, total=event.total)
                with self._lock:
                    self._epochs.append(epoch)
            case Log():
                with self._lock:
                    self._printed += event.chunk
                    del self._printed[: max(0, len(self._printed) - KEPT_LOG_BYTES)]
            case CheckpointWritten():
                self.flush()
                self._hand_in_checkpoint(event.epoch)
        self._news.set()

    def flush(self) -> None:
        """Send all that was told; raises PenstockError where the trainer does not take it."""
        while self._send(heartbeat=False):
            pass

    def check(self) -> None:
        """Go on, or raise Stopped."""
        if self._reason is not None:
            raise Stopped(self._reason)

    def wait(self, seconds: float) -> None:
        """Sleep, and raise Stopped as soon as the run is to end."""
        self._stopping.wait(seconds)
        self.check()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Have a callback called once when the run is to end; at once where it is already."""
        with self._lock:
            if self._reason is None:
                self._callbacks.append(callback)
                return
        callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Take a callback back."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def stop(self, reason: StopReason) -> None:
        """Have the run end; the first reason stands."""
        with self._lock:
            self._reason = self._reason or reason
            callbacks, self._callbacks = self._callbacks, []
        self._stopping.set()
        for callback in callbacks:
            callback()

    def _hand_in_checkpoint(self, epoch: int) -> None:
        files = {plain.path: plain for plain in plain_files(self._folder.checkpoint) if not plain.is_folder}
        if files:
            self._client.upload(self._token, "CHECKPOINT", files, epoch=epoch)

    def _repeat(self) -> None:
        sent_at = time.monotonic()
        while not self._over.is_set():
            due_s = sent_at + self._interval_s - time.monotonic()
            if self._news.wait(max(0.0, due_s)):
                self._news.clear()
                self._over.wait(GATHERED_S)
            if self._over.is_set():
                return
            try:
                while self._send(heartbeat=time.monotonic() - sent_at >= self._interval_s):
                    sent_at = time.monotonic()
            except (PermissionDenied, Unauthenticated) as error:
                _log.info("the run is nobody's any more", reason=error.reason)
                self.stop(StopReason.LEASE_LOST)
                return
            except PenstockError as error:
                _log.info("report not taken", reason=error.reason, message=error.message)
                self._over.wait(GATHERED_S)

    def _send(self, *, heartbeat: bool) -> bool:
        """Send what comes next; False where there was nothing. One goes at a time, for they are numbered."""
        with self._sending:
            if self._unanswered is None:
                epochs, printed = self._next()
                if not (epochs or printed or heartbeat):
                    return False
                self._sequence += 1
                self._unanswered = (epochs, printed)
            epochs, printed = self._unanswered
            cancelled = self._client.report(self._token, self._sequence, epochs=epochs, log=printed)
            self._unanswered = None
        if cancelled:
            self.stop(StopReason.CANCELLED)
        return bool(epochs or printed)

    def _next(self) -> tuple[list[pb.TaskEpoch], bytes]:
        with self._lock:
            epochs = [self._epochs.popleft() for _ in range(min(MAX_EPOCHS, len(self._epochs)))]
            printed = bytes(self._printed[:MAX_LOG_BYTES])
            del self._printed[:MAX_LOG_BYTES]
        return epochs, printed

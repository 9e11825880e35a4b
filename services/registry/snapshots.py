"""Snapshots for watchers, each read in one transaction, part by part.

A watcher takes the parts as fast as its network lets it, and the database must not be kept waiting for that: a thread
reads a little ahead, and lets go of a watcher that takes nothing for a while. So neither memory nor connections
depend on how many watch, or how slowly.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

from services.common.errors import DeadlineExceeded, DomainError, Unavailable
from services.registry.store import Store
from services.registry.watch_events import SnapshotPart

PART_VERSIONS = 100
PARTS_AHEAD = 2
PARALLEL_SNAPSHOTS = 2
TURN_WAIT_S = 30.0


class Snapshots:
    """Reads every version as it stands at one revision, for a few watchers at once.

    `patience_s` is how long a watcher may take nothing. For all it may take `deadline_s`, and `part_s` more for every
    part: so any number of versions can be sent, and nobody holds the database up by taking each at the last moment.
    """

    def __init__(
        self, store: Store, *, patience_s: float = 10.0, deadline_s: float = 120.0, part_s: float = 0.5
    ) -> None:
        self._store = store
        self._patience_s = patience_s
        self._deadline_s = deadline_s
        self._part_s = part_s
        self._turns = threading.BoundedSemaphore(PARALLEL_SNAPSHOTS)

    def read(self) -> Iterator[SnapshotPart]:
        """Give the parts of a snapshot, the last one complete.

        Raises:
            Unavailable: too many snapshots are being read (SNAPSHOTS_BUSY), or the database is away.
            DeadlineExceeded: the parts were taken too slowly (WATCH_TOO_SLOW).
        """
        if not self._turns.acquire(timeout=TURN_WAIT_S):
            raise Unavailable(
                "other watchers are being sent the whole registry just now; try again in a moment",
                reason="SNAPSHOTS_BUSY",
                retry_after_s=1.0,
            )
        parts = _Parts(self._patience_s)
        threading.Thread(target=self._fill, args=(parts,), name="snapshot", daemon=True).start()
        try:
            yield from parts
        finally:
            parts.leave()

    def _fill(self, parts: _Parts) -> None:
        error: Exception | None = None
        try:
            self._read_into(parts)
        except Exception as failure:  # noqa: BLE001 - whatever it is, the watcher raises it on its own thread
            error = failure
        finally:
            self._turns.release()
            parts.end(error)

    def _read_into(self, parts: _Parts) -> None:
        until = time.monotonic() + self._deadline_s
        with self._store.read() as tables:
            bounds = tables.changes.bounds()
            for versions in tables.versions.batches(PART_VERSIONS):
                if time.monotonic() > until:
                    raise _too_slow()
                until += self._part_s
                complete = len(versions) < PART_VERSIONS
                if not parts.give(SnapshotPart(bounds.epoch, bounds.newest, versions, complete)):
                    return


class _Parts:
    """Parts on their way from the thread that reads to the one that sends; a few wait here at most."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._waiting: deque[SnapshotPart] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._left = False
        self._error: Exception | None = None

    def give(self, part: SnapshotPart) -> bool:
        """Hand a part over, once there is room; False when nobody waits for it any more."""
        with self._changed:
            if not self._changed.wait_for(self._has_room, self._patience_s):
                raise _too_slow()
            self._waiting.append(part)
            self._changed.notify_all()
            return not self._left

    def end(self, error: Exception | None) -> None:
        """Say that no more parts come, and why, where something is wrong."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def leave(self) -> None:
        """Say that no more parts are wanted."""
        with self._changed:
            self._left = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[SnapshotPart]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    if self._error is not None:
                        raise self._error
                    return
                part = self._waiting.popleft()
                self._changed.notify_all()
            yield part

    def _has_room(self) -> bool:
        return self._left or len(self._waiting) < PARTS_AHEAD


def _too_slow() -> DomainError:
    return DeadlineExceeded(
        "the snapshot was taken too slowly, and no database can wait; begin again, and take what comes at once",
        reason="WATCH_TOO_SLOW",
    )

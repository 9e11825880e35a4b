"""Following every version: a snapshot, then each change in the order of the commits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from services.common.errors import OutOfRange
from services.registry.models import ModelVersion
from services.registry.snapshots import Snapshots
from services.registry.store import Store, Tables
from services.registry.store.changes import Bounds
from services.registry.watch_events import Bookmark, Change, SnapshotPart

READ_REVISIONS = 512
READ_VERSIONS = 50
MAX_CHANGE_BYTES = 3 * 1024 * 1024
"""gRPC's clients take messages of 4 MiB unless told otherwise."""


class Subscription:
    """One watcher's bell; `close` ends its watch, from any thread."""

    def __init__(self) -> None:
        self._bell = threading.Event()
        self.closed = False

    def ring(self) -> None:
        """Say that there may be something new."""
        self._bell.set()

    def close(self) -> None:
        """End the watch; closing twice is fine."""
        self.closed = True
        self._bell.set()

    def forget(self) -> None:
        """From here on a ring counts as new: call it before looking."""
        self._bell.clear()

    def wait(self, timeout_s: float) -> None:
        """Wait for a ring since `forget`, or for the time to pass."""
        self._bell.wait(timeout_s)


class Watches:
    """Everyone who watches in this process.

    `bookmark_s` is the longest silence; `measure` says how many bytes a version takes in a message.
    """

    def __init__(
        self, store: Store, snapshots: Snapshots, *, bookmark_s: float, measure: Callable[[ModelVersion], int]
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._bookmark_s = bookmark_s
        self._measure = measure
        self._subscriptions: set[Subscription] = set()
        self._lock = threading.Lock()

    def wake(self) -> None:
        """Have every watcher look."""
        with self._lock:
            for subscription in self._subscriptions:
                subscription.ring()

    def follow(
        self, after_revision: int, epoch: str, subscription: Subscription
    ) -> Iterator[SnapshotPart | Change | Bookmark]:
        """Give what changed after a revision and what changes from now on, until the subscription is closed.

        After 0 a snapshot comes first: all versions as they stood at one revision.

        Raises:
            OutOfRange: the changes since then are forgotten, or too many for a message (REVISION_COMPACTED), the
                revision is none that was ever given here (REVISION_UNKNOWN), or belongs to another life of the
                database (EPOCH_CHANGED); begin again from 0.
            Unavailable, DeadlineExceeded: as `Snapshots.read` does.
        """
        with self._lock:
            self._subscriptions.add(subscription)
        try:
            revision = after_revision
            if revision == 0:
                for part in self._snapshots.read():
                    revision, epoch = part.revision, part.epoch
                    yield part
            yield from self._changes(revision, epoch, subscription)
        finally:
            with self._lock:
                self._subscriptions.discard(subscription)

    def _changes(self, revision: int, epoch: str, subscription: Subscription) -> Iterator[Change | Bookmark]:
        silent_until = time.monotonic() + self._bookmark_s
        while not subscription.closed:
            subscription.forget()
            change = self._read(revision, epoch)
            epoch = change.epoch
            if change.versions:
                revision = change.revision
                yield change
                silent_until = time.monotonic() + self._bookmark_s
                subscription.ring()  # there may be more than one read brings
            if time.monotonic() >= silent_until:
                yield Bookmark(epoch, revision)
                silent_until = time.monotonic() + self._bookmark_s
            if not subscription.closed:
                subscription.wait(silent_until - time.monotonic())

    def _read(self, revision: int, epoch: str) -> Change:
        """Read what changed since, as it stands now, as much of it as a message holds.

        A version that is shown as it stands now belongs with all that has changed in its model by now: at no message
        are two versions of a model live.
        """
        with self._store.read() as tables:
            bounds = tables.changes.bounds()
            _check(revision, epoch, bounds)
            limit = READ_REVISIONS
            while limit:
                reached, changed = tables.changes.since(revision, limit=limit)
                if changed and reached < bounds.newest:
                    changed = tables.changes.beside(revision, changed)
                versions = self._read_versions(tables, changed)
                if versions is not None:
                    return Change(bounds.epoch, reached, versions)
                limit //= 2
        raise OutOfRange(
            f"what changed after revision {revision} is too much for one message; begin again from 0, which sends a "
            "snapshot",
            reason="REVISION_COMPACTED",
        )

    def _read_versions(self, tables: Tables, version_ids: list[int]) -> tuple[ModelVersion, ...] | None:
        """Read some versions; None where they are too many for a message."""
        versions: list[ModelVersion] = []
        room_bytes = MAX_CHANGE_BYTES
        for start in range(0, len(version_ids), READ_VERSIONS):
            found = tables.versions.some(version_ids[start : start + READ_VERSIONS])
            room_bytes -= sum(map(self._measure, found))
            versions += found
            # One version alone always fits: its parts are bounded where it is registered.
            if room_bytes < 0 and len(version_ids) > 1:
                return None
        return tuple(versions)


def _check(revision: int, epoch: str, bounds: Bounds) -> None:
    if epoch and epoch != bounds.epoch:
        raise OutOfRange(
            "the registry's database was restored from a backup, or is another one; begin again from 0, which sends a "
            "snapshot",
            reason="EPOCH_CHANGED",
        )
    if revision < bounds.compacted:
        raise OutOfRange(
            f"the changes after revision {revision} are forgotten (kept are those after {bounds.compacted}); begin "
            "again from 0, which sends a snapshot",
            reason="REVISION_COMPACTED",
        )
    if revision > bounds.newest:
        raise OutOfRange(
            f"revision {revision} has not been given yet, the newest is {bounds.newest}: the database was restored or "
            "is another one; begin again from 0, which sends a snapshot",
            reason="REVISION_UNKNOWN",
        )

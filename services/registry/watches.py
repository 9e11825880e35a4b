"""Following every version: a snapshot, then each change in the order of the commits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from services.common.errors import OutOfRange
from services.registry.models import Bookmark, Change, SnapshotPart
from services.registry.store import Store

PART_VERSIONS = 500
READ_REVISIONS = 500


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
    """Everyone who watches in this process. `bookmark_s` is the longest silence."""

    def __init__(self, store: Store, *, bookmark_s: float) -> None:
        self._store = store
        self._bookmark_s = bookmark_s
        self._subscriptions: set[Subscription] = set()
        self._lock = threading.Lock()

    def wake(self) -> None:
        """Have every watcher look."""
        with self._lock:
            for subscription in self._subscriptions:
                subscription.ring()

    def follow(self, after_revision: int, subscription: Subscription) -> Iterator[SnapshotPart | Change | Bookmark]:
        """Give what changed after a revision and what changes from now on, until the subscription is closed.

        After 0 a snapshot comes first: all versions as they stood at one revision.

        Raises:
            OutOfRange: the changes since then are forgotten (REVISION_COMPACTED), or the revision is none that was
                ever given here (REVISION_UNKNOWN); begin again from 0.
        """
        with self._lock:
            self._subscriptions.add(subscription)
        try:
            revision = after_revision
            if revision == 0:
                for part in self._snapshot():
                    revision = part.revision
                    yield part
            yield from self._changes(revision, subscription)
        finally:
            with self._lock:
                self._subscriptions.discard(subscription)

    def _changes(self, revision: int, subscription: Subscription) -> Iterator[Change | Bookmark]:
        silent_until = time.monotonic() + self._bookmark_s
        while not subscription.closed:
            subscription.forget()
            change = self._read(revision)
            if change.versions:
                revision = change.revision
                yield change
                silent_until = time.monotonic() + self._bookmark_s
                subscription.ring()  # there may be more than one read brings
            if time.monotonic() >= silent_until:
                yield Bookmark(revision)
                silent_until = time.monotonic() + self._bookmark_s
            if not subscription.closed:
                subscription.wait(silent_until - time.monotonic())

    def _read(self, revision: int) -> Change:
        """Read what changed since, as it stands now.

        Transactions that a watcher has yet to see come together, since a version shown as it stands now belongs
        with all that has changed by now: at no message are two versions of a model live.
        """
        with self._store.read() as tables:
            compacted, newest = tables.changes.bounds()
            _check_revision(revision, compacted, newest)
            reached, changed = tables.changes.since(revision, limit=READ_REVISIONS)
            return Change(reached, tables.versions.some(changed))

    def _snapshot(self) -> Iterator[SnapshotPart]:
        with self._store.read() as tables:
            _, revision = tables.changes.bounds()
            versions = tables.versions.all()
        for start in range(0, max(len(versions), 1), PART_VERSIONS):
            end = start + PART_VERSIONS
            yield SnapshotPart(revision, versions[start:end], complete=end >= len(versions))


def _check_revision(revision: int, compacted: int, newest: int) -> None:
    if revision < compacted:
        raise OutOfRange(
            f"the changes after revision {revision} are forgotten (kept are those after {compacted}); begin again "
            "from 0, which sends a snapshot",
            reason="REVISION_COMPACTED",
        )
    if revision > newest:
        raise OutOfRange(
            f"revision {revision} has not been given yet, the newest is {newest}: the database was restored or is "
            "another one; begin again from 0, which sends a snapshot",
            reason="REVISION_UNKNOWN",
        )

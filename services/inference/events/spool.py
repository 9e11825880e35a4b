"""The event spool: what was predicted is kept on disk until the monitoring service has answered for it.

    append → queue → writer → segments on disk → sender → deliver

`append` is on the path of every prediction and costs a fraction of a microsecond. The writer turns items to bytes,
and writes them in groups; the sender reads them back from the page cache. An event that was in the queue when the
process was killed is lost, at most `gather_s` of them; one that reached a segment is not.

How far a segment survives is the fsync policy: `never` survives the death of the process, which is what happens
every day; `interval` also that of the machine, the last `fsync_interval_s` aside; `always` syncs each group.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

from services.common.counters import Cell, Counters, Tally
from services.common.pools import WAITING
from services.inference.events.delivery import Deliver, Delivery, DeliveryCounters, DeliverySettings
from services.inference.events.segments import MAX_RECORD_BYTES, SegmentLog, SpoolBoundReached, encode_record
from services.inference.events.slots import Slot, take_slot

log = logging.getLogger(__name__)

Item = TypeVar("Item")
SPOOL, DELIVERY = "spool", "delivery"
"""The kinds of the rows in which it is counted."""


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """The spool's limits.

    `queue_items` may wait in memory and `max_bytes` on disk. Once the disk's share is full, or the disk, the queue
    fills; once that is full, `at_limit` decides: `drop` counts the event and forgets it, `block` lets the prediction
    wait up to `block_timeout_s` first (not for a failing disk: predictions never stop for that).
    """

    queue_items: int = 50_000
    max_bytes: int = 2**30
    segment_bytes: int = 4 * 2**20
    segment_age_s: float = 60.0
    at_limit: Literal["drop", "block"] = "drop"
    block_timeout_s: float = 5.0
    fsync: Literal["never", "interval", "always"] = "interval"
    fsync_interval_s: float = 1.0
    gather_s: float = 0.02
    group_items: int = 1_000
    retry_s: float = 1.0
    delivery: DeliverySettings = field(default_factory=DeliverySettings)


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """The spool as metrics and health see it. `writing` and `delivering` are "" while all is well, else why not."""

    queued: int
    spooled: int
    dropped: int
    bytes: int
    writing: str
    delivering: str
    delivery: DeliveryCounters


class SpoolCounters(Tally):
    """What became of the items here: written to disk, or lost at the bound."""

    spooled = Cell()
    dropped = Cell()


class _Barrier:
    """Stands in the queue behind the items that a flush waits for."""

    __slots__ = ("passed",)

    def __init__(self) -> None:
        self.passed = threading.Event()


class Spool(Generic[Item]):
    """A durable queue from this process to the monitoring service."""

    def __init__(
        self,
        root: Path,
        encode: Callable[[Item], bytes],
        deliver: Deliver,
        settings: SpoolSettings | None = None,
    ) -> None:
        self._root = root
        self._encode = encode
        self._deliver = deliver
        self._settings = settings or SpoolSettings()
        self._limit = self._settings.queue_items
        self._group_bytes = min(self._settings.segment_bytes, self._settings.max_bytes)
        self._queue: deque[Item | _Barrier] = deque()
        # The writer sleeps on `_wake` while nothing comes, and only then does `append` touch it. While items flow it
        # gathers for `gather_s` and takes all that came: a notify per request would cost more than the append.
        self._idle = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._out_of_time = threading.Event()
        self._accepting = False
        self._space = threading.Condition()
        self._blocked = 0
        self.counters = SpoolCounters()
        self._delivered = DeliveryCounters()
        self._writing = ""
        self._disk_failing = False
        self._dirty = False
        self._synced_at = 0.0
        self._writer = threading.Thread(target=self._write_on, name="spool-writer", daemon=True)

    def open(self) -> None:
        """Take a slot with what dead workers left, and begin to write and to send."""
        settings = self._settings
        self._slot: Slot = take_slot(self._root)
        self._segments = SegmentLog(
            self._slot.folder,
            segment_bytes=settings.segment_bytes,
            segment_age_s=settings.segment_age_s,
            max_bytes=settings.max_bytes,
        )
        self._segments.open()
        self._delivery = Delivery(self._segments, self._slot.folder, self._deliver, settings.delivery, self._delivered)
        self._accepting = True
        self._writer.start()
        self._delivery.start()

    def keep_counts_in(self, counters: Counters) -> None:
        """Count on where this worker's slot says; before the spool is open."""
        self.counters.keep_in(counters, SPOOL)
        self._delivered.keep_in(counters, DELIVERY)

    def append(self, item: Item) -> None:
        """Queue an item. Never raises; at the bound `at_limit` decides, and what is dropped is counted."""
        queue = self._queue
        if len(queue) < self._limit and self._accepting:
            queue.append(item)
            if self._idle:
                self._wake.set()
        else:
            self._append_at_limit(item)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was appended before is in a segment; says whether that came to pass."""
        barrier = _Barrier()
        self._queue.append(barrier)
        self._wake.set()
        return barrier.passed.wait(timeout_s)

    @property
    def status(self) -> SpoolStatus:
        """Where everything is."""
        return SpoolStatus(
            queued=len(self._queue),
            spooled=self.counters.spooled,
            dropped=self.counters.dropped,
            bytes=self._segments.held_bytes,
            writing=self._writing,
            delivering=self._delivery.counters.failing,
            delivery=self._delivery.counters,
        )

    def close(self, timeout_s: float) -> bool:
        """Take no more, write what is queued, send what is spooled; says whether all was answered for in time.

        What was not stays on disk for the next process.
        """
        deadline = time.monotonic() + timeout_s
        self._accepting = False
        self._stopping.set()
        self._wake.set()
        with self._space:
            self._space.notify_all()
        # The sender goes on, and faster: a writer that waits for room gets it.
        self._delivery.hurry()
        self._writer.join(timeout_s)
        self._out_of_time.set()
        self._writer.join(timeout=1.0)
        if not self._writer.is_alive():
            # An append that was under way while the door closed.
            self._drop(len(self._queue))
        self._segments.end()
        drained = self._delivery.drain(max(0.0, deadline - time.monotonic())) and not self._writer.is_alive()
        if self._writer.is_alive() or self._delivery.is_running:
            log.warning("the spool's threads did not end in time; they and the slot go with the process")
            return False
        self._segments.close()
        self._slot.release()
        return drained

    # The slow side of append

    def _append_at_limit(self, item: Item) -> None:
        with self._space:
            if self._settings.at_limit == "block" and not self._disk_failing:
                self._blocked += 1
                with WAITING:
                    self._space.wait_for(
                        lambda: len(self._queue) < self._limit or not self._accepting, self._settings.block_timeout_s
                    )
                self._blocked -= 1
            if len(self._queue) < self._limit and self._accepting:
                self._queue.append(item)
                self._wake.set()
            else:
                self.counters.dropped += 1

    # The writer's thread

    def _write_on(self) -> None:
        while True:
            if not self._queue and not self._sleep():
                break
            self._stopping.wait(self._settings.gather_s)
            while self._queue:
                self._write_group()
        self._sync()

    def _sleep(self) -> bool:
        """Wait for the next item; False when there will be none. Nothing is left unsynced for the night."""
        unsynced = self._dirty and self._settings.fsync != "never"
        sync_in_s = self._synced_at + self._settings.fsync_interval_s - time.monotonic()
        self._idle = True
        # An item may have come since we looked; from here on `append` wakes us.
        if not self._queue and not self._stopping.is_set():
            self._wake.wait(max(0.0, sync_in_s) if unsynced else None)
        self._wake.clear()
        self._idle = False
        if unsynced:
            self._sync_if_due()
        return bool(self._queue) or not self._stopping.is_set()

    def _write_group(self) -> None:
        """Take what waits, up to a group, and write it in one go."""
        records: list[bytes] = []
        size = 0
        written = True
        barrier: _Barrier | None = None
        while self._queue and len(records) < self._settings.group_items and barrier is None:
            item = self._queue.popleft()
            if isinstance(item, _Barrier):
                barrier = item
            else:
                record = self._record(item)
                if record is None:
                    continue
                if records and size + len(record) > self._group_bytes:
                    written = self._keep(records) and written
                    records, size = [], 0
                records.append(record)
                size += len(record)
        if self._blocked:
            with self._space:
                self._space.notify_all()
        if records:
            written = self._keep(records) and written
        if barrier is not None and written:
            barrier.passed.set()

    def _record(self, item: Item) -> bytes | None:
        try:
            payload = self._encode(item)
        except Exception:
            log.exception("an event cannot be encoded; it is dropped")
            self._drop(1)
            return None
        record = encode_record(payload)
        if len(payload) > MAX_RECORD_BYTES or len(record) > self._settings.max_bytes:
            log.error("an event of %d bytes is more than the spool takes; it is dropped", len(payload))
            self._drop(1)
            return None
        return record

    def _keep(self, records: list[bytes]) -> bool:
        """Write a group, trying again for as long as the process lives: meanwhile the queue takes what comes."""
        group, count = b"".join(records), len(records)
        while True:
            try:
                self._segments.write(group)
            except SpoolBoundReached:
                self._set_state(f"the spool holds all of its {self._settings.max_bytes} bytes", disk_failing=False)
            except OSError as error:
                self._set_state(f"the disk refuses the spool: {error.strerror}", disk_failing=True)
            else:
                self._set_state("", disk_failing=False)
                self.counters.spooled += count
                self._dirty = True
                self._sync_if_due()
                return True
            if self._out_of_time.wait(self._settings.retry_s):
                log.error("%d events could not be written before the end: %s", count, self._writing)
                self._drop(count)
                return False

    def _set_state(self, state: str, *, disk_failing: bool) -> None:
        if state == self._writing:
            return
        log.warning("event spool: %s", state or "written again")
        self._writing, self._disk_failing = state, disk_failing
        with self._space:  # whoever is blocked looks again
            self._space.notify_all()

    def _sync_if_due(self) -> None:
        policy = self._settings.fsync
        due = time.monotonic() - self._synced_at >= self._settings.fsync_interval_s
        if policy == "always" or (policy == "interval" and due):
            self._sync()

    def _sync(self) -> None:
        self._synced_at = time.monotonic()
        self._dirty = False
        if self._settings.fsync == "never":
            return
        try:
            self._segments.sync()
        except OSError as error:
            self._set_state(f"the disk refuses the spool: {error.strerror}", disk_failing=True)

    def _drop(self, count: int) -> None:
        with self._space:
            self.counters.dropped += count

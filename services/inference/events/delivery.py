"""Sends the spool's records on, in order, until each is answered for."""

from __future__ import annotations

import base64
import json
import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from services.common.counters import Cell, Tally
from services.common.errors import InvalidArgument
from services.inference.events.segments import SegmentLog, Stretch, parse

log = logging.getLogger(__name__)


class Verdict(Enum):
    """What the receiver did with a record."""

    STORED = "STORED"
    DUPLICATE = "DUPLICATE"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True)
class Result:
    """The receiver's answer for one record; `reason` with REJECTED."""

    verdict: Verdict
    reason: str = ""


Deliver = Callable[[list[bytes]], Sequence[Result]]
"""Sends a batch and returns a result for each record, in order. Bounded in time by whoever made it.

InvalidArgument means that the batch itself is refused: it is halved until the record at fault stands alone. Any
other exception means that nobody answered, and the same batch is sent again, for as long as it takes.
"""


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """How records are sent.

    A batch holds at most `batch_records` and, one record aside, `batch_bytes`. `linger_s` gathers records before a
    batch goes: fewer, larger calls. Pauses after a failure are random between 0 and a bound that doubles from
    `backoff_s` to `max_backoff_s`. The side files (dead letters, quarantine) hold `side_file_bytes` each at most.
    """

    batch_records: int = 1_000
    batch_bytes: int = 2**20
    linger_s: float = 0.2
    backoff_s: float = 0.2
    max_backoff_s: float = 30.0
    side_file_bytes: int = 64 * 2**20


class DeliveryCounters(Tally):
    """What became of the records; written by the sender alone. `failing` is the last failure, while it lasts."""

    delivered = Cell()
    duplicates = Cell()
    rejected = Cell()
    corrupt = Cell()
    failed_calls = Cell()

    def __init__(self) -> None:
        super().__init__()
        self.failing = ""


class SideFile:
    """Where records go that can go nowhere else: a line of JSON each, with why and the bytes in base64."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes

    def append(self, record: bytes, reason: str) -> None:
        """Keep one record. If the file is full or the disk is, the log and the counters are all that tell."""
        line = {"time": datetime.now(UTC).isoformat(), "reason": reason, "record": base64.b64encode(record).decode()}
        encoded = json.dumps(line).encode() + b"\n"
        try:
            with self.path.open("ab") as out:
                if out.tell() + len(encoded) <= self._max_bytes:
                    out.write(encoded)
                    return
            why = "it holds all that it may"
        except OSError as error:
            why = str(error.strerror)
        log.error("%s cannot take a record of %d bytes (%s): %s", self.path.name, len(record), reason, why)


class Delivery:
    """The sender's thread. It waits on the log's condition, so it costs nothing while there is nothing to send."""

    def __init__(
        self,
        segments: SegmentLog,
        folder: Path,
        deliver: Deliver,
        settings: DeliverySettings,
        counters: DeliveryCounters | None = None,
    ) -> None:
        self.counters = counters or DeliveryCounters()
        self._segments = segments
        self._deliver = deliver
        self._settings = settings
        self._dead_letters = SideFile(folder / "dead-letters.jsonl", settings.side_file_bytes)
        self._quarantine = SideFile(folder / "quarantine.jsonl", settings.side_file_bytes)
        self._draining = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool-delivery", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def hurry(self) -> None:
        """Linger no more: the end is near."""
        self._draining.set()

    def drain(self, timeout_s: float) -> bool:
        """Send what the log holds; says whether all was answered for within the time.

        The log must have ended. What is left stays on disk for the next process.
        """
        self.hurry()
        self._thread.join(timeout_s)
        drained = not self._thread.is_alive()
        self._stopped.set()
        self._thread.join(timeout=1.0)
        return drained

    @property
    def is_running(self) -> bool:
        """Whether the thread is still inside a call that does not return."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._segments.wait()
                self._draining.wait(self._settings.linger_s)
                stretch = self._segments.read()
                if stretch is None or not self._send(stretch):
                    return
                self._segments.answer(stretch)
            except OSError as error:
                log.exception("the spool cannot be read")
                self.counters.failing = f"the spool cannot be read: {error.strerror}"
                self._stopped.wait(self._settings.max_backoff_s)

    def _send(self, stretch: Stretch) -> bool:
        """Send a stretch to the last record; False if we were stopped on the way."""
        parsed = parse(stretch.data)
        for offset, data in parsed.bad:
            where = f"{stretch.segment.path.name} at {stretch.offset + offset}"
            log.error("%d bytes of %s are corrupt; they are in quarantine", len(data), where)
            self._quarantine.append(data, where)
            self.counters.corrupt += 1
        return all(self._send_batch(batch) for batch in self._batches(parsed.records))

    def _batches(self, records: list[bytes]) -> Iterator[list[bytes]]:
        batch: list[bytes] = []
        size = 0
        for record in records:
            if batch and (
                len(batch) >= self._settings.batch_records or size + len(record) > self._settings.batch_bytes
            ):
                yield batch
                batch, size = [], 0
            batch.append(record)
            size += len(record)
        if batch:
            yield batch

    def _send_batch(self, batch: list[bytes]) -> bool:
        """Send one batch until it is answered; False if we were stopped first."""
        bound_s = self._settings.backoff_s
        while not self._stopped.is_set():
            try:
                results = self._deliver(batch)
                if len(results) != len(batch):
                    raise ValueError(f"{len(results)} results came for {len(batch)} records")
            except InvalidArgument as error:
                return self._isolate(batch, error)
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be lost for it
                self._note_failure(error)
                # S311: the pauses need to differ between workers, not to be secret.
                self._stopped.wait(random.uniform(0, bound_s))  # noqa: S311
                bound_s = min(bound_s * 2, self._settings.max_backoff_s)
            else:
                self.counters.failing = ""
                self._count(batch, results)
                return True
        return False

    def _isolate(self, batch: list[bytes], error: InvalidArgument) -> bool:
        """Halve a refused batch, so that one bad record blocks nothing."""
        if len(batch) == 1:
            self._count(batch, [Result(Verdict.REJECTED, f"{error.reason}: {error.message}")])
            return True
        middle = len(batch) // 2
        return self._send_batch(batch[:middle]) and self._send_batch(batch[middle:])

    def _note_failure(self, error: Exception) -> None:
        self.counters.failed_calls += 1
        if not self.counters.failing:  # once per outage
            log.warning("events cannot be delivered; they are kept and sent again: %s", error)
        self.counters.failing = str(error) or type(error).__name__

    def _count(self, batch: list[bytes], results: Sequence[Result]) -> None:
        verdicts = [result.verdict for result in results]
        stored, duplicates = verdicts.count(Verdict.STORED), verdicts.count(Verdict.DUPLICATE)
        self.counters.delivered += stored
        self.counters.duplicates += duplicates
        if stored + duplicates == len(batch):
            return
        for record, result in zip(batch, results, strict=True):
            if result.verdict is Verdict.REJECTED:
                self.counters.rejected += 1
                self._dead_letters.append(record, result.reason)

"""A process that spools, to be killed or starved by the tests: `python -m tests.faults.spool_worker MODE FOLDER …`."""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from services.common.errors import Unavailable
from services.inference.events.delivery import DeliverySettings, Result, Verdict
from services.inference.events.segments import parse
from services.inference.events.spool import Spool, SpoolSettings
from tests.serving import wait_until

SETTINGS = SpoolSettings(
    queue_items=100,
    group_items=20,
    segment_bytes=20_000,
    gather_s=0.001,
    retry_s=0.01,
    delivery=DeliverySettings(batch_records=50, linger_s=0.001, backoff_s=0.001, max_backoff_s=0.01),
)


class ReceivedFile:
    """A receiver whose table is a file: a line per record, each stored once, known to every process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.up = True

    def read(self) -> list[str]:
        """List what is stored."""
        return self.path.read_text().split() if self.path.exists() else []

    def deliver(self, batch: list[bytes]) -> Sequence[Result]:
        """Store what is new, in one write."""
        if not self.up:
            raise Unavailable("monitoring is down")
        known = set(self.read())
        new = [record.decode() for record in batch if record.decode() not in known]
        with self.path.open("a") as out:
            out.write("".join(f"{line}\n" for line in new))
        return [Result(Verdict.DUPLICATE if record.decode() in known else Verdict.STORED) for record in batch]


def spool_for_ever(folder: Path, first: int) -> None:
    """Spool numbers from `first` on, and say after each flush how far they are safe."""
    spool: Spool[int] = Spool(
        folder / "spool", lambda n: b"%08d" % n, ReceivedFile(folder / "received").deliver, SETTINGS
    )
    spool.open()
    for number in itertools.count(first):
        while spool.status.queued >= SETTINGS.queue_items:
            spool.flush(60)
        spool.append(number)
        if number % 20 == 19 and spool.flush(60):
            print(number, flush=True)


def fill_the_disk(folder: Path, limit_bytes: int) -> None:
    """Spool until the disk refuses, go on, let the receiver come back, and report."""
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    received: list[bytes] = []
    up = False

    def deliver(batch: list[bytes]) -> Sequence[Result]:
        if not up:
            raise Unavailable("monitoring is down")
        received.extend(batch)
        return [Result(Verdict.STORED)] * len(batch)

    spool: Spool[int] = Spool(folder, lambda n: b"%0100d" % n, deliver, SETTINGS)
    spool.open()
    numbers = itertools.count()
    while not spool.status.writing:
        spool.append(next(numbers))
    for _ in range(500):
        spool.append(next(numbers))
    state, dropped = spool.status.writing, spool.status.dropped
    with spool._segments._changed:  # between two tries of the writer
        torn = [path.name for path in folder.rglob("*.seg") if parse(path.read_bytes()).bad]
    up = True
    wait_until(lambda: not spool.status.writing and not spool.status.queued)
    again = next(numbers)
    spool.append(again)
    drained = spool.close(60)
    report = {
        "state": state,
        "torn": torn,
        "dropped_while_full": dropped,
        "drained": drained,
        "appended": again + 1,
        "dropped": spool.status.dropped,
        "corrupt": spool.status.delivery.corrupt,
        "received": [int(record) for record in received],
        "last": again,
        "left": [str(path) for path in folder.rglob("*.seg")],
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    mode, target, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    {"spool": spool_for_ever, "fill": fill_the_disk}[mode](target, number)
    os._exit(0)

"""What a run tells is kept in the order in which it was told, and forgotten where it came from only then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from uuid import uuid4

import pytest

from services.common.errors import Unavailable
from services.common.jobs import JobRun, JobStore, Progress
from services.trainer.executing.outside import Ear, OutsideParts
from services.trainer.runs.store import RunStore
from services.trainer.runs.telling import Telling
from services.trainer.task import Epoch, Event, Flush, Log, RunFolder
from services.trainer.workers.models import OutsideTask

LONG_S = 60.0


class Kept:
    """In the place of the database: what was kept. `gate`: where the first connection waits."""

    def __init__(self) -> None:
        self.printed = b""
        self.done: list[int] = []
        self.away = False
        self.asked = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    @contextmanager
    def holding(self) -> Iterator[None]:
        first = not self.gate.is_set() and threading.current_thread() is not threading.main_thread()
        self.asked.release()
        if first:
            assert self.gate.wait(LONG_S)
        if self.away:
            raise Unavailable("the database is away")
        yield None

    def telling(self) -> Telling:
        job = SimpleNamespace(job_id=uuid4(), attempt=1, progress=Progress())
        run = SimpleNamespace(job=job, lease=None, holding=self.holding)
        store = SimpleNamespace(told=lambda *_: None, printed=self._print)
        jobs = SimpleNamespace(report=lambda _connection, _lease, progress: self.done.append(progress.done))
        return Telling(cast(JobRun, run), cast(JobStore, jobs), cast(RunStore, store), lambda: None)

    def _print(self, _connection: None, _run_id: object, chunk: bytes) -> None:
        self.printed += chunk


def test_what_is_told_while_something_is_kept_is_kept_after_it() -> None:
    kept = Kept()
    tell = kept.telling()
    kept.gate.clear()
    tell(Epoch(1, {}))
    tell(Log(b"first "))
    first = threading.Thread(target=tell.flush)
    first.start()
    assert kept.asked.acquire(timeout=LONG_S)
    tell(Epoch(2, {}))
    tell(Log(b"second"))
    # It waits for the first; were it let by, it would be kept here, before that.
    second = threading.Thread(target=tell.flush)
    second.start()
    assert not kept.asked.acquire(timeout=0.2)
    kept.gate.set()
    first.join(LONG_S)
    second.join(LONG_S)
    assert kept.printed == b"first second"
    assert kept.done == [1, 2]


def test_a_flush_says_where_something_could_not_be_kept_and_keeps_it_later() -> None:
    kept = Kept()
    tell = kept.telling()
    kept.away = True
    tell(Log(b"once"))
    with pytest.raises(Unavailable):
        tell(Flush())
    kept.away = False
    tell(Flush())
    assert kept.printed == b"once"


class Worker:
    """In the place of the table: what an outside worker told."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, list[Event]]] = [(1, [Log(b"a")]), (2, [Log(b"b")])]

    def told(self, _task_id: object) -> list[tuple[int, list[Event]]]:
        return list(self.rows)

    def read(self, _task_id: object, number: int) -> None:
        self.rows = [row for row in self.rows if row[0] > number]


def test_what_an_outside_worker_told_is_forgotten_once_it_is_kept_and_told_once(tmp_path: Path) -> None:
    worker, heard, away = Worker(), bytearray(), [True]

    def tell(event: Event) -> None:
        match event:
            case Log(chunk=chunk):
                heard.extend(chunk)
            case Flush() if away:
                raise Unavailable("the database is away")

    parts = cast(OutsideParts, SimpleNamespace(store=worker, files=None, calls=None))
    ear, outside = Ear(parts, RunFolder(tmp_path), tell), cast(OutsideTask, SimpleNamespace(task_id=uuid4()))
    with pytest.raises(Unavailable):
        ear.hear(outside)
    assert len(worker.rows) == 2, "nothing is forgotten that is not kept"
    away.clear()
    worker.rows.append((3, [Log(b"c")]))
    assert ear.hear(outside)
    assert (bytes(heard), worker.rows) == (b"abc", [])
    assert not ear.hear(outside)

"""A spool of events and the receiver behind it: what its tests share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import InvalidArgument, Unavailable
from services.inference.events.delivery import DeliverySettings, Result, Verdict
from services.inference.events.spool import Spool, SpoolSettings

QUICK = SpoolSettings(
    gather_s=0.001,
    fsync="never",
    retry_s=0.01,
    delivery=DeliverySettings(linger_s=0.001, backoff_s=0.001, max_backoff_s=0.01),
)
STORED = Result(Verdict.STORED)


class Receiver:
    """The other side: stores each record once, rejects what it is told to, and can be down or refuse."""

    def __init__(self) -> None:
        self.stored: list[bytes] = []
        self.batches: list[int] = []
        self.rejects: dict[bytes, str] = {}
        self.poison: set[bytes] = set()
        self.up = threading.Event()
        self.up.set()
        self.failure: Exception = Unavailable("monitoring is down")

    def deliver(self, batch: list[bytes]) -> Sequence[Result]:
        if not self.up.is_set():
            raise self.failure
        if self.poison & set(batch):
            raise InvalidArgument("the batch cannot be read")
        self.batches.append(len(batch))
        return [self._result(record) for record in batch]

    def _result(self, record: bytes) -> Result:
        if record in self.rejects:
            return Result(Verdict.REJECTED, self.rejects[record])
        if record in self.stored:
            return Result(Verdict.DUPLICATE)
        self.stored.append(record)
        return STORED


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


Opener = Callable[..., Spool[int]]


@pytest.fixture
def open_spool(tmp_path: Path, receiver: Receiver) -> Iterator[Opener]:
    spools: list[Spool[int]] = []

    def open_(**settings: Any) -> Spool[int]:
        spool: Spool[int] = Spool(tmp_path, encode, receiver.deliver, replace(QUICK, **settings))
        spool.open()
        spools.append(spool)
        return spool

    yield open_
    receiver.up.set()
    for spool in spools:
        if spool._accepting:
            spool.close(60)


def encode(number: int) -> bytes:
    return b"event %d" % number


def events(*numbers: int) -> list[bytes]:
    return [encode(number) for number in numbers]


def append_all(spool: Spool[int], numbers: Iterable[int]) -> None:
    for number in numbers:
        spool.append(number)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.seg"))


def lines(folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for path in folder.rglob(name) for line in path.read_text().splitlines()]

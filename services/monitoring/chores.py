"""Chores: what the service does by itself now and then, one replica at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from uuid import UUID, uuid4

import structlog

from services.common.errors import DomainError
from services.monitoring.store.chores import ChoreStore, Transaction

_log = structlog.get_logger(__name__)
LEASE_S = 60.0


class Turn:
    """A chore's lease while its work goes on. Work longer than seconds calls `renew` between its steps."""

    def __init__(self, store: ChoreStore, name: str, holder: UUID, stopping: threading.Event) -> None:
        self._store = store
        self._name = name
        self._holder = holder
        self._stopping = stopping
        self._until_s = time.monotonic() + LEASE_S

    def renew(self) -> bool:
        """Keep the lease for longer. False: stop here, since the service ends, or another has taken the lease."""
        if self._stopping.is_set():
            return False
        if time.monotonic() > self._until_s - LEASE_S / 2:
            if not self._store.keep(self._name, self._holder, lease_s=LEASE_S):
                return False
            self._until_s = time.monotonic() + LEASE_S
        return True

    def hold(self, connection: Transaction) -> bool:
        """Keep the lease until the transaction ends. False: write nothing, since another has taken it since.

        What was read in this turn is then as new as anybody's, however long this process stood still meanwhile.
        """
        return self._store.hold(connection, self._name, self._holder)


Work = Callable[[Turn], None]


class Chores:
    """Threads, one a chore: each takes its lease when its time has come, works, and gives the lease back."""

    def __init__(self, store: ChoreStore) -> None:
        self._store = store
        self._holder = uuid4()
        self._stopping = threading.Event()
        self._bells: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def add(self, name: str, work: Work, *, interval_s: float) -> None:
        """Have work done every `interval_s`, and sooner when it is woken; before `open`."""
        self._bells[name] = threading.Event()
        thread = threading.Thread(target=self._run, args=(name, work, interval_s), name=name, daemon=True)
        self._threads.append(thread)

    def wake(self, name: str) -> None:
        """Have a chore done now, on this replica, if no other is at it."""
        self._bells[name].set()

    def open(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads, each when its step is done."""
        self._stopping.set()
        for bell in self._bells.values():
            bell.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self, name: str, work: Work, interval_s: float) -> None:
        bell = self._bells[name]
        while not self._stopping.is_set():
            bell.clear()
            try:
                self._work(name, work)
            except DomainError as error:
                _log.warning("chore not done, trying again", chore=name, reason=error.reason, message=error.message)
            except Exception:  # noqa: BLE001 - logged, and tried again: a chore that ended would be missed by nobody
                _log.exception("chore failed, trying again", chore=name)
            bell.wait(interval_s)

    def _work(self, name: str, work: Work) -> None:
        if not self._store.take(name, self._holder, lease_s=LEASE_S):
            return
        try:
            work(Turn(self._store, name, self._holder, self._stopping))
        finally:
            self._store.give_back(name, self._holder)

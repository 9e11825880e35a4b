"""One file, put together of parts that come in any order: each is stored as it comes, the whole is hashed in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from mmap import mmap

from services.fetcher.downloading.ending import Ending
from services.fetcher.downloading.lines import Lines
from services.fetcher.models import Part

Taken = Callable[[], None]
Store = Callable[[int, memoryview, Taken], Part]
"""Stores a part of this number and notes it; may say on the way that its memory is read no more."""
Read = Callable[[Part], Iterable[bytes]]
"""Gives the bytes of a part that is stored."""


@dataclass(slots=True)
class _Held:
    """A part that is not noted yet, or not hashed. Its memory goes once it is both taken by the store and hashed."""

    buffer: mmap | None
    size_bytes: int
    taken: bool = False
    hashing: bool = False
    hashed: bool = False


class Assembly:
    """The parts of one file. `count`: how many it has, None while nobody knows.

    A part stays in memory until it is stored and hashed. Where memory runs out while the digest waits for a part that
    is late, others that are stored make room, and are read again when the digest comes to them.
    """

    def __init__(
        self, lines: Lines, ending: Ending, parts: Iterable[Part], count: int | None, *, store: Store, read: Read
    ) -> None:
        self._lines = lines
        self._ending = ending
        self._store = store
        self._read = read
        self._held: dict[int, _Held] = {}
        self._storing: list[Future[None]] = []
        self._awaited: int | None = None
        self.parts = {part.number: part for part in parts}
        self.count = count

    def add(self, number: int, buffer: mmap, size_bytes: int) -> None:
        """Take a part that has come, in memory that `Lines.take` gave."""
        with self._lines.changed:
            held = self._held[number] = _Held(buffer, size_bytes)
            self._lines.changed.notify_all()
        work = self._lines.pool.submit(self._ending.guarded, lambda: self._keep(number, held, buffer))
        self._storing.append(work)

    def end(self, count: int) -> None:
        """Say how many parts there are."""
        with self._lines.changed:
            self.count = count
            self._lines.changed.notify_all()

    def has(self, number: int) -> bool:
        """Whether a part is here, stored or not yet."""
        with self._lines.changed:
            return number in self.parts or number in self._held

    def first_missing(self) -> int | None:
        """Find where to go on; None where all is here."""
        with self._lines.changed:
            number = 0
            while number in self.parts or number in self._held:
                number += 1
            return None if number == self.count else number

    def next_noted(self, after: int) -> int | None:
        """Find the next part that is stored; None where there is none."""
        with self._lines.changed:
            return min((number for number in self.parts if number > after), default=None)

    def digest(self) -> str:
        """Hash all of it, in order, as it comes; gives the SHA-256 in hex.

        Raises:
            Ended: a transfer of it has failed.
            DataLoss, NotFound: a part that was stored is damaged.
        """
        digest, number = hashlib.sha256(), 0
        while self._comes(number):
            held = self._held.get(number)
            if held is not None and held.buffer is not None:
                digest.update(memoryview(held.buffer)[: held.size_bytes])
                with self._lines.changed:
                    held.hashed = True
                    self._let_go(number, held)
            else:
                for chunk in self._read(self.parts[number]):
                    self._ending.check()
                    digest.update(chunk)
            number += 1
        return digest.hexdigest()

    def settle(self) -> None:
        """Wait until what was being stored is stored and noted, or has failed; then nothing of it is in memory."""
        wait(self._storing)
        with self._lines.changed:
            while self._held:
                _, held = self._held.popitem()
                if held.buffer is not None:
                    self._lines.give_back(held.buffer)

    def give_way(self) -> mmap | None:
        """See `GivesWay`: the last part goes first, for the digest comes to it last."""
        if self._awaited is None or self._awaited in self._held or self._awaited in self.parts:
            return None
        for number in sorted(self._held, reverse=True):
            if number in self.parts and not self._held[number].hashing:
                return self._held.pop(number).buffer
        return None

    def _comes(self, number: int) -> bool:
        """Wait for a part to hash; False where the file has ended before it."""
        with self._lines.changed:
            self._awaited = number
            self._lines.changed.notify_all()  # whoever waits for memory: the others may make room from now on
            self._lines.wait(
                lambda: number in self._held or number in self.parts or number == self.count, self._ending.stopping
            )
            self._awaited = None
            if number in self._held:
                self._held[number].hashing = True
            return number != self.count

    def _keep(self, number: int, held: _Held, buffer: mmap) -> None:
        content = memoryview(buffer)[: held.size_bytes]
        part = self._store(number, content, lambda: self._taken(number, held))
        with self._lines.changed:
            self.parts[number] = part
            held.taken = True
            self._let_go(number, held)
            self._lines.changed.notify_all()

    def _taken(self, number: int, held: _Held) -> None:
        with self._lines.changed:
            held.taken = True
            self._let_go(number, held)

    def _let_go(self, number: int, held: _Held) -> None:
        if not (held.hashed and held.taken):
            return
        if held.buffer is not None:
            buffer, held.buffer = held.buffer, None
            self._lines.give_back(buffer)
        if number in self.parts:
            self._held.pop(number, None)

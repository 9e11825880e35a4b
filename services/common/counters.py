"""Counts that outlive the process that counts: rows of cells in a memory file for each worker of a service.

    file = magic (8 bytes) · bytes of keys in use (u64) · cells (u64 each) · keys
    key  = first cell (u32) · cells (u32) · length of the name (u32) · CRC-32 of all that (u32) · name, as JSON

A worker counts in its own slot's file alone; whoever replaces it finds its rows there and counts on. Any process that
holds the files adds the slots up, whether their workers live or not. A service that is one process counts in its own
memory by the same calls.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import struct
import threading
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import ClassVar

Key = tuple[str, ...]
"""The kind of row first, then what tells it from others of its kind."""

log = logging.getLogger(__name__)
MAGIC = 0x31544E554F434E50
CELLS = 2**20
CELLS_AT = 16
KEYS_AT = CELLS_AT + 8 * CELLS
FILE_BYTES = KEYS_AT + 16 * 2**20
"""Nearly all of it is never touched, and what is not touched takes no memory."""
_ENTRY = struct.Struct("<IIII")
_WORD = struct.Struct("<Q")


class Row:
    """Counts under one key. Whoever counts holds a lock of its own, and writes both copies:

        own[i] = cells[i] = own[i] + 1

    `own` is read at a list's speed, and `cells` is where others read. Counts are whole numbers from 0.
    """

    __slots__ = ("cells", "own")

    def __init__(self, own: list[int], cells: memoryview[int]) -> None:
        self.own = own
        self.cells = cells

    def add(self, index: int, count: int) -> None:
        """Count; for what happens too rarely to write the line out."""
        own = self.own
        own[index] = self.cells[index] = own[index] + count

    def values(self) -> list[int]:
        """Read the cells, by whichever of the two copies they were written."""
        return list(self.cells)


def create_file() -> int:
    """Make an empty file for one slot, and give its descriptor: it has no name, and goes with its last process."""
    descriptor = os.memfd_create("penstock-counters")
    os.ftruncate(descriptor, FILE_BYTES)
    os.pwrite(descriptor, _WORD.pack(MAGIC), 0)
    return descriptor


class SlotFile:
    """One slot's file, mapped. One process writes, any number read."""

    def __init__(self, descriptor: int, *, writable: bool) -> None:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._map = mmap.mmap(descriptor, FILE_BYTES, access=access)
        self._cells = memoryview(self._map)[CELLS_AT:KEYS_AT].cast("Q")
        self._read_to = KEYS_AT
        self._next_cell = 0
        self._full = False
        self.places: dict[Key, tuple[int, int]] = {}
        """First cell and number of cells of each row that was found so far."""

    def look(self) -> None:
        """Find the rows that were added since the last look."""
        end = KEYS_AT + _WORD.unpack_from(self._map, 8)[0]
        while self._read_to + _ENTRY.size <= end:
            first, count, length, checksum = _ENTRY.unpack_from(self._map, self._read_to)
            name_at = self._read_to + _ENTRY.size
            name = self._map[name_at : name_at + length]
            if _checksum(first, count, name) != checksum:
                return  # not all of it can be seen yet; the next look will
            self.places[tuple(json.loads(name))] = (first, count)
            self._read_to = name_at + length
            self._next_cell = first + count

    def values(self, key: Key) -> list[int]:
        """Read a row as it stands."""
        first, count = self.places[key]
        return self._cells[first : first + count].tolist()

    def row(self, key: Key, count: int) -> Row | None:
        """Find a row, or add it; None where the file is full."""
        if key not in self.places and not self._add(key, count):
            return None
        first, held = self.places[key]
        if held != count:
            raise ValueError(f"{key} has {held} cells, not {count}")
        cells = self._cells[first : first + count]
        return Row(cells.tolist(), cells)

    def _add(self, key: Key, count: int) -> bool:
        name = json.dumps(key, ensure_ascii=False).encode()
        end = self._read_to + _ENTRY.size + len(name)
        if end > FILE_BYTES or self._next_cell + count > CELLS:
            if not self._full:
                log.error("the workers' counters hold all they can; what is new is counted by each worker for itself")
            self._full = True
            return False
        entry = _ENTRY.pack(self._next_cell, count, len(name), _checksum(self._next_cell, count, name))
        self._map[self._read_to : end] = entry + name
        # Last, so that whoever is killed in between has added nothing.
        _WORD.pack_into(self._map, 8, end - KEYS_AT)
        self.look()
        return True


def _checksum(first: int, count: int, name: bytes) -> int:
    return zlib.crc32(_ENTRY.pack(first, count, len(name), 0) + name)


class Counters:
    """The counts of a service: its only process's, or those of all its workers.

    Args:
        descriptors: the slots' files; none: this process is the service, and nothing outlives it.
        slot: which of them is this process's own.
    """

    def __init__(self, descriptors: Sequence[int] = (), slot: int = 0) -> None:
        self._files = [SlotFile(each, writable=number == slot) for number, each in enumerate(descriptors)]
        self._own = self._files[slot] if descriptors else None
        self._rows: dict[Key, Row] = {}
        self._plain: dict[Key, Row] = {}
        """Those of them that are in no file, because there is none or because it is full."""
        self._lock = threading.Lock()
        if self._own is not None:
            self._own.look()

    @property
    def shared(self) -> bool:
        """Whether there are other workers, who read what is counted here."""
        return self._own is not None

    def row(self, key: Key, count: int) -> Row:
        """Find this process's row of so many cells, or add it; what the slot's last worker counted is in it."""
        with self._lock:
            found = self._rows.get(key)
            if found is None:
                found = self._own.row(key, count) if self._own else None
                if found is None:
                    found = self._plain[key] = _plain(count)
                self._rows[key] = found
            return found

    def sums(self, kind: str) -> dict[Key, list[int]]:
        """Add up, over all slots, the rows of a kind, in the order in which they were added to the first."""
        return {key: [*map(sum, zip(*slots, strict=True))] for key, slots in self.slots(kind).items()}

    def slots(self, kind: str) -> dict[Key, list[list[int]]]:
        """Read the rows of a kind, each from all slots that have it."""
        found: dict[Key, list[list[int]]] = {}
        with self._lock:
            for key, values in self._values(kind):
                found.setdefault(key, []).append(values)
        return found

    def own(self, kind: str) -> dict[Key, list[list[int]]]:
        """Read the rows of a kind that this process counts on in, likewise."""
        with self._lock:
            places = self._own.places if self._own is not None else {}
            return {key: [self._own.values(key)] for key in places if self._own is not None and key[0] == kind}

    def _values(self, kind: str) -> Iterator[tuple[Key, list[int]]]:
        for file in self._files:
            file.look()
            yield from ((key, file.values(key)) for key in file.places if key[0] == kind)
        yield from ((key, row.values()) for key, row in self._plain.items() if key[0] == kind)


class Cell:
    """An attribute of a Tally: a count that is read and written like any other."""

    def __set_name__(self, owner: type[Tally], name: str) -> None:
        self._index = len(owner.names)
        owner.names = (*owner.names, name)

    def __get__(self, tally: Tally, owner: type[Tally]) -> int:
        return tally.row.own[self._index]

    def __set__(self, tally: Tally, value: int) -> None:
        row = tally.row
        row.own[self._index] = row.cells[self._index] = value


class Tally:
    """Counts by names, each a Cell of the class. Where every nanosecond counts, write to the row itself."""

    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.row = _plain(len(self.names))

    def keep_in(self, counters: Counters, *key: str) -> None:
        """Count on in a row of the service's, before anything else is counted."""
        self.row = counters.row(key, len(self.names))


def _plain(count: int) -> Row:
    return Row([0] * count, memoryview(array("Q", bytes(8 * count))))

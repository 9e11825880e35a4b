"""What comes from a source, cut into parts where it arrives: each comes into the memory that it is stored from."""

from __future__ import annotations

from collections.abc import Callable
from mmap import mmap
from typing import Final

from services.fetcher.downloading.assembly import Assembly
from services.fetcher.downloading.lines import Lines
from services.fetcher.sources.source import Stopping

Told = Callable[[int], None]
"""Told how many bytes more are here; fewer, where some were for nothing."""
SPARE_BYTES: Final = 64 * 1024


class Filling:
    """Gives memory for what comes next, and hands over each part as the next begins, or in the end. For one thread.

    The last part waits for the end: where more comes than was asked for, it is not what it should be.
    `spare` is memory for what belongs into no part that is wanted; `add` takes it from there, should it be wanted.
    """

    def __init__(
        self, lines: Lines, assembly: Assembly, stopping: Stopping, *, part_bytes: int, size_bytes: int | None
    ) -> None:
        self._lines = lines
        self._assembly = assembly
        self._stopping = stopping
        self._part_bytes = part_bytes
        self._buffer_bytes = part_bytes if size_bytes is None else max(1, min(part_bytes, size_bytes))
        self._buffer: mmap | None = None
        self._filled = 0
        self.spare = memoryview(bytearray(SPARE_BYTES))

    def room(self, position: int) -> memoryview:
        """Give memory for bytes from a position of the file on: of its part, or, where that is here, some of no use."""
        number, begin = divmod(position, self._part_bytes)
        if begin == 0:
            self._hand_over(number - 1)
            if not self._assembly.has(number):
                self._buffer = self._lines.take(self._buffer_bytes, self._stopping)
        if self._buffer is None:
            return self.spare[: self._part_bytes - begin]
        return memoryview(self._buffer)[begin:]

    def came(self, position: int, size_bytes: int) -> int:
        """Take so many bytes that were written into the `room` at a position; gives how many of them are of use."""
        if self._buffer is None:
            return 0
        self._filled = position % self._part_bytes + size_bytes
        return size_bytes

    def add(self, position: int, chunk: memoryview, told: Told) -> None:
        """Copy bytes that begin at a position, and lie elsewhere, to where they belong."""
        while chunk:
            room = self.room(position)
            count = min(len(room), len(chunk))
            room[:count] = chunk[:count]
            told(self.came(position, count))
            position += count
            chunk = chunk[count:]

    def end(self, size_bytes: int, *, last: bool) -> None:
        """Hand over what is left: what came ends at this byte; `last`: so does the file, unless that was known."""
        if size_bytes == 0 and self._buffer is None:
            self._buffer = self._lines.take(self._buffer_bytes, self._stopping)
        if size_bytes == 0 or self._filled:
            self._hand_over(max(0, size_bytes - 1) // self._part_bytes)
        if last and self._assembly.count is None:
            self._assembly.end(part_count(size_bytes, self._part_bytes))

    def let_go(self) -> int:
        """Give back the memory of a part that is not all here; gives how many bytes of it had come."""
        buffer, filled, self._buffer, self._filled = self._buffer, self._filled, None, 0
        if buffer is not None:
            self._lines.give_back(buffer)
        return filled

    def _hand_over(self, number: int) -> None:
        buffer, filled, self._buffer, self._filled = self._buffer, self._filled, None, 0
        if buffer is not None:
            self._assembly.add(number, buffer, filled)


def part_count(size_bytes: int, part_bytes: int) -> int:
    """Say how many parts a file has; an empty one has one."""
    return max(1, -(-size_bytes // part_bytes))

"""The spool's files: records in segments, in order, each with a checksum.

    record  = marker (4 bytes) · length (u32) · CRC-32 of the payload (u32) · payload, little-endian
    segment = records; `0000000000000042.seg`, numbered in the order of writing

A process never appends to a segment that an earlier one left: what it finds is sealed, with a torn tail (a kill -9 in
the middle of a write) cut off. The marker lets a reader find the next good record after a bad one.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
import zlib
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

MARKER = b"\xf5pR\x01"
MAX_RECORD_BYTES = 16 * 2**20
_HEADER = struct.Struct("<4sII")


class SpoolBoundReached(Exception):
    """The spool holds as many bytes as it may."""


@dataclass(slots=True)
class Parsed:
    """What a stretch of a segment holds: good records, bad bytes by offset, and where a torn tail begins."""

    records: list[bytes] = field(default_factory=list)
    bad: list[tuple[int, bytes]] = field(default_factory=list)
    torn_at: int | None = None


def encode_record(payload: bytes) -> bytes:
    """Frame one payload."""
    return _HEADER.pack(MARKER, len(payload), zlib.crc32(payload)) + payload


def parse(data: bytes) -> Parsed:
    """Read the records of a stretch that begins at a record. `torn_at` is set if nothing good follows the last bad."""
    parsed = Parsed()
    position, bad_from = 0, -1
    while position < len(data):
        payload = _record_at(data, position)
        if payload is None:
            bad_from = position if bad_from < 0 else bad_from
            found = data.find(MARKER, position + 1)
            position = found if found >= 0 else len(data)
            continue
        if bad_from >= 0:
            parsed.bad.append((bad_from, data[bad_from:position]))
            bad_from = -1
        parsed.records.append(payload)
        position += _HEADER.size + len(payload)
    if bad_from >= 0:
        parsed.torn_at = bad_from
        parsed.bad.append((bad_from, data[bad_from:]))
    return parsed


def _record_at(data: bytes, position: int) -> bytes | None:
    start = position + _HEADER.size
    if start > len(data):
        return None
    marker, length, checksum = _HEADER.unpack_from(data, position)
    if marker != MARKER or length > MAX_RECORD_BYTES or start + length > len(data):
        return None
    payload = data[start : start + length]
    return payload if zlib.crc32(payload) == checksum else None


def cut_torn_tail(path: Path) -> int:
    """Truncate a segment after its last good record; returns how many bytes went."""
    data = path.read_bytes()
    torn_at = parse(data).torn_at
    if torn_at is None:
        return 0
    os.truncate(path, torn_at)
    return len(data) - torn_at


def segment_paths(folder: Path) -> list[Path]:
    """List a folder's segments in the order of writing."""
    return sorted(folder.glob("*.seg"))


def segment_path(folder: Path, sequence: int) -> Path:
    """Name a segment."""
    return folder / f"{sequence:016d}.seg"


@dataclass(slots=True)
class Segment:
    """One segment: `size` bytes are whole records, of which `answered` have been answered for."""

    path: Path
    size: int = 0
    answered: int = 0
    sealed: bool = True


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a segment that has not been answered for yet."""

    segment: Segment
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """Where the stretch ends within its segment."""
        return self.offset + len(self.data)


class SegmentLog:
    """The segments of one folder, written at one end by one thread and read at the other by another."""

    def __init__(self, folder: Path, *, segment_bytes: int, segment_age_s: float, max_bytes: int) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._segment_age_s = segment_age_s
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._segments: deque[Segment] = deque()
        self._descriptor = -1
        self._began = 0.0
        self._sequence = 0
        self._ended = False

    def open(self) -> None:
        """Take up the segments that are there, sealed."""
        for path in segment_paths(self._folder):
            self._sequence = int(path.stem) + 1
            size = path.stat().st_size
            if size:
                self._segments.append(Segment(path, size))
            else:
                path.unlink()

    @property
    def held_bytes(self) -> int:
        """The bytes on disk."""
        with self._changed:
            return sum(segment.size for segment in self._segments)

    def write(self, group: bytes) -> None:
        """Append whole records in one write. Raises SpoolBoundReached, or OSError and then nothing is written."""
        with self._changed:
            if sum(segment.size for segment in self._segments) + len(group) > self._max_bytes:
                raise SpoolBoundReached
            segment = self._active(len(group))
            try:
                _write_all(self._descriptor, group, segment.size)
            except OSError:
                # Whatever part of it did fit goes again: a reader must never meet half a record.
                os.ftruncate(self._descriptor, segment.size)
                raise
            segment.size += len(group)
            self._changed.notify_all()

    def sync(self) -> None:
        """Bring what was written to the disk itself."""
        if self._descriptor >= 0:
            os.fdatasync(self._descriptor)

    def wait(self) -> None:
        """Wait until there is something to read, or the log has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._unanswered() is not None)

    def read(self) -> Stretch | None:
        """Read the oldest stretch that is not answered for, up to the end of its segment; None if all is."""
        with self._changed:
            segment = self._unanswered()
            return None if segment is None else self._read(segment)

    def answer(self, stretch: Stretch) -> None:
        """Mark a stretch as answered for. A segment with nothing else in it goes: the file, or what is in it."""
        with self._changed:
            segment = stretch.segment
            segment.answered = stretch.end
            if segment.answered < segment.size:
                return
            if segment.sealed:
                segment.path.unlink(missing_ok=True)
                self._segments.remove(segment)
            else:
                # Emptied, not deleted: it is open. A restart then sends nothing twice.
                os.ftruncate(self._descriptor, 0)
                segment.size = segment.answered = 0

    def end(self) -> None:
        """Say that nothing more will be written, so that `wait` waits no longer."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close the file; an empty segment is deleted."""
        with self._changed:
            self._seal()

    def _unanswered(self) -> Segment | None:
        return next((segment for segment in self._segments if segment.answered < segment.size), None)

    def _active(self, incoming: int) -> Segment:
        """Find the segment to write to, or begin the next one."""
        now = time.monotonic()
        if self._descriptor >= 0:
            segment = self._segments[-1]
            full = segment.size + incoming > self._segment_bytes or now - self._began > self._segment_age_s
            if not full or segment.size == 0:
                return segment
            self._seal()
        path = segment_path(self._folder, self._sequence)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._sequence += 1
        self._began = now
        segment = Segment(path, sealed=False)
        self._segments.append(segment)
        return segment

    def _seal(self) -> None:
        if self._descriptor < 0:
            return
        segment = self._segments[-1]
        segment.sealed = True
        os.close(self._descriptor)
        self._descriptor = -1
        if segment.size == 0:
            segment.path.unlink(missing_ok=True)
            self._segments.pop()

    def _read(self, segment: Segment) -> Stretch:
        try:
            with segment.path.open("rb") as opened:
                opened.seek(segment.answered)
                data = opened.read(segment.size - segment.answered)
        except FileNotFoundError:
            data = b""
        if len(data) < segment.size - segment.answered:
            log.error("%s was cut short by somebody else; what is left of it is sent", segment.path)
            segment.size = segment.answered + len(data)
        return Stretch(segment, segment.answered, data)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written

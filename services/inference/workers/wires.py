"""Frames between the supervisor and what it started: a kind, a length, and bytes, over a Unix socket pair.

    frame = length of the payload (u32, network order) · kind (u8) · payload

Whoever speaks through a wire is a child of the other's, so a frame that breaks the rules is a defect, and ends it.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

MAX_FRAME_BYTES = 2**28
MAX_WAITING_BYTES = 2**29
"""What may wait for a child that does not read; one with more is as good as hung."""
_HEADER = struct.Struct("!IB")
_READ_BYTES = 2**18


class Kind(IntEnum):
    """What a frame holds: a JSON message, or a registry's WatchModelsResponse.

    A snapshot comes in parts, the last of which is SNAPSHOT; CHANGE is what one transaction changed since. BASE is a
    snapshot that says nothing new, for those who come late.
    """

    MESSAGE = 0
    SNAPSHOT_PART = 1
    SNAPSHOT = 2
    BASE_PART = 3
    BASE = 4
    CHANGE = 5


Frame = tuple[Kind, bytes]


def packed(kind: Kind, payload: bytes) -> bytes:
    """Write a frame."""
    if len(payload) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(payload)} bytes; {MAX_FRAME_BYTES} are allowed")
    return _HEADER.pack(len(payload), kind) + payload


def message(content: Mapping[str, Any]) -> bytes:
    """Write a frame that holds a JSON message."""
    return packed(Kind.MESSAGE, json.dumps(content).encode())


class Unpacker:
    """Finds the frames in what a socket gives."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take what was read, and give each frame that is whole by now; raises ValueError for what is none."""
        self._bytes += data
        while len(self._bytes) >= _HEADER.size:
            length, kind = _HEADER.unpack_from(self._bytes)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes came; {MAX_FRAME_BYTES} are allowed")
            end = _HEADER.size + length
            if len(self._bytes) < end:
                return
            payload = bytes(self._bytes[_HEADER.size : end])
            del self._bytes[:end]
            yield Kind(kind), payload


class Wire:
    """A child's end: reads block, writes may come from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._writing = threading.Lock()

    def send(self, frame: bytes) -> None:
        """Send a frame; raises OSError where the other end is gone."""
        with self._writing:
            self._socket.sendall(frame)

    def frames(self) -> Iterator[Frame]:
        """Give what comes until the other end is gone."""
        unpacker = Unpacker()
        while data := self._read():
            yield from unpacker.feed(data)

    def _read(self) -> bytes:
        try:
            return self._socket.recv(_READ_BYTES)
        except OSError:  # closed on the other side while something waited there to be read
            return b""


class QueuedWire:
    """The supervisor's end: never blocks. One thread uses it."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self._waiting = bytearray()
        self._unpacker = Unpacker()

    @property
    def has_waiting(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._waiting)

    def send(self, frame: bytes) -> bool:
        """Send now or later; False where too much waits already: the child does not read."""
        if len(self._waiting) + len(frame) > MAX_WAITING_BYTES:
            return False
        self._waiting += frame
        self.flush()
        return True

    def flush(self) -> None:
        """Send what can be sent now."""
        try:
            while self._waiting:
                sent = self.socket.send(self._waiting[:_READ_BYTES])
                del self._waiting[:sent]
        except BlockingIOError:
            return
        except OSError:  # it is dead; whoever reads from it will see
            self._waiting.clear()

    def receive(self) -> Iterator[Frame] | None:
        """Give the frames that have come; None where the child is gone."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return iter(())
        except OSError:
            return None
        return self._unpacker.feed(data) if data else None

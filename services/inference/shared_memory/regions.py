"""Regions of system shared memory, through which tensors travel beside the messages.

A region is read and written by pread and pwrite on its descriptor, never mapped: a client that shrinks its region under
us would otherwise kill this process with SIGBUS, and what is checked could change before it is used. That costs one
copy of a tensor, which a message costs several times over.
"""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)

FOLDER: Final = Path("/dev/shm")  # noqa: S108 - where Linux keeps the objects of shm_open
MAX_REGIONS: Final = 256
MAX_NAME_CHARS: Final = 256
MAX_KEY_BYTES: Final = 254
MAX_PLACE_BYTES: Final = 64 * 2**20
# Links are not followed, and a pipe of that name holds nobody up.
_OPEN_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a shared memory object: `size_bytes` from `offset_bytes`. `key` is what shm_open takes."""

    name: str
    key: str
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: `size_bytes` from `offset_bytes` within the region of that name."""

    region: str
    offset_bytes: int
    size_bytes: int


class _Object:
    """An open shared memory object. It closes with the last who reads or writes it, forgotten meanwhile or not."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class Regions:
    """The regions that are registered in this process. Any thread may use them.

    `max_place_bytes`: what one tensor may take. A region may be larger, since it costs nothing that nobody reads.
    """

    def __init__(self, folder: Path = FOLDER, *, max_place_bytes: int = MAX_PLACE_BYTES) -> None:
        self._folder = folder
        self._max_place_bytes = max_place_bytes
        self._lock = threading.Lock()
        self._regions: dict[str, tuple[Region, _Object]] = {}

    def register(self, region: Region) -> None:
        """Open a region; the same one again is opened anew, for its object may have been made anew.

        Raises:
            InvalidArgument: the name or the key is none (INVALID_FIELD), or the object is smaller than the region
                (SHARED_MEMORY_TOO_SMALL).
            AlreadyExists: the name is another region's (SHARED_MEMORY_REGION_EXISTS).
            NotFound: there is no such object (SHARED_MEMORY_OBJECT_NOT_FOUND).
            PermissionDenied: the object belongs to another user, others may write to it, or it is a link or the
                like (SHARED_MEMORY_FOREIGN).
            ResourceExhausted: there are too many (SHARED_MEMORY_REGIONS_FULL).
        """
        _check_name(region.name)
        opened = self._open(region)
        with self._lock:
            before = self._regions.get(region.name)
            if before is not None and before[0] != region:
                raise AlreadyExists(
                    f"shared memory region '{region.name}' is registered already, as another one; unregister it first",
                    reason="SHARED_MEMORY_REGION_EXISTS",
                )
            if before is None and len(self._regions) >= MAX_REGIONS:
                raise ResourceExhausted(
                    f"{MAX_REGIONS} shared memory regions are registered; unregister those not in use",
                    reason="SHARED_MEMORY_REGIONS_FULL",
                )
            self._regions[region.name] = (region, opened)

    def unregister(self, name: str) -> None:
        """Forget a region, or all where the name is empty; one that is not there is forgotten already."""
        with self._lock:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def list_regions(self, name: str = "") -> list[Region]:
        """List a region, or all, by name; raises NotFound(SHARED_MEMORY_REGION_NOT_FOUND) for an unknown one."""
        if name:
            return [self._find(name)[0]]
        with self._lock:
            return [self._regions[each][0] for each in sorted(self._regions)]

    def check(self, place: Place) -> None:
        """Pass, or raise as `read` does where the place is none."""
        self._locate(place)

    def read(self, place: Place) -> bytes:
        """Read a tensor's bytes.

        Raises:
            NotFound: the region is not registered (SHARED_MEMORY_REGION_NOT_FOUND).
            InvalidArgument: the place is not within it (SHARED_MEMORY_OUT_OF_RANGE), or larger than a tensor may be
                (SHARED_MEMORY_TOO_LARGE).
            FailedPrecondition: its object has shrunk (SHARED_MEMORY_SHRUNK).
        """
        position, opened = self._locate(place)
        parts: list[bytes] = []
        left = place.size_bytes
        while left:
            part = os.pread(opened.descriptor, left, position)  # at most 2 GiB at once
            if not part:
                raise _shrunk(place.region)
            parts.append(part)
            position += len(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, place: Place, data: bytes) -> None:
        """Write a tensor's bytes; raises as `read` does, and SHARED_MEMORY_TOO_SMALL where they are more than fit."""
        if len(data) > place.size_bytes:
            raise InvalidArgument(
                f"the tensor takes {len(data)} bytes, and its place in shared memory region '{place.region}' has "
                f"{place.size_bytes}; give it more",
                reason="SHARED_MEMORY_TOO_SMALL",
            )
        position, opened = self._locate(place)
        if os.fstat(opened.descriptor).st_size < position + len(data):
            raise _shrunk(place.region)  # writing would make it grow again
        left = memoryview(data)
        while left:
            written = os.pwrite(opened.descriptor, left, position)
            position += written
            left = left[written:]

    def _open(self, region: Region) -> _Object:
        try:
            opened = _Object(os.open(self._folder / _file_name(region.key), _OPEN_FLAGS))
        except FileNotFoundError as error:
            sentence = f"there is no shared memory object '{region.key}' on this machine"
            raise NotFound(sentence, reason="SHARED_MEMORY_OBJECT_NOT_FOUND") from error
        except OSError as error:
            raise _foreign(region.key) from error
        found = os.fstat(opened.descriptor)
        open_to_others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or open_to_others:
            raise _foreign(region.key)
        end = region.offset_bytes + region.size_bytes
        if region.offset_bytes < 0 or region.size_bytes <= 0 or end > found.st_size:
            raise InvalidArgument(
                f"bytes {region.offset_bytes} to {end} are not all within shared memory object '{region.key}', which "
                f"has {found.st_size}, or are none",
                reason="SHARED_MEMORY_TOO_SMALL",
            )
        return opened

    def _locate(self, place: Place) -> tuple[int, _Object]:
        region, opened = self._find(place.region)
        end = place.offset_bytes + place.size_bytes
        if place.offset_bytes < 0 or place.size_bytes < 0 or end > region.size_bytes:
            raise InvalidArgument(
                f"bytes {place.offset_bytes} to {end} are not all within shared memory region '{place.region}', which "
                f"has {region.size_bytes}",
                reason="SHARED_MEMORY_OUT_OF_RANGE",
            )
        if place.size_bytes > self._max_place_bytes:
            raise InvalidArgument(
                f"a tensor of {place.size_bytes} bytes; {self._max_place_bytes} are allowed in shared memory as in a "
                "message (PENSTOCK_MAX_MESSAGE_BYTES)",
                reason="SHARED_MEMORY_TOO_LARGE",
            )
        return region.offset_bytes + place.offset_bytes, opened

    def _find(self, name: str) -> tuple[Region, _Object]:
        found = self._regions.get(name)
        if found is None:
            raise NotFound(
                f"Unable to find shared memory region: '{name[:MAX_NAME_CHARS]}'; register it first",
                reason="SHARED_MEMORY_REGION_NOT_FOUND",
            )
        return found


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        sentence = f"{len(name)} characters came; 1 to {MAX_NAME_CHARS} are allowed"
        raise InvalidArgument.field("name", sentence, reason="INVALID_FIELD")


def _file_name(key: str) -> str:
    """Find the object's file as shm_open does: one leading slash is no part of the name, and no other is allowed."""
    name = key.removeprefix("/")
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name.encode()) > MAX_KEY_BYTES:
        sentence = f"{key[:MAX_NAME_CHARS]!r} is no name of a shared memory object; send what shm_open takes"
        raise InvalidArgument.field("key", sentence, reason="INVALID_FIELD")
    return name


def _foreign(key: str) -> PermissionDenied:
    return PermissionDenied(
        f"'{key}' is no shared memory object of this server's user that nobody else may write to",
        reason="SHARED_MEMORY_FOREIGN",
    )


def _shrunk(region: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the object of shared memory region '{region}' has become smaller; register it anew",
        reason="SHARED_MEMORY_SHRUNK",
    )

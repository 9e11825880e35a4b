"""Channels that follow the files of their credentials: when those change, new calls go over new channels."""

from __future__ import annotations

import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc

from penstock.credentials import Stamp
from penstock.errors import InvalidArgument

_log = logging.getLogger(__name__)
LOOK_INTERVAL_S = 1.0
MAX_RETIRED = 8
"""Sets of channels that may wait for their last calls; the oldest beyond is closed under them."""
Stub = TypeVar("Stub")
Opened = Sequence[tuple[grpc.Channel, Stub]]


class Rotation(Generic[Stub]):
    """Gives the stub of each channel in turn, of the channels that stand on the files as they are now.

    The files are looked at by whoever asks for a stub, at most once a second. Files that can't be used, as when one of
    a pair has been replaced and the other not yet, change nothing. The calls in flight finish where they began; their
    channels are closed afterwards, at a later look.

    Args:
        open_channels: opens channels on the files as they are now.
        stamp: tells one state of the files from another.
    """

    def __init__(self, open_channels: Callable[[], Opened[Stub]], stamp: Callable[[], Stamp]) -> None:
        self._open = open_channels
        self._stamp_now = stamp
        self._lock = threading.Lock()
        self._stamp = stamp()
        self._present = open_channels()
        self._stubs = itertools.cycle([stub for _, stub in self._present])
        self._retired: list[_Retired] = []
        self._next_look = time.monotonic() + LOOK_INTERVAL_S
        self._closed = False

    def __iter__(self) -> Rotation[Stub]:
        return self

    def __next__(self) -> Stub:
        if time.monotonic() >= self._next_look:
            self._look()
        return next(self._stubs)

    def add(self, open_more: Callable[[], Opened[Stub]]) -> None:
        """Give the stubs of more channels in turn, beside those there are."""
        with self._lock:
            if not self._closed:
                self._present = [*self._present, *open_more()]
                self._stubs = itertools.cycle([stub for _, stub in self._present])

    def close(self) -> None:
        """Close every channel; calls in flight end with Cancelled."""
        with self._lock:
            self._closed = True
            for retired in self._retired:
                retired.close()
            for channel, _ in self._present:
                channel.close()

    def _look(self) -> None:
        if not self._lock.acquire(blocking=False):
            return  # another thread is looking; this call takes what there is
        try:
            self._next_look = time.monotonic() + LOOK_INTERVAL_S
            self._close_idle()
            stamp = self._stamp_now()
            if stamp != self._stamp and not self._closed:
                self._stamp = stamp
                self._rotate()
        finally:
            self._lock.release()

    def _rotate(self) -> None:
        try:
            fresh = self._open()
        except (OSError, InvalidArgument) as error:
            _log.error(
                "the files of the credentials have changed and are of no use; what they held before stays: %s", error
            )
            return
        past, self._present = self._present, fresh
        self._stubs = itertools.cycle([stub for _, stub in fresh])
        self._retired.append(_Retired(past))
        while len(self._retired) > MAX_RETIRED:
            self._retired.pop(0).close()
        _log.info("the files of the credentials have changed; new calls go over new channels")

    def _close_idle(self) -> None:
        for retired in [each for each in self._retired if not each.in_use]:
            self._retired.remove(retired)
            retired.close()


class _Retired:
    """Channels that no new call takes. Whoever is in a call holds one of their stubs' methods until it is over."""

    def __init__(self, past: Opened[Any]) -> None:
        self._channels = [channel for channel, _ in past]
        held = [each for _, stub in past for each in (stub, *vars(stub).values())]
        self._held = [weakref.ref(each) for each in held]

    @property
    def in_use(self) -> bool:
        return any(held() is not None for held in self._held)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

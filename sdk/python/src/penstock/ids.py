"""UUIDv7 (RFC 9562, section 5.7): ids that are unique without a server, grow with time, and tell their time.

Within a process ids only grow, by the 42-bit counter of section 6.2, method 1, as Python 3.14's own uuid7 does it.
"""

from __future__ import annotations

import os
import random
import threading
import uuid
from datetime import UTC, datetime, timedelta
from time import time_ns

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION_7 = 7 << 12
_VARIANT = 0b10 << 14
_MAX_MS = (1 << 48) - 1
_COUNTER_BITS = 42
# A generator of our own: one that a program seeds for its experiments would give two workers the same ids.
_random = random.Random()  # noqa: S311 - unique, not secret
_lock = threading.Lock()
_last_ms = 0
_counter = 0


def uuid7(time: datetime | None = None) -> str:
    """Make a new id, now or, for what happened earlier, of the time given (aware, from 1970 on).

    Ids made now are each greater than the one before, in this process, also when the clock steps back.

    Raises:
        ValueError: the time is naive or before 1970.
    """
    if time is not None:
        return _format(_milliseconds(time), _random.getrandbits(_COUNTER_BITS), _random.getrandbits(32))
    global _last_ms, _counter  # the state is the process's
    now_ms = time_ns() // 1_000_000
    with _lock:
        if now_ms > _last_ms:
            _last_ms = now_ms
            # The top bit is clear, so that 2^41 ids of this millisecond fit above.
            _counter = _random.getrandbits(_COUNTER_BITS - 1)
        else:
            _counter += 1
        unix_ms, counter, tail = _last_ms, _counter, _random.getrandbits(32)
    return _format(unix_ms, counter, tail)


def time_of(uuid7: str) -> datetime:
    """Read the time in an id, aware and in UTC, to the millisecond.

    Raises:
        ValueError: it is no UUIDv7.
    """
    try:
        parsed = uuid.UUID(uuid7)
    except (ValueError, AttributeError, TypeError):
        parsed = None
    if parsed is None or parsed.version != 7:
        raise ValueError(f"{uuid7!r} is no UUIDv7; take the inference_id that a prediction gave")
    try:
        return _EPOCH + timedelta(milliseconds=parsed.int >> 80)
    except OverflowError as error:
        raise ValueError(f"{uuid7!r} names a time after the year 9999") from error


def _format(unix_ms: int, counter: int, tail: int) -> str:
    # One number and its hex digits: every prediction has an id, and five formatted numbers take half as long again.
    high = unix_ms << 16 | _VERSION_7 | counter >> 30
    low = (_VARIANT | (counter >> 16) & 0x3FFF) << 48 | (counter & 0xFFFF) << 32 | tail
    digits = (high << 64 | low).to_bytes(16, "big").hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _milliseconds(time: datetime) -> int:
    if time.tzinfo is None:
        raise ValueError(f"the time {time.isoformat()} has no time zone; give an aware one")
    unix_ms = (time - _EPOCH) // timedelta(milliseconds=1)
    if not 0 <= unix_ms <= _MAX_MS:
        raise ValueError(f"the time {time.isoformat()} is before 1970")
    return unix_ms


def _after_fork() -> None:
    # A child would go on with its parent's numbers, and with its lock as some other thread held it.
    global _lock, _last_ms
    _random.seed()
    _lock = threading.Lock()
    _last_ms = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""This process's memory: how much it holds, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Read the resident set size; 0 where the system has no /proc, and then nothing can be measured."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def trim_memory() -> None:
    """Hand freed memory back to the system: glibc keeps it otherwise, hundreds of megabytes after a few models."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def _find_malloc_trim() -> ctypes._NamedFuncPointer | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # musl, macOS
        return None


_malloc_trim = _find_malloc_trim()

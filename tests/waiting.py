"""How tests wait for what others do: they look again and again, and leave the processor to those who do it."""

from __future__ import annotations

import time
from collections.abc import Iterator

LONGEST_PAUSE_S = 0.05


def looks(within_s: float, *, every_s: float = 0.01) -> Iterator[None]:
    """Yield for each look, of which there is one at least, until so much time is over.

    A look that takes long, since it connects to a database or reads a page, is followed by as long a pause: otherwise
    whoever waits for a process to start takes one of two processors from it.
    """
    deadline = time.monotonic() + within_s
    while True:
        began = time.monotonic()
        yield
        if (now := time.monotonic()) >= deadline:
            return
        time.sleep(max(every_s, min(now - began, LONGEST_PAUSE_S)))

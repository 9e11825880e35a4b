"""A look at a source that ends in time: a server that drips would hold its caller's place for hours."""

from __future__ import annotations

import threading
from typing import Final

from services.fetcher.downloading.ending import Ending
from services.fetcher.faults import NetworkError
from services.fetcher.models import Reference
from services.fetcher.sources.source import Found, Source, Stopping

LOOK_S: Final = 120.0
"""How long a look may take in all."""


def looked_at(source: Source, reference: Reference, stopping: Stopping) -> Found:
    """Look at what a reference names; see `Source.find`.

    Raises:
        NetworkError: it took longer than `LOOK_S`; and what `find` raises.
    """
    late = threading.Event()

    def check() -> None:
        stopping.check()
        if late.is_set():
            raise NetworkError(f"the source had not answered after {LOOK_S:.0f} s")

    ending = Ending(Stopping(check, stopping.on_stop, stopping.forget, stopping.kept))

    def end() -> None:
        late.set()
        ending.stop()

    timer = threading.Timer(LOOK_S, end)
    timer.daemon = True
    timer.start()
    try:
        return source.find(reference, ending.stopping)
    finally:
        timer.cancel()

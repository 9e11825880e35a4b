"""Training runs, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.common.server import Service
from services.trainer.parts import Parts


def open_runs(parts: Parts) -> tuple[Sequence[Service], Sequence[Callable[[], None]]]:
    """Open what runs need; gives the services, and what the health answer asks."""
    del parts
    return (), ()

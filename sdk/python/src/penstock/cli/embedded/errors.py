"""What can keep `penstock up` from standing up, each a sentence for the person at the terminal."""

from __future__ import annotations

from pathlib import Path


class EmbeddedError(Exception):
    """The embedded suite can't start or go on; the message says why and what to do."""


class AlreadyRunningError(EmbeddedError):
    """Another `penstock up` works on this data folder; `pid` is its process, where known."""

    def __init__(self, folder: Path, *, pid: int | None) -> None:
        super().__init__(
            f"Penstock already runs on {folder} (pid {pid or 'unknown'}); "
            "`penstock down` stops it, and --data-dir takes another folder."
        )
        self.pid = pid


class StopRequestedError(EmbeddedError):
    """Somebody asked to stop before everything was up; not a failure."""

"""Workers anywhere, which ask for runs themselves."""

from __future__ import annotations

from typing import ClassVar

from services.trainer.executing.outside import Standing, Submission
from services.trainer.faults import TrainingFailed


class RemotePlace:
    """Starts nothing: whoever has an operator's key and runs `python -m services.trainer.worker` is a worker."""

    name: ClassVar[str] = "REMOTE"
    submits: ClassVar[bool] = False

    def submit(self, submission: Submission) -> None:
        """Never asked."""
        raise TrainingFailed(f"{submission.name}: remote workers ask for runs, and are sent none")

    def standing(self, name: str) -> tuple[Standing, str]:
        """Its worker alone says."""
        return Standing.GOING, name

    def stop(self, name: str) -> None:
        """Its worker hears it with its next report."""

    def log_tail(self, name: str) -> bytes:
        """All that is known came by reports."""
        del name
        return b""

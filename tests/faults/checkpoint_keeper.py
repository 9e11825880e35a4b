"""A process that keeps two checkpoints of a run, and is killed at a point of keeping the second."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from services.common.blobs import FileBlobStore, open_blobs
from services.common.jobs import Concurrency, JobRun, JobStore
from services.common.postgres import Database
from services.trainer.runs.folders import CHECKPOINT, Folders
from services.trainer.store import NamedBlobs, PassingBlobs

LEASE_S = 600.0
POINTS: dict[str, tuple[type, str, bool]] = {
    "before it is known": (NamedBlobs, "name", False),
    "once its bytes are there": (PassingBlobs, "put", True),
    "before the change is kept": (PassingBlobs, "discard", True),
    "before the old bytes go": (PassingBlobs, "delete", False),
    "once the old bytes are gone": (FileBlobStore, "delete", True),
}
"""Where it is killed: at a method, after it (else before it)."""


def main(database_url: str, blob_url: str, folder: Path, point: str) -> None:
    with ExitStack() as stack:
        database = stack.enter_context(Database(database_url, pool_size=4))
        jobs = JobStore(database, "trainer", "training_runs")
        claimed = jobs.claim("keeper", LEASE_S, Concurrency())
        if claimed is None:
            raise AssertionError("there is a run")
        run = JobRun(jobs, *claimed, LEASE_S)
        folders = Folders(PassingBlobs(database, open_blobs(blob_url, prefix="trainer")), 10_000)
        for content in ("first", "second"):
            (folder / "state").write_text(content)
            if content == "second":
                kill_at(*POINTS[point])
            folders.keep(run, CHECKPOINT, folder)


def kill_at(owner: type, method: str, after: bool) -> None:
    original: Callable[..., Any] = getattr(owner, method)

    def killed(*args: Any, **more: Any) -> None:
        if after:
            original(*args, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, method, killed)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])

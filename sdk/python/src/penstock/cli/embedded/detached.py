"""A suite in the background: starting one, and stopping the one that runs on a folder."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from penstock.cli.embedded.errors import AlreadyRunningError, EmbeddedError
from penstock.cli.embedded.folder import DataFolder, State
from penstock.cli.embedded.processes import stop_process

LOOK_INTERVAL_S = 0.05
STOP_GRACE_S = 120.0


def start_detached(folder: DataFolder, command: Sequence[str], *, deadline_s: float) -> State:
    """Run `command` (a `penstock up` on `folder`) in a session of its own; return when all is healthy.

    Its output goes to logs/up.log. Raises AlreadyRunningError when one runs there, and EmbeddedError with the log's
    end when it ends or is late. A Ctrl-C before that stops it.
    """
    if (running := folder.find_running()) is not None:
        raise AlreadyRunningError(folder.path, pid=running.supervisor.pid)
    folder.make()
    log = folder.logs / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + deadline_s
    try:
        while time.monotonic() < deadline:
            state = folder.find_running()
            if state is not None and state.supervisor.pid == process.pid and state.ready:
                return state
            if process.poll() is not None:
                raise EmbeddedError(_last_words(log))
            time.sleep(LOOK_INTERVAL_S)
    except BaseException:  # nobody would know of it
        process.terminate()
        raise
    process.terminate()
    raise EmbeddedError(f"Penstock is not healthy after {deadline_s:g} s and was stopped; see {log}.")


def _last_words(log: Path) -> str:
    """Give what the `penstock up` that ended said last, without the marks that our own error gets again."""
    said = log.read_text(errors="replace").strip()[-4000:]
    sentence = said.removeprefix("penstock: ").removesuffix(" [SUITE_FAILED]")
    return f"Penstock did not start: {sentence or 'it said nothing'}"


def stop_running(folder: DataFolder, *, grace_s: float = STOP_GRACE_S) -> int | None:
    """Stop the suite that runs on `folder`, and return its pid once it is gone; None when none runs."""
    running = folder.find_running()
    process = running.supervisor.find() if running else None
    if process is None:
        return None
    stop_process(process, (signal.SIGTERM, signal.SIGKILL), grace_s=grace_s)
    return process.pid

"""Looking at processes, and ending them, when a pid is all that is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

LOOK_INTERVAL_S = 0.02


def find_process(pid: int | None) -> psutil.Process | None:
    """Find a living process; None when the pid is nobody's, or a zombie's."""
    if pid is None or pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def stop_process(process: psutil.Process, signals: Sequence[signal.Signals], *, grace_s: float) -> None:
    """Send each signal in turn until the process is gone, waiting `grace_s` after each."""
    for sent in signals:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(sent)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline:
            if not is_alive(process):
                return
            time.sleep(LOOK_INTERVAL_S)


def is_alive(process: psutil.Process) -> bool:
    """Say whether it still runs. A zombie does not: it only waits to be counted, maybe for ever."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

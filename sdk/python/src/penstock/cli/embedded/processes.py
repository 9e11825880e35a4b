"""Looking at processes, and ending them, when a pid is all that is left."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import psutil


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
        try:
            process.send_signal(sent)
            process.wait(grace_s)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired:
            continue
        else:
            return

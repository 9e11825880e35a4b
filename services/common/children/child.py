"""Starts a process for one untrusted file, hears what it says, and kills whatever is left of it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).resolve().parents[3]
# -I ignores the folder and the environment that we were started in, so the way to our own modules is given.
_START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
_READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its exit code, below 0 the signal that ended it, and what it said and complained."""

    returncode: int
    said: bytearray
    complained: bytearray


class TooMuch(Exception):
    """The child said more than it may."""


def run_child(
    module: str,
    settings: str,
    folder: Path,
    *,
    deadline: float,
    limit_bytes: int,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
) -> Ended:
    """Run a module of ours in a process group of its own and hear it to its end.

    Args:
        module: run as `__main__`, without our environment.
        settings: its first argument, 128 KiB at most.
        folder: that it starts in.
        deadline: on the monotonic clock.
        limit_bytes: of its answer, and separately of what it says on stderr.
        stdin: what it may read.

    Raises:
        TimeoutError: it had not ended at the deadline.
        TooMuch: it said more than it may.
        OSError: no process can be started.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", _START, str(_ROOT), module, settings],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
        cwd=folder,
        start_new_session=True,
    )
    with process:
        try:
            heard = _listen(process, deadline, limit_bytes)
        finally:
            # The whole group, before its leader is reaped, so that the number is still its own. A leader that
            # has closed its pipes by ending keeps the exit code that it ended with.
            with contextlib.suppress(PermissionError):  # macOS has this for a group that has ended
                os.killpg(process.pid, signal.SIGKILL)
    return Ended(process.returncode, *heard)


def signal_name(number: int) -> str:
    """Name a signal, as `Ended.returncode` has its number."""
    named = {known.value: known.name for known in signal.Signals}
    return named.get(number, f"signal {number}")


def _listen(process: subprocess.Popen[bytes], deadline: float, limit_bytes: int) -> tuple[bytearray, bytearray]:
    """Read both pipes to their ends; raises TimeoutError at the deadline, TooMuch above the limit."""
    heard: dict[IO[bytes], bytearray] = {}
    with selectors.DefaultSelector() as selector:
        for pipe in filter(None, (process.stdout, process.stderr)):
            heard[pipe] = bytearray()
            selector.register(pipe, selectors.EVENT_READ, pipe)
        while selector.get_map():
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise TimeoutError
            for key, _ in selector.select(remaining_s):
                pipe = key.data
                chunk = os.read(pipe.fileno(), _READ_BYTES)
                heard[pipe] += chunk
                if len(heard[pipe]) > limit_bytes:
                    raise TooMuch
                if not chunk:
                    selector.unregister(pipe)
    said, complained = heard.values()
    return said, complained

"""Starts a process for one untrusted file, hears what it says, and kills whatever is left of it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
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
_CHECK_S = 0.5


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
    into: IO[bytes] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Ended:
    """Run a module of ours in a process group of its own and hear it to its end.

    Args:
        module: run as `__main__`, without our environment.
        settings: its first argument, 128 KiB at most.
        folder: that it starts in.
        deadline: on the monotonic clock.
        limit_bytes: of its answer, and separately of what it says on stderr.
        stdin: what it may read.
        into: where its answer goes as it comes, in place of `Ended.said`; None: it is held in memory.
        check: called at least twice a second while it runs, and may raise: the child is killed then.

    Raises:
        TimeoutError: it had not ended at the deadline.
        TooMuch: it said more than it may.
        OSError: no process can be started.
    """
    process = start_child(module, settings, folder, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        try:
            heard = _listen(process, deadline, limit_bytes, into, check)
        finally:
            # The whole group, before its leader is reaped, so that the number is still its own. A leader that
            # has closed its pipes by ending keeps the exit code that it ended with.
            with contextlib.suppress(PermissionError):  # macOS has this for a group that has ended
                os.killpg(process.pid, signal.SIGKILL)
    return Ended(process.returncode, *heard)


def start_child(
    module: str,
    settings: str,
    folder: Path,
    *,
    stdout: IO[bytes] | int,
    stderr: IO[bytes] | int,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
    descriptors: Collection[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a module of ours in a session and process group of its own, without our environment.

    Args:
        module: run as `__main__`.
        settings: its first argument, 128 KiB at most.
        folder: that it starts in.
        stdout: where it prints to.
        stderr: where it complains to.
        stdin: what it may read.
        environment: all that it has of one; by default nothing.
        descriptors: what else of ours stays open in it, under the same numbers.

    Raises:
        OSError: no process can be started.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", _START, str(_ROOT), module, settings],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=dict(environment or {}),
        cwd=folder,
        pass_fds=tuple(descriptors),
        start_new_session=True,
    )


def signal_name(number: int) -> str:
    """Name a signal, as `Ended.returncode` has its number."""
    named = {known.value: known.name for known in signal.Signals}
    return named.get(number, f"signal {number}")


def _listen(
    process: subprocess.Popen[bytes],
    deadline: float,
    limit_bytes: int,
    into: IO[bytes] | None,
    check: Callable[[], None],
) -> tuple[bytearray, bytearray]:
    """Read both pipes to their ends; raises TimeoutError at the deadline, TooMuch above the limit."""
    heard: dict[IO[bytes], bytearray] = {}
    passed_on_bytes = 0
    with selectors.DefaultSelector() as selector:
        for pipe in filter(None, (process.stdout, process.stderr)):
            heard[pipe] = bytearray()
            selector.register(pipe, selectors.EVENT_READ, pipe)
        while selector.get_map():
            check()
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise TimeoutError
            for key, _ in selector.select(min(remaining_s, _CHECK_S)):
                pipe = key.data
                chunk = os.read(pipe.fileno(), _READ_BYTES)
                if into is not None and pipe is process.stdout:
                    passed_on_bytes += len(chunk)
                    if passed_on_bytes > limit_bytes:
                        raise TooMuch
                    into.write(chunk)
                else:
                    heard[pipe] += chunk
                    if len(heard[pipe]) > limit_bytes:
                        raise TooMuch
                if not chunk:
                    selector.unregister(pipe)
    said, complained = heard.values()
    return said, complained

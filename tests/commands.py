"""The `penstock` command as tests give it: as a process where that is what they look at, else in this one."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from penstock.cli.__main__ import run

PENSTOCK = (sys.executable, "-m", "penstock.cli")
ABOUT_PROCESSES = ("up", "down", "status")


def run_penstock(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, whatever its exit code.

    What starts, stops or looks at processes is one itself; what calls a service runs here, which saves most of a second
    of each of many: what is looked at is the suite.
    """
    if arguments[0] in ABOUT_PROCESSES:
        return run_process(arguments, folder=folder, environment=environment, timeout_s=timeout_s)
    out, error = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, environment, clear=True),
        patch("sys.stdin", io.StringIO()),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        ended = run(arguments)
    return subprocess.CompletedProcess(arguments, ended, out.getvalue(), error.getvalue())


def run_process(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder as a process of its own, whatever its exit code."""
    return subprocess.run(
        [*PENSTOCK, *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )

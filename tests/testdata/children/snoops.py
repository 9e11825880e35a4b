"""Enters the real sandbox, tries what a hijacked runtime would, and says on stderr how each attempt ended.

The framework chooses the sandbox: that of a runtime that reads files and starts threads, for TensorFlow.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import platform
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from services.common.children import sandbox as sandbox_module
from services.common.children.landlock import library_folders, restrict_files
from services.common.children.sandbox import SandboxLimits, enter
from services.registry.validation.report import Signature, ValidationReport


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def start_process_by_clone() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
    pid = libc.syscall(clone, int(signal.SIGCHLD), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")


def connect() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as opened:
        opened.connect(("127.0.0.1", 9))


def trace_itself() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


settings = json.loads(sys.argv[1])
victim = Path(Path("model.onnx").read_text())
reading = settings["framework"] == "tensorflow"
attempts: dict[str, Callable[[], object]] = {
    "read a file of the system": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "read a file beside it": lambda: os.open(victim, os.O_RDONLY),
    "list a folder": lambda: list(Path("/").iterdir()),
    "look at a path": Path("/etc/passwd").stat,
    "delete a file": victim.unlink,
    "write a file": lambda: os.open("written", os.O_WRONLY | os.O_CREAT),
    "write to what it has": lambda: os.open("model.onnx", os.O_WRONLY),
    "link to a file": lambda: os.link(victim, "linked"),
    "read the environment of its parent": lambda: os.open(f"/proc/{settings['parent_pid']}/environ", os.O_RDONLY),
    "read what it was given": lambda: os.close(os.open("model.onnx", os.O_RDONLY)),
    "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "connect": connect,
    "open a local socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "start a process": fork,
    "start a process by clone": start_process_by_clone,
    "start a thread": threading.Thread(target=int).start,
    "signal its parent": lambda: os.kill(settings["parent_pid"], 0),
    "become root": lambda: os.setuid(0),
    "trace": trace_itself,
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    "take 4 GiB": lambda: bytearray(4 * 2**30),
}
files = tuple(restrict_files([Path(), *library_folders(Path(sandbox_module.__file__).parents[2])])) if reading else ()
sandbox = (*files, *enter(SandboxLimits(2**31, 30), settings["parent_pid"], reading=reading))
outcomes = {}
for attempt, act in attempts.items():
    try:
        act()
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        outcomes[attempt] = type(error).__name__
    else:
        outcomes[attempt] = "done"
os.write(2, json.dumps(outcomes).encode())
os.write(1, json.dumps(dataclasses.asdict(ValidationReport(signature=Signature((), ()), sandbox=sandbox))).encode())
os._exit(0)

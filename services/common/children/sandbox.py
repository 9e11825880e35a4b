"""Takes from the calling process, for good, everything but computing: called between the imports and the file.

What a platform lacks is left out, and `enter` says what it got. The layers overlap on purpose:

- limits on memory and processor time, and no new file descriptor (no file, no socket), thread or process;
- another uid without capabilities, where we are root;
- no way to gain privileges, and a death with the parent (Linux);
- a seccomp list of the few system calls that computing needs (Linux on x86-64 and aarch64): every other one,
  among them all that take a path, an address or a program, fails with EPERM.

A runtime that opens files by path and starts threads after that gets both and nothing else (`reading`): which files,
`landlock` has said before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .system_calls import ARCHITECTURES, Architecture, assemble

NOBODY = 65534

# linux/prctl.h, linux/seccomp.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
# What a runtime that reads may have open at once.
_READING_DESCRIPTORS = 128


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """The memory (address space) and the processor time that the process may use from now on."""

    memory_limit_bytes: int
    cpu_limit_s: int


def address_space_bytes() -> int:
    """Say how much this process has reserved so far, to which a limit is added; 0 where the system has no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return 0


def enter(limits: SandboxLimits, parent_pid: int, *, reading: bool = False) -> tuple[str, ...]:
    """Give up everything but computing, and return the names of the protections that are now in force.

    With `reading`, files can still be opened to be read, and threads started.
    Exits at once where the parent is already gone. There is no way back: call it in a process of its own, once
    every module is imported.
    """
    return (
        *drop_user(),
        *_limit_resources(limits, reading=reading),
        *tie_to_parent(parent_pid),
        *_filter_system_calls(reading=reading),
    )


def drop_user() -> Iterator[str]:
    """Become another uid for good, without capabilities, where we are root; yields what that gave."""
    if os.geteuid() != 0:
        return
    # A container may be root in name only: then it keeps its uid, and the other layers stand.
    with contextlib.suppress(PermissionError):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)  # the kernel clears every capability with it
        yield f"uid:{NOBODY}"


def _limit_resources(limits: SandboxLimits, *, reading: bool) -> Iterator[str]:
    wanted = [
        ("core", resource.RLIMIT_CORE, 0),
        ("cpu", resource.RLIMIT_CPU, limits.cpu_limit_s),
        ("memory", resource.RLIMIT_AS, limits.memory_limit_bytes),
        ("file-size", resource.RLIMIT_FSIZE, 0),
        # Descriptors that are open stay usable; none can be added, and each file or socket needs one.
        ("descriptors", resource.RLIMIT_NOFILE, _READING_DESCRIPTORS if reading else 0),
    ]
    if not reading:
        # It counts threads too, all that this uid has on the machine: with threads, their stacks are the limit.
        wanted.append(("processes", resource.RLIMIT_NPROC, 0))
    for name, which, value in wanted:
        # macOS refuses some of these, and a hard limit may already be lower than ours.
        with contextlib.suppress(ValueError, OSError):
            # A second of grace before the hard limit, which kills without saying that it was for the time.
            hard = value + 1 if which == resource.RLIMIT_CPU else value
            resource.setrlimit(which, (value, hard))
            yield f"limit:{name}"


def tie_to_parent(parent_pid: int) -> Iterator[str]:
    """Die when the parent's thread that started us does, and gain no privileges; yields what the system has of it."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    # After the uid, since changing it clears the death signal.
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0:
        yield "dies-with-parent"
    if os.getppid() != parent_pid:
        os._exit(1)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        yield "no-new-privileges"


def _filter_system_calls(*, reading: bool) -> Iterator[str]:
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None or not sys.platform.startswith("linux"):
        return
    yield from install_filter(assemble(architecture, os.getpid(), reading=reading), architecture)


def install_filter(program: bytes, architecture: Architecture) -> Iterator[str]:
    """Have the kernel judge each system call by a program for good; yields "seccomp" where it does."""
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, then (aligned) where they are.
    descriptor = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    # For every thread that the libraries have started, not for this one alone.
    result = ctypes.CDLL(None).syscall(
        architecture.seccomp, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, descriptor
    )
    if result == 0:
        yield "seccomp"

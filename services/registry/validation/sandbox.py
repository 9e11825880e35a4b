"""Takes from the calling process, for good, everything but computing: called between the imports and the file.

What a platform lacks is left out, and `enter` says what it got. The layers overlap on purpose:

- limits on memory and processor time, and no new file descriptor (no file, no socket), thread or process;
- another uid without capabilities, where we are root;
- no way to gain privileges, and a death with the parent (Linux);
- a seccomp list of the few system calls that computing needs (Linux on x86-64 and aarch64): every other one,
  among them all that take a path, an address or a program, fails with EPERM.
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

NOBODY = 65534

# linux/prctl.h, linux/seccomp.h, linux/filter.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
_RET_ALLOW, _RET_EPERM = 0x7FFF0000, 0x00050000 | 1
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE, _OFFSET_FIRST_ARGUMENT = 0, 4, 16


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """The memory (address space) and the processor time that the process may use from now on."""

    memory_limit_bytes: int
    cpu_limit_s: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers that Linux gives to its system calls on one family of processors; `column` is that of `ALLOWED`."""

    audit_arch: int
    seccomp: int
    tgkill: int
    column: int


ARCHITECTURES = {
    "x86_64": Architecture(audit_arch=0xC000003E, seccomp=317, tgkill=234, column=0),
    "aarch64": Architecture(audit_arch=0xC00000B7, seccomp=277, tgkill=131, column=1),
}
# What computing needs: the numbers on x86-64 (asm/unistd_64.h) and on aarch64 (asm-generic/unistd.h).
ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "pread64": (17, 67),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "membarrier": (324, 283),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "sysinfo": (99, 179),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
}


def enter(limits: SandboxLimits, parent_pid: int) -> tuple[str, ...]:
    """Give up everything but computing, and return the names of the protections that are now in force.

    Exits at once where the parent is already gone. There is no way back: call it in a process of its own, once
    every module is imported.
    """
    return (*_drop_user(), *_limit_resources(limits), *_tie_to_parent(parent_pid), *_filter_system_calls())


def _drop_user() -> Iterator[str]:
    if os.geteuid() != 0:
        return
    # A container may be root in name only: then it keeps its uid, and the other layers stand.
    with contextlib.suppress(PermissionError):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)  # the kernel clears every capability with it
        yield f"uid:{NOBODY}"


def _limit_resources(limits: SandboxLimits) -> Iterator[str]:
    wanted = [
        ("core", resource.RLIMIT_CORE, 0),
        ("cpu", resource.RLIMIT_CPU, limits.cpu_limit_s),
        ("memory", resource.RLIMIT_AS, limits.memory_limit_bytes),
        ("file-size", resource.RLIMIT_FSIZE, 0),
        ("processes", resource.RLIMIT_NPROC, 0),
        # Descriptors that are open stay usable; none can be added, and each file or socket needs one.
        ("descriptors", resource.RLIMIT_NOFILE, 0),
    ]
    for name, which, value in wanted:
        # macOS refuses some of these, and a hard limit may already be lower than ours.
        with contextlib.suppress(ValueError, OSError):
            # A second of grace before the hard limit, which kills without saying that it was for the time.
            hard = value + 1 if which == resource.RLIMIT_CPU else value
            resource.setrlimit(which, (value, hard))
            yield f"limit:{name}"


def _tie_to_parent(parent_pid: int) -> Iterator[str]:
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


def _filter_system_calls() -> Iterator[str]:
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None or not sys.platform.startswith("linux"):
        return
    program = b"".join(assemble(architecture, os.getpid()))
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, then (aligned) where they are.
    descriptor = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    # For every thread that the libraries have started, not for this one alone.
    result = ctypes.CDLL(None).syscall(
        architecture.seccomp, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, descriptor
    )
    if result == 0:
        yield "seccomp"


def assemble(architecture: Architecture, pid: int) -> Iterable[bytes]:
    """Write the filter, an instruction an item: the allowed calls, and `tgkill` at `pid` alone (abort needs it)."""
    yield _instruction(_LOAD, _OFFSET_ARCHITECTURE)
    yield _instruction(_JUMP_IF_EQUAL, architecture.audit_arch, if_true=1)
    yield _instruction(_RETURN, _RET_EPERM)
    yield _instruction(_LOAD, _OFFSET_NUMBER)
    for numbers in ALLOWED.values():
        yield _instruction(_JUMP_IF_EQUAL, numbers[architecture.column], if_false=1)
        yield _instruction(_RETURN, _RET_ALLOW)
    yield _instruction(_JUMP_IF_EQUAL, architecture.tgkill, if_false=3)
    yield _instruction(_LOAD, _OFFSET_FIRST_ARGUMENT)
    yield _instruction(_JUMP_IF_EQUAL, pid, if_false=1)
    yield _instruction(_RETURN, _RET_ALLOW)
    yield _instruction(_RETURN, _RET_EPERM)


def _instruction(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """Pack a struct sock_filter: the operation, how many instructions to skip, the operand."""
    return struct.pack("=HBBI", code, if_true, if_false, value)

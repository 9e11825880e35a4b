"""The system calls that a child may still make, and the seccomp filter that refuses every other one.

Two lists: what computing needs, and beside it what a runtime needs that starts threads and reads files by path.
Numbers are those of x86-64 (asm/unistd_64.h) and aarch64 (asm-generic/unistd.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

# linux/seccomp.h, linux/filter.h
RET_ALLOW, RET_EPERM, RET_ENOSYS = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
_LOAD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE, _OFFSET_ARGUMENTS = 0, 4, 16

# linux/sched.h: what makes a clone a thread of this process; and the namespaces, which no thread of ours has.
_CLONE_VM, _CLONE_SIGHAND, _CLONE_THREAD = 0x100, 0x800, 0x10000
_CLONE_NEW = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
_THREAD = _CLONE_VM | _CLONE_SIGHAND | _CLONE_THREAD
# asm-generic/fcntl.h: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, and the bit of O_TMPFILE.
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000
# linux/prctl.h, asm-generic/fcntl.h
_PR_SET_NAME = 15
_F_GETFD, _F_SETFD, _F_GETFL = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers that Linux gives to its system calls on one family of processors; `column` is theirs below."""

    audit_arch: int
    seccomp: int
    column: int


ARCHITECTURES = {
    "x86_64": Architecture(audit_arch=0xC000003E, seccomp=317, column=0),
    "aarch64": Architecture(audit_arch=0xC00000B7, seccomp=277, column=1),
}
_NONE = -1  # the call has no number of its own there
COMPUTING = {
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
# Beside computing: looking at and reading files (which ones, landlock says), and being a thread.
READING = {
    "stat": (4, _NONE),
    "fstat": (5, 80),
    "lstat": (6, _NONE),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "statfs": (137, 43),
    "lseek": (8, 62),
    "readv": (19, 65),
    "access": (21, _NONE),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, _NONE),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "uname": (63, 160),
    "getrusage": (98, 165),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "sched_getscheduler": (145, 120),
    "sched_getparam": (143, 121),
    "mincore": (27, 232),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """Which calls of one number are allowed: those whose argument, after `mask`, equals one of `values`."""

    argument: int
    mask: int
    values: tuple[int, ...]


_EVERY_BIT = 0xFFFFFFFF
_OPENAT, _CLONE, _PRCTL, _FCNTL, _TGKILL, _CLONE3 = (257, 56), (56, 220), (157, 167), (72, 25), (234, 131), (435, 435)


def assemble(architecture: Architecture, pid: int, *, reading: bool) -> bytes:
    """Write the filter for a process: what computing needs, and with `reading` files to read and threads as well.

    A signal goes to this process alone (abort needs it), a file is opened for reading only, a clone is a thread.
    `clone3`, whose flags no filter can see, is ENOSYS, so that the C library takes `clone`.
    """
    column = architecture.column
    allowed = [numbers[column] for numbers in (COMPUTING | READING if reading else COMPUTING).values()]
    conditions = {_TGKILL[column]: Condition(0, _EVERY_BIT, (pid,))}
    if reading:
        conditions |= {
            _OPENAT[column]: Condition(2, _WRITING, (0,)),
            _CLONE[column]: Condition(0, _THREAD | _CLONE_NEW, (_THREAD,)),
            _PRCTL[column]: Condition(0, _EVERY_BIT, (_PR_SET_NAME,)),
            _FCNTL[column]: Condition(1, _EVERY_BIT, (_F_GETFD, _F_SETFD, _F_GETFL)),
        }
    program = [
        _instruction(_LOAD, _OFFSET_ARCHITECTURE),
        _instruction(_JUMP_IF_EQUAL, architecture.audit_arch, if_true=1),
        _instruction(_RETURN, RET_EPERM),
        _instruction(_LOAD, _OFFSET_NUMBER),
    ]
    for number in allowed:
        if number != _NONE:
            program += [_instruction(_JUMP_IF_EQUAL, number, if_false=1), _instruction(_RETURN, RET_ALLOW)]
    if reading:
        program += [
            _instruction(_JUMP_IF_EQUAL, _CLONE3[column], if_false=1),
            _instruction(_RETURN, RET_ENOSYS),
        ]
    for number, condition in conditions.items():
        program += _conditional(number, condition)
    program.append(_instruction(_RETURN, RET_EPERM))
    return b"".join(program)


def _conditional(number: int, condition: Condition) -> Iterator[bytes]:
    """Decide one call for good by the low half of an argument, and go on with the next where it is another call."""
    body = [
        _instruction(_LOAD, _OFFSET_ARGUMENTS + 8 * condition.argument),
        _instruction(_AND, condition.mask),
    ]
    for value in condition.values:
        body += [_instruction(_JUMP_IF_EQUAL, value, if_false=1), _instruction(_RETURN, RET_ALLOW)]
    body.append(_instruction(_RETURN, RET_EPERM))
    yield _instruction(_JUMP_IF_EQUAL, number, if_false=len(body))
    yield from body


def _instruction(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """Pack a struct sock_filter: the operation, how many instructions to skip, the operand."""
    return struct.pack("=HBBI", code, if_true, if_false, value)

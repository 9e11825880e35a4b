"""The system calls that a child may still make, and the seccomp filter that refuses every other one.

Two lists: what computing needs, and beside it what a runtime needs that starts threads and reads files by path. And a
list the other way around, for what trains and may use most of a system: what it may not.
Numbers are those of x86-64 (asm/unistd_64.h) and aarch64 (asm-generic/unistd.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

# linux/seccomp.h, linux/filter.h
RET_ALLOW, RET_EPERM, RET_ENOSYS = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
_LOAD, _AND, _JUMP_IF_EQUAL, _JUMP_IF_ABOVE, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE, _OFFSET_ARGUMENTS = 0, 4, 16

# linux/sched.h: what makes a clone a thread of this process; and the namespaces, which no thread of ours has.
_CLONE_VM, _CLONE_SIGHAND, _CLONE_THREAD = 0x100, 0x800, 0x10000
_CLONE_NEW = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
_THREAD = _CLONE_VM | _CLONE_SIGHAND | _CLONE_THREAD
# asm-generic/fcntl.h: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, and the bit of O_TMPFILE.
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000
# asm/unistd.h: the bit of x32's numbers.
_SECOND_SET = 0x40000000
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
# Refused to what trains: leaving its process group, in which it is ended; memory that is counted as nobody's; other
# processes' memory; the system itself.
LEAVING = {"setsid": (112, 157), "setpgid": (109, 154)}
UNCOUNTED = {"memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194)}
SYSTEM = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, _NONE),
    "ioperm": (173, _NONE),
}
CONNECTING = {"socket": (41, 198)}


@dataclass(frozen=True, slots=True)
class Condition:
    """Which calls of one number are allowed: those whose argument, after `mask`, equals one of `values`."""

    argument: int
    mask: int
    values: tuple[int, ...]


_EVERY_BIT = 0xFFFFFFFF
_PRLIMIT = (302, 261)
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


def assemble_refusing(architecture: Architecture, *, network: bool) -> bytes:
    """Write the filter for what trains: all but LEAVING, UNCOUNTED and SYSTEM, and without `network` CONNECTING.

    A clone makes no namespace, and the limits that are set are a process' own. `clone3`, whose flags no filter can see,
    is ENOSYS, so that the C library takes `clone`. Other ways into the kernel, of 32-bit programs, are refused.
    """
    column = architecture.column
    refused = [numbers[column] for numbers in (LEAVING | UNCOUNTED | SYSTEM | ({} if network else CONNECTING)).values()]
    program = [
        _instruction(_LOAD, _OFFSET_ARCHITECTURE),
        _instruction(_JUMP_IF_EQUAL, architecture.audit_arch, if_true=1),
        _instruction(_RETURN, RET_EPERM),
        _instruction(_LOAD, _OFFSET_NUMBER),
        # x86-64 has a second set of numbers for the same calls, above this bit.
        _instruction(_JUMP_IF_ABOVE, _SECOND_SET, if_false=1),
        _instruction(_RETURN, RET_EPERM),
    ]
    for number in refused:
        if number != _NONE:
            program += [_instruction(_JUMP_IF_EQUAL, number, if_false=1), _instruction(_RETURN, RET_EPERM)]
    program += [_instruction(_JUMP_IF_EQUAL, _CLONE3[column], if_false=1), _instruction(_RETURN, RET_ENOSYS)]
    program += _conditional(_CLONE[column], Condition(0, _CLONE_NEW, (0,)))
    program += _conditional(_PRLIMIT[column], Condition(0, _EVERY_BIT, (0,)))
    program.append(_instruction(_RETURN, RET_ALLOW))
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

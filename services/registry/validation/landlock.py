"""Landlock by its bare system calls: from now on this thread, and all that it starts, can only read, and only there.

Called before the runtime is imported, since threads that run already would keep their rights.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

# The same numbers on every architecture (asm-generic/unistd.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
# linux/landlock.h: rights over files, by the version that brought them; networks, abstract sockets and signals.
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_RIGHTS_OF_VERSION = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
_NETWORK_VERSION, _ALL_NETWORK = 4, 3
_SCOPE_VERSION, _ALL_SCOPES = 6, 3
_PR_SET_NO_NEW_PRIVS = 38
# What a runtime reads of the system: processors and memory; libraries are beside.
_SYSTEM = (
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self/cmdline",
    "/sys/devices/system",
    "/dev/urandom",
    "/etc/ld.so.cache",
)


def restrict_files(folders: Iterable[Path]) -> Iterator[str]:
    """Leave reading below `folders` alone, and yield "landlock" where the kernel took it; nothing where it has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not sys.platform.startswith("linux"):
        return
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return
    handled = _RIGHTS_OF_VERSION[min(version, max(_RIGHTS_OF_VERSION))]
    network = _ALL_NETWORK if version >= _NETWORK_VERSION else 0
    scopes = _ALL_SCOPES if version >= _SCOPE_VERSION else 0
    # struct landlock_ruleset_attr, as long as this kernel knows it.
    attributes = struct.pack("=QQQ", handled, network, scopes)[: 8 * (1 + bool(network) + bool(scopes))]
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return
    try:
        for folder in folders:
            _allow_reading(libc, ruleset, folder)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0:
            yield "landlock"
    finally:
        os.close(ruleset)


def library_folders(code: Path) -> list[Path]:
    """Give what an interpreter reads on its way: its own libraries, the system's, and the modules below `code`."""
    paths = sysconfig.get_paths()
    named = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    python = {f"{prefix}/{each}" for prefix in (sys.base_prefix, sys.prefix) for each in ("lib", "lib64")}
    # Not all of /usr, and nothing of /etc: a distribution keeps secrets in neither /lib nor here.
    system = {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", *_SYSTEM}
    return [code, *(Path(each) for each in sorted(named | python | system))]


def _allow_reading(libc: ctypes.CDLL, ruleset: int, path: Path) -> None:
    with contextlib.suppress(OSError):  # what is not there needs no leave
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rights = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
            rule = struct.pack("=Qi", rights, opened)
            libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        finally:
            os.close(opened)

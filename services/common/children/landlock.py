"""Landlock by its bare system calls: from now on this thread, and all that it starts, has these files and no others.

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
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _IOCTL = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 15
# Beside reading and writing: removing and making folders and files, pipes, sockets and links; moving them; cutting.
_CHANGING = sum(1 << bit for bit in (4, 5, 7, 8, 9, 10, 12, 13, 14))
_OF_FILES = _EXECUTE | _READ_FILE | _WRITE_FILE | _IOCTL | 1 << 14
_DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL
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


def restrict_files(
    reading: Iterable[Path],
    *,
    running: Iterable[Path] = (),
    writing: Iterable[Path] = (),
    devices: Iterable[Path] = (),
    network: bool = False,
) -> Iterator[str]:
    """Leave nothing but these, and yield "landlock" where the kernel took it; nothing where it has none.

    Args:
        reading: files, and folders with all below them, that can be read.
        running: that can be read and run.
        writing: folders below which all can be read, written, made and removed; no device.
        devices: that can be read, written and told.
        network: whether connections stay allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not sys.platform.startswith("linux"):
        return
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return
    handled = _RIGHTS_OF_VERSION[min(version, max(_RIGHTS_OF_VERSION))]
    connections = _ALL_NETWORK if version >= _NETWORK_VERSION and not network else 0
    scopes = _ALL_SCOPES if version >= _SCOPE_VERSION else 0
    # struct landlock_ruleset_attr, as long as this kernel knows it.
    known = 1 + (version >= _NETWORK_VERSION) + (version >= _SCOPE_VERSION)
    attributes = struct.pack("=QQQ", handled, connections, scopes)[: 8 * known]
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return
    try:
        for paths, rights in (
            (reading, _READ_FILE | _READ_DIR),
            (running, _READ_FILE | _READ_DIR | _EXECUTE),
            (writing, _READ_FILE | _READ_DIR | _WRITE_FILE | _CHANGING),
            (devices, _DEVICE),
        ):
            for path in paths:
                _allow(libc, ruleset, path, rights & handled)
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


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    with contextlib.suppress(OSError):  # what is not there needs no leave
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            # What only folders have, a file is refused for.
            rule = struct.pack("=Qi", rights if path.is_dir() else rights & _OF_FILES, opened)
            libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        finally:
            os.close(opened)

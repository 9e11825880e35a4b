"""Takes from the process of a run, and from all that it starts, what training needs not: called before any import.

What a platform lacks is left out, and `confine` says what it got. The layers overlap on purpose:

- another uid, where we are root and another could read what is needed; else no capabilities;
- files: libraries and the system's to read, the run's own folders to write, nothing else (landlock);
- no network, save where it is allowed; no way out of the process group, in which a run is ended (seccomp);
- limits on what one process reserves and on each file, a death with the guard, no way to gain privileges;
- where memory runs out, the kernel takes the run's before others'.

Nothing of it bounds what a run's processes use together: whoever started it watches over that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.common.children.landlock import library_folders, restrict_files
from services.common.children.sandbox import NOBODY, drop_user, install_filter, tie_to_parent
from services.common.children.system_calls import ARCHITECTURES, assemble_refusing

WANTED = frozenset({"landlock", "seccomp"})
"""What a run without is not confined."""
GIVEN, OWN = ("data", "parent"), ("checkpoint", "out", "script", "home", "tmp")
"""Folders of a run that it reads, and that it may write."""
_CODE = Path(__file__).resolve().parents[2]
_RESERVED_BYTES = 2 * 1024**3
# What programs read of a system: names, times, certificates; processors and memory.
_READ = (
    "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/mime.types", "/proc", "/sys",
    "/usr/share/zoneinfo", "/usr/share/mime", "/usr/share/locale",
)  # fmt: skip
_READ_CONNECTED = ("/etc/hosts", "/etc/resolv.conf", "/etc/ssl", "/etc/ca-certificates", "/usr/share/ca-certificates")
_RUN = ("/bin", "/usr/bin", "/usr/local/bin")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/kfd")
_ACCELERATORS = ("nvidia*", "nvidia-caps/*", "dri/*")
# linux/prctl.h, linux/capability.h
_PR_CAPBSET_DROP, _CAPABILITIES, _CAPABILITY_VERSION = 24, 64, 0x20080522


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the run may have: reserved memory beside its limit, bytes in one file, a network."""

    memory_limit_bytes: int
    file_limit_bytes: int
    network: bool = False


def confine(folder: Path, limits: Confinement, guard_pid: int) -> tuple[str, ...]:
    """Give up what training needs not, for good, and return the names of the protections that are now in force."""
    return (
        *_drop_privileges(folder),
        *_limit_resources(limits),
        *_offer_to_the_kernel(),
        *restrict_files(
            [folder, *map(Path, _READ + (_READ_CONNECTED if limits.network else ()))],
            running=[*library_folders(_CODE), Path(sys.executable).resolve().parent, *map(Path, (sys.prefix, *_RUN))],
            writing=[folder / own for own in OWN],
            devices=[*map(Path, _DEVICES), *(found for named in _ACCELERATORS for found in Path("/dev").glob(named))],
            network=limits.network,
        ),
        *tie_to_parent(guard_pid),
        *_filter_system_calls(network=limits.network),
    )


def _drop_privileges(folder: Path) -> Iterator[str]:
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):  # a folder that can't be given away
        _lend(folder)
        if _readable_to_nobody([folder, *(folder / given for given in GIVEN), _CODE, *_modules()]):
            for own in OWN:
                for path in (folder / own, *(folder / own).rglob("*")):
                    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
            yield from drop_user()
    if os.geteuid() == 0:
        yield from _drop_capabilities()


def _lend(folder: Path) -> None:
    """Let the group of the other uid read the run's folder."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, -1, NOBODY, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o050 if path.is_dir() else 0o040))


def _modules() -> list[Path]:
    return [Path(each) for each in sys.path if Path(each).is_dir()]


def _readable_to_nobody(paths: Iterable[Path]) -> bool:
    """Try with the other uid's rights, which are handed back."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        for path in paths:
            os.scandir(path).close()
    except OSError:
        return False
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
    return True


def _drop_capabilities() -> Iterator[str]:
    libc = ctypes.CDLL(None)
    if not sys.platform.startswith("linux"):
        return
    for capability in range(_CAPABILITIES):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # those that this kernel has
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0), 8)
    nothing = ctypes.create_string_buffer(24)
    if libc.capset(header, nothing) == 0:
        yield "no-capabilities"


def _limit_resources(limits: Confinement) -> Iterator[str]:
    wanted = (
        ("core", resource.RLIMIT_CORE, 0),
        ("file-size", resource.RLIMIT_FSIZE, limits.file_limit_bytes),
        # Not the address space, of which TensorFlow reserves what it never touches.
        ("data", resource.RLIMIT_DATA, limits.memory_limit_bytes + _RESERVED_BYTES),
    )
    for name, which, value in wanted:
        # macOS refuses some of these, and a hard limit may already be lower than ours.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(which, (value, value))
            yield f"limit:{name}"


def _offer_to_the_kernel() -> Iterator[str]:
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
        yield "first-out-of-memory"


def _filter_system_calls(*, network: bool) -> Iterator[str]:
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is not None and sys.platform.startswith("linux"):
        yield from install_filter(assemble_refusing(architecture, network=network), architecture)

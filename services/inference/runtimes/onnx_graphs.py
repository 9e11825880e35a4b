"""Graphs as ONNX Runtime optimised them, kept on disk so that the next load need not do it again.

    <folder>/<key>.<sha256 of the bytes>.onnx     a kept graph, whole: it got its name when all of it was written
    <folder>/<key>.none.onnx                      empty: this one grew too much by folding to be worth keeping
    <folder>/writing.<pid>.<random>.onnx          on its way; left-overs of a dead process are swept away at the start

The key stands for all that the result depends on: the version's digest, the graph, ONNX Runtime's version, the options
and this processor's features, since the layout of convolutions is chosen by them. Everything here can be made anew.
That a graph is the one that its key says is known only by who could write it: the folder is this user's alone.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import platform
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

SMALLEST_BYTES = 2**20
"""A smaller graph is optimised in a few milliseconds: there is nothing to gain."""
LARGEST_BYTES = 2**30
"""A protobuf message ends below 2 GiB, and the graph must fit in memory once more while it is written."""
LARGEST_GROWTH = 2
# A StringStringEntryProto with the key "location" is how a graph says that a tensor lies in a file beside it. What
# the runtime writes of such a graph still asks for that file, beside the wrong graph.
_DATA_BESIDE = b"\x0a\x08location"
_READ_BYTES = 2**20
_NONE = "none"
# Part of every key: what was kept under another number is never found again, and goes as the least recently used.
_FORMAT = "2"


class OptimisedGraphs:
    """A bounded folder of optimised graphs, the least recently used deleted first. Safe for threads and processes."""

    def __init__(self, folder: Path, *, max_bytes: int = 10 * 2**30) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._verified: dict[str, tuple[int, int]] = {}
        self._trusted = True
        self._lock = threading.Lock()
        self.hits = 0
        self.writes = 0

    def open(self) -> None:
        """Make the folder, and sweep away what dead processes were writing.

        One that others could write to is emptied and closed to them: they may have put anything there. One of another
        user's is not used: every load then optimises for itself, and the log says so.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = self._folder.lstat()
        self._trusted = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        if not self._trusted:
            log.error("%s is not a folder of this user's: no optimised graph is kept; move it away", self._folder)
            return
        open_to_others = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        if open_to_others:
            log.warning("%s could be written to by others: it is emptied and closed to them", self._folder)
            self._folder.chmod(0o700)
        for left in self._folder.iterdir():
            if open_to_others or (left.name.startswith("writing.") and not _is_being_written(left.name)):
                with suppress(OSError):  # gone by now, or a folder: neither is ever taken for a graph
                    left.unlink()

    def find(self, key: str) -> Path | None:
        """Give a kept graph whose bytes are what they were when it was written; one that is damaged is deleted."""
        if not self._trusted:
            return None
        for path in self._folder.glob(f"{key}.*.onnx"):
            digest = path.name.split(".")[1]
            if digest == _NONE:
                continue
            if self._is_whole(path, digest):
                self.hits += 1
                return path
            log.warning("the optimised graph %s is damaged; it is made anew", path.name)
            self.drop(path)
        return None

    def may_keep(self, key: str, graph: Path) -> bool:
        """Whether the graph is worth keeping optimised: large enough, not too large, and with all its data inside."""
        size_bytes = graph.stat().st_size
        if not self._trusted or not SMALLEST_BYTES <= size_bytes <= min(
            LARGEST_BYTES, self._max_bytes // LARGEST_GROWTH
        ):
            return False
        return not (self._folder / f"{key}.{_NONE}.onnx").exists() and not _has_data_beside(graph)

    @contextmanager
    def writing(self, key: str, graph: Path) -> Iterator[Path]:
        """Give a path to write to; what stands there at the end of the block is kept. An error keeps nothing."""
        # Random, since any number of these objects, and processes of other containers, write to the one folder.
        path = self._folder / f"writing.{os.getpid()}.{secrets.token_hex(16)}.onnx"
        try:
            yield path
            self._keep(key, path, LARGEST_GROWTH * graph.stat().st_size)
        except OSError as error:  # of the disk: the session is open, and does without
            log.warning("the optimised graph of %s is not kept: %s", graph.name, error)
        finally:
            path.unlink(missing_ok=True)

    def drop(self, path: Path) -> None:
        """Delete a kept graph that turned out to be of no use."""
        path.unlink(missing_ok=True)

    def _keep(self, key: str, path: Path, most_bytes: int) -> None:
        size_bytes = path.stat().st_size
        if size_bytes > most_bytes:
            (self._folder / f"{key}.{_NONE}.onnx").touch()
            return
        self._make_room(size_bytes)
        path.rename(self._folder / f"{key}.{_digest_of(path)}.onnx")
        self.writes += 1

    def _make_room(self, size_bytes: int) -> None:
        with self._lock:
            kept: list[tuple[float, int, Path]] = []
            for path in set(self._folder.glob("*.onnx")) - set(self._folder.glob("writing.*")):
                with suppress(FileNotFoundError):  # another process deletes as well
                    status = path.stat()
                    kept.append((status.st_mtime, status.st_size, path))
            total = sum(size for _, size, _ in kept)
            for _, size, path in sorted(kept):
                if total <= self._max_bytes - size_bytes:
                    return
                path.unlink(missing_ok=True)  # whoever reads it has it open
                total -= size

    def _is_whole(self, path: Path, digest: str) -> bool:
        """Read it through once a process, as the files of versions are."""
        try:
            status = path.stat()
            seen = (status.st_ino, status.st_size)
            if self._verified.get(path.name) != seen and _digest_of(path) != digest:
                return False
            self._verified[path.name] = seen
            os.utime(path)  # how recently it was used
        except FileNotFoundError:
            return False
        return True


def _is_being_written(name: str) -> bool:
    """Whether a file that is on its way belongs to a process that lives; one with another name is nobody's."""
    pid = name.split(".")[1]
    if not (pid.isascii() and pid.isdecimal()):
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def key_of(*parts: str) -> str:
    """Make the key of all that the optimised graph depends on; this processor's features are added."""
    return hashlib.sha256("\n".join((_FORMAT, *parts, _processor())).encode()).hexdigest()[:40]


def _processor() -> str:
    """What this processor can do, in the kernel's words; its name where the system has no /proc."""
    features = {"flags", "Features", "model name"}
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.partition(":")[0].strip() in features)
    return f"{platform.machine()} {platform.processor()}"


def _has_data_beside(graph: Path) -> bool:
    with graph.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_DATA_BESIDE) >= 0


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

"""Graphs as ONNX Runtime optimised them, kept on disk so that the next load need not do it again.

    <folder>/<key>.<sha256 of the bytes>.onnx     a kept graph, whole: it got its name when all of it was written
    <folder>/<key>.none.onnx                      empty: this one grew too much by folding to be worth keeping
    <folder>/writing.<pid>.<number>.onnx          on its way; left-overs of a dead process are swept away at the start

The key stands for all that the result depends on: the version's digest, the graph, ONNX Runtime's version, the options
and this processor's features, since the layout of convolutions is chosen by them. Everything here can be made anew.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import mmap
import os
import platform
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


class OptimisedGraphs:
    """A bounded folder of optimised graphs, the least recently used deleted first. Safe for threads and processes."""

    def __init__(self, folder: Path, *, max_bytes: int = 10 * 2**30) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._verified: dict[str, tuple[int, int]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self.hits = 0
        self.writes = 0

    def open(self) -> None:
        """Make the folder, and sweep away what dead processes were writing."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._folder.glob("writing.*"):
            if not _is_alive(int(left.name.split(".")[1])):
                left.unlink(missing_ok=True)

    def find(self, key: str) -> Path | None:
        """Give a kept graph whose bytes are what they were when it was written; one that is damaged is deleted."""
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
        if not SMALLEST_BYTES <= size_bytes <= min(LARGEST_BYTES, self._max_bytes // LARGEST_GROWTH):
            return False
        return not (self._folder / f"{key}.{_NONE}.onnx").exists() and not _has_data_beside(graph)

    @contextmanager
    def writing(self, key: str, graph: Path) -> Iterator[Path]:
        """Give a path to write to; what stands there at the end of the block is kept. An error keeps nothing."""
        path = self._folder / f"writing.{os.getpid()}.{next(self._numbers)}.onnx"
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


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def key_of(*parts: str) -> str:
    """Make the key of all that the optimised graph depends on; this processor's features are added."""
    return hashlib.sha256("\n".join((*parts, _processor())).encode()).hexdigest()[:40]


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

"""Watches over a run's processes: what they use together, and how long they take. Who uses too much is ended."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil
import structlog

from services.trainer.executing.recipe_process import RecipeProcess
from services.trainer.recipes.lines import Failed
from services.trainer.task import Task

_log = structlog.get_logger(__name__)
_LOOK_S: Final = 0.2
_LOOKS_A_FOLDER: Final = 5
MAX_ENTRIES: Final = 200_000
"""Files and folders that a run may have at any moment."""


class Watch:
    """Looks after one run from a thread of its own, so that a slow listener lets nothing go too far.

    `exceeded` says which limit was passed; the group has been killed then.
    """

    def __init__(self, process: RecipeProcess, folder: Path, task: Task, max_output_bytes: int) -> None:
        self.exceeded: Failed | None = None
        self._process = process
        self._folder = folder
        self._task = task
        self._max_output_bytes = max_output_bytes
        self._peak_bytes = 0
        self._begun = time.monotonic()
        # What was there before: rows, a parent, a checkpoint.
        self._given_bytes, _ = _written(folder)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch over a run", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def used(self) -> str:
        """Say what memory they were seen to use at most, as the end of a sentence."""
        return f"; {_mebibytes(self._peak_bytes)} of memory were seen in use at most" if self._peak_bytes else ""

    def _look(self) -> None:
        try:
            self._until_exceeded()
        except Exception as error:  # noqa: BLE001 - a run that nobody watches must not go on
            _log.exception("watch over a run failed", run=self._task.run_id)
            sentence = f"nobody could see any more what the recipe's processes use ({type(error).__name__}: {error})"
            self.exceeded = Failed("TRAINING_FAILED", sentence)
        if self.exceeded is not None:
            self._process.kill()

    def _until_exceeded(self) -> None:
        looks = 0
        while self.exceeded is None and not self._over.wait(_LOOK_S):
            looks += 1
            self.exceeded = self._time() or self._memory() or (self._files() if looks % _LOOKS_A_FOLDER == 0 else None)

    def _time(self) -> Failed | None:
        if time.monotonic() - self._begun <= self._task.time_limit_s:
            return None
        sentence = (
            f"the recipe had not ended after {self._task.time_limit_s:g} s; let it do less, or raise the parameter "
            "time_limit_s or PENSTOCK_TRAINER_TIME_LIMIT_MS"
        )
        return Failed("TIME_LIMIT", sentence)

    def _memory(self) -> Failed | None:
        limit_bytes = self._task.memory_limit_bytes
        members = self._process.members()
        used_bytes = sum(map(_resident_bytes, members))
        if used_bytes > limit_bytes and len(members) > 1:
            # What processes share was counted in each: only now, since this walks through all of their memory.
            used_bytes = sum(map(_own_bytes, members))
        self._peak_bytes = max(self._peak_bytes, used_bytes)
        if used_bytes <= limit_bytes:
            return None
        sentence = (
            f"the recipe's processes used {_mebibytes(used_bytes)} of memory, and {_mebibytes(limit_bytes)} are "
            "allowed; train on fewer rows or in smaller batches, or raise PENSTOCK_TRAINER_MEMORY_LIMIT_BYTES"
        )
        return Failed("OUT_OF_MEMORY", sentence)

    def _files(self) -> Failed | None:
        try:
            written_bytes, entries = _written(self._folder)
        except OSError as error:  # what cannot be counted would be without limit
            sentence = (
                f"a file or folder of the recipe's cannot be counted ({error.strerror}); write shorter paths, and let "
                "their owner read them"
            )
            return Failed("TOO_MUCH_OUTPUT", sentence)
        written_bytes += _unnamed_bytes(self._process.members()) - self._given_bytes
        if written_bytes > self._max_output_bytes:
            sentence = (
                f"the recipe's files have {_mebibytes(written_bytes)}, and {_mebibytes(self._max_output_bytes)} are "
                "allowed; keep fewer, or raise PENSTOCK_TRAINER_MAX_ARTIFACT_BYTES"
            )
            return Failed("TOO_MUCH_OUTPUT", sentence)
        if entries > MAX_ENTRIES:
            return Failed("TOO_MUCH_OUTPUT", f"the recipe wrote more than {MAX_ENTRIES} files; write fewer")
        return None


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _own_bytes(process: psutil.Process) -> int:
    """What a process uses, its share of what it shares; where the system won't say, all of that."""
    try:
        described = process.memory_full_info()
        return int(getattr(described, "pss", described.uss))
    except psutil.NoSuchProcess:
        return 0
    except psutil.AccessDenied:
        return _resident_bytes(process)


def _written(folder: Path) -> tuple[int, int]:
    """Count the bytes and the entries below a folder, holes in files included; no more entries than are of interest.

    Raises OSError where something cannot be counted.
    """
    total_bytes = entries = 0
    for parent, folders, files in os.walk(folder, followlinks=False, onerror=_unless_gone):
        entries += len(folders) + len(files)
        for name in files:
            try:
                total_bytes += Path(parent, name).lstat().st_size
            except OSError as error:
                _unless_gone(error)
                entries -= 1
        if entries > MAX_ENTRIES:
            break
    return total_bytes, entries


def _unnamed_bytes(members: list[psutil.Process]) -> int:
    """Count the bytes of files that processes hold open and no folder names; where the system won't say, none."""
    sizes_bytes: dict[tuple[int, int], int] = {}
    for member in members:
        with contextlib.suppress(OSError):  # it has ended, or is another's to look at
            for opened in os.scandir(f"/proc/{member.pid}/fd"):
                with contextlib.suppress(OSError):
                    found = opened.stat()
                    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                        sizes_bytes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes_bytes.values())


def _unless_gone(error: OSError) -> None:
    """Let pass what was there a moment ago."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / 1024**2:.0f} MiB"

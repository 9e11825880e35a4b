"""A folder for each worker: whoever holds its lock owns it, and what a dead worker left is taken over."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from services.common.errors import ResourceExhausted
from services.inference.events.segments import cut_torn_tail, segment_path, segment_paths

log = logging.getLogger(__name__)

MAX_SLOTS = 256


class Slot:
    """One worker's folder, under an flock that the system lets go of when the process dies, however it dies."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor

    def release(self) -> None:
        """Let another worker have it."""
        os.close(self._descriptor)


def take_slot(root: Path) -> Slot:
    """Lock the first free slot, and move in the segments of every slot whose worker is dead.

    Raises ResourceExhausted(SPOOL_SLOTS_EXHAUSTED) if all are taken.
    """
    root.mkdir(parents=True, exist_ok=True)
    for index in range(MAX_SLOTS):
        slot = _try_slot(root / f"slot-{index:03d}")
        if slot is not None:
            _cut_last(slot.folder)
            _adopt_orphans(root, slot)
            return slot
    raise ResourceExhausted(
        f"all {MAX_SLOTS} spool slots in {root} are taken; stop a worker or use another folder",
        reason="SPOOL_SLOTS_EXHAUSTED",
    )


def _try_slot(folder: Path) -> Slot | None:
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Slot(folder, descriptor)


def _adopt_orphans(root: Path, slot: Slot) -> None:
    """Rename the segments of unlocked slots into ours, in their order, after what we hold already."""
    held = segment_paths(slot.folder)
    sequence = int(held[-1].stem) + 1 if held else 0
    for folder in sorted(root.glob("slot-*")):
        if folder == slot.folder:
            continue
        orphan = _try_slot(folder)
        if orphan is None:
            continue
        try:
            _cut_last(folder)
            for path in segment_paths(folder):
                path.rename(segment_path(slot.folder, sequence))
                sequence += 1
        finally:
            orphan.release()


def _cut_last(folder: Path) -> None:
    """Cut the torn tail that a kill -9 may have left: only the last segment can have one."""
    for path in segment_paths(folder)[-1:]:
        torn_bytes = cut_torn_tail(path)
        if torn_bytes:
            log.warning("%s ended in the middle of a record: %d bytes were cut off", path.name, torn_bytes)

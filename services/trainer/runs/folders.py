"""Folders of a run, kept as blobs: the checkpoint, and what the recipe left. Whoever takes the run over finds them."""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
from pathlib import Path

from penstock.ids import uuid7
from services.common.jobs import JobRun
from services.trainer.executing.plain_files import plain_files
from services.trainer.faults import TrainingFailed
from services.trainer.store import PassingBlobs

CHECKPOINT, OUT, COMING = "checkpoint", "out", "coming/"
PIECE_BYTES = 1024 * 1024


class Folders:
    """Keeps folders, packed, by name. `max_bytes`: of each."""

    def __init__(self, kept: PassingBlobs, max_bytes: int) -> None:
        self._kept = kept
        self._named = kept.named
        self._max_bytes = max_bytes

    def keep(self, run: JobRun, name: str, folder: Path) -> None:
        """Keep a folder as it is now, in the place of what was kept under this name, which is deleted.

        Raises:
            TrainingFailed: it holds what is no plain file, or too much (INVALID_OUTCOME, TOO_MUCH_OUTPUT).
        """
        run_id = run.job.job_id
        with tempfile.TemporaryFile(dir=folder.parent) as packed:
            with tarfile.open(fileobj=packed, mode="w") as archive:
                _pack(archive, folder, self._max_bytes)
            packed.seek(0)
            pieces = iter(lambda: packed.read(PIECE_BYTES), b"")
            coming = f"{COMING}{uuid7()}"
            blob = self._kept.put(run_id, coming, pieces, max_bytes=2 * self._max_bytes)
        with run.holding() as connection:
            before = [*self._named.drop(connection, run_id, name), *self._named.drop(connection, run_id, coming)]
            self._named.name(connection, run_id, name, blob.sha256, blob.size_bytes)
            replaced = self._kept.discard(connection, before)
        self._kept.delete(replaced)

    def restore(self, run: JobRun, name: str, folder: Path) -> bool:
        """Bring back what was kept; False where nothing was."""
        with run.holding() as connection:
            kept = self._named.named(connection, run.job.job_id).get(name)
        if kept is None:
            return False
        with tempfile.TemporaryFile(dir=folder.parent) as packed:
            with self._kept.blobs.open(kept[0]) as reader:
                for piece in reader:
                    packed.write(piece)
            packed.seek(0)
            with tarfile.open(fileobj=packed) as archive:
                archive.extractall(folder, filter="data")
        return True


def _pack(archive: tarfile.TarFile, folder: Path, max_bytes: int) -> None:
    """Pack what is in a folder, which untrusted code may have filled, and may still write to."""
    size_bytes = 0
    for plain in plain_files(folder):
        entry = tarfile.TarInfo(plain.path)
        if plain.is_folder:
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
            continue
        with plain.open() as file:
            status = os.fstat(file.fileno())
            entry.size, entry.mode, entry.mtime = status.st_size, stat.S_IMODE(status.st_mode), status.st_mtime
            size_bytes += entry.size
            if size_bytes > max_bytes:
                sentence = f"{folder.name} holds more than {max_bytes:,} bytes (PENSTOCK_TRAINER_MAX_ARTIFACT_BYTES)"
                raise TrainingFailed(sentence, reason="TOO_MUCH_OUTPUT")
            archive.addfile(entry, file)

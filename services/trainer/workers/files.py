"""Files of tasks, kept as blobs by name: what a worker brings before it begins, and what it hands in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

from services.common.blobs import BlobReader, BlobStore
from services.common.blobs.store import BlobLedger
from services.common.errors import NotFound
from services.common.jobs import JobConnection
from services.common.postgres import Database
from services.trainer.store import NamedBlobs
from services.trainer.task import RunFolder
from services.trainer.workers.models import HandedFile, OutputKind, OutsideTask

PIECE_BYTES: Final = 1024 * 1024
_PREFIX, _INPUT = "outside/", "input/"


class OutsideFiles:
    """Keeps files below a run's name, so that they go with it, if not before. `max_bytes`: of all of one kind."""

    def __init__(
        self, database: Database, blobs: BlobStore, ledger: BlobLedger, named: NamedBlobs, max_bytes: int
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._ledger = ledger
        self._named = named
        self.max_bytes = max_bytes

    def put(self, pieces: Iterable[bytes], file: HandedFile, room_bytes: int) -> HandedFile:
        """Store a file's bytes, and check them by what was declared; nobody names them yet.

        Raises:
            InvalidArgument: DIGEST_MALFORMED, DIGEST_MISMATCH, SIZE_MISMATCH, TOO_LARGE.
        """
        blob = self._blobs.put(
            pieces,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            max_bytes=room_bytes,
            before_publish=lambda coming: self._ledger.keep(coming.sha256),
        )
        return HandedFile(file.path, blob.sha256, blob.size_bytes)

    def hand_in(
        self, connection: JobConnection, task: OutsideTask, kind: OutputKind, files: Iterable[HandedFile]
    ) -> None:
        """Have files be what a task has handed in, in the place of those before them."""
        prefix = f"{_home(task)}{kind}/"
        self._named.forget(connection, task.run_id, prefix)
        for file in files:
            self._named.name(connection, task.run_id, prefix + file.path, file.sha256, file.size_bytes)

    def handed_in(self, connection: JobConnection, task: OutsideTask, kind: OutputKind) -> list[HandedFile]:
        """Give what a task has handed in."""
        return self._below(connection, task, f"{kind}/")

    def fetch(self, task: OutsideTask, kind: OutputKind, folder: Path) -> None:
        """Have a folder hold what a task has handed in, and nothing else."""
        with self._database.transaction() as connection:
            files = self.handed_in(connection, task, kind)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in files:
            target = folder.joinpath(*file.path.split("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out, self._blobs.open(file.sha256) as reader:
                for piece in reader:
                    out.write(piece)

    def offer(self, task: OutsideTask, folder: RunFolder, check: Callable[[], None]) -> None:
        """Have a task's worker be able to bring all that lies in a run's folder; `check` may raise, to end it."""
        parts = (folder.path / "data", folder.parent, folder.script, folder.checkpoint)
        offered: Mapping[str, Path] = {
            path.relative_to(folder.path).as_posix(): path
            for part in parts
            for path in sorted(part.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
        for name, path in offered.items():
            blob = self._blobs.put(
                _pieces(path, check), max_bytes=2**62, before_publish=lambda coming: self._ledger.keep(coming.sha256)
            )
            with self._database.transaction() as connection:
                key = f"{_home(task)}{_INPUT}{name}"
                self._named.name(connection, task.run_id, key, blob.sha256, blob.size_bytes)

    def inputs(self, connection: JobConnection, task: OutsideTask) -> list[HandedFile]:
        """Give what a task's worker is to bring."""
        return self._below(connection, task, _INPUT)

    def open_input(self, connection: JobConnection, task: OutsideTask, path: str, offset: int) -> BlobReader:
        """Open one of those; raises NotFound (INPUT_NOT_FOUND), OutOfRange (OFFSET_OUT_OF_RANGE)."""
        found = next((file for file in self.inputs(connection, task) if file.path == path), None)
        if found is None:
            raise NotFound(f"the task has no file {path[:80]!r}", reason="INPUT_NOT_FOUND")
        return self._blobs.open(found.sha256, offset=offset)

    def forget(self, connection: JobConnection, run_id: UUID) -> None:
        """Keep nothing of any of a run's tasks."""
        self._named.forget(connection, run_id, _PREFIX)

    def _below(self, connection: JobConnection, task: OutsideTask, part: str) -> list[HandedFile]:
        prefix = _home(task) + part
        named = self._named.named(connection, task.run_id)
        return [
            HandedFile(name.removeprefix(prefix), sha256, size_bytes)
            for name, (sha256, size_bytes) in named.items()
            if name.startswith(prefix)
        ]


def _pieces(path: Path, check: Callable[[], None]) -> Iterator[bytes]:
    with path.open("rb") as source:
        while piece := source.read(PIECE_BYTES):
            check()
            yield piece


def _home(task: OutsideTask) -> str:
    return f"{_PREFIX}{task.number}/"

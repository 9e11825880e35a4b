"""Files of tasks, kept as blobs by name: what a worker brings before it begins, and what it hands in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from penstock.ids import uuid7
from services.common.blobs import BlobReader
from services.common.errors import DomainError, NotFound
from services.common.jobs import JobConnection
from services.common.postgres import Database
from services.trainer.store import PassingBlobs
from services.trainer.task import RunFolder
from services.trainer.workers.models import HandedFile, OutputKind, OutsideTask

PIECE_BYTES: Final = 1024 * 1024
_PREFIX, _INPUT = "outside/", "input/"


@dataclass(frozen=True, slots=True)
class Coming:
    """An upload of a task's that is under way: its files have names below `prefix` until they are handed in."""

    task: OutsideTask
    prefix: str


class OutsideFiles:
    """Keeps files below a run's name, so that they go with it, if not before. `max_bytes`: of all of one kind."""

    def __init__(self, database: Database, kept: PassingBlobs, max_bytes: int) -> None:
        self._database = database
        self._kept = kept
        self._named = kept.named
        self._blobs = kept.blobs
        self.max_bytes = max_bytes

    @contextmanager
    def coming(self, task: OutsideTask) -> Iterator[Coming]:
        """Lend the place of an upload that is under way; what was put there and not handed in is forgotten."""
        coming = Coming(task, f"{_home(task)}coming/{uuid7()}/")
        try:
            yield coming
        finally:
            with self._database.transaction() as connection:
                self._named.forget(connection, task.run_id, coming.prefix)

    def put(self, coming: Coming, pieces: Iterable[bytes], file: HandedFile, room_bytes: int) -> HandedFile:
        """Store a file's bytes, and check them by what was declared.

        Raises:
            InvalidArgument: DIGEST_MALFORMED, DIGEST_MISMATCH, SIZE_MISMATCH, TOO_LARGE.
        """
        blob = self._kept.put(
            coming.task.run_id,
            coming.prefix + file.sha256,
            pieces,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            max_bytes=room_bytes,
        )
        return HandedFile(file.path, blob.sha256, blob.size_bytes)

    def hand_in(
        self, connection: JobConnection, coming: Coming, kind: OutputKind, files: Iterable[HandedFile]
    ) -> list[str]:
        """Have files be what a task has handed in, in the place of those before them.

        Gives what nobody has any more: `delete` it once this is committed.
        """
        run_id, prefix = coming.task.run_id, f"{_home(coming.task)}{kind}/"
        before = self._named.forget(connection, run_id, prefix)
        for file in files:
            self._named.name(connection, run_id, prefix + file.path, file.sha256, file.size_bytes)
        return self._kept.discard(connection, before)

    def delete(self, sha256s: Iterable[str]) -> None:
        """Delete what was replaced."""
        self._kept.delete(sha256s)

    def handed_in(self, connection: JobConnection, task: OutsideTask, kind: OutputKind) -> list[HandedFile]:
        """Give what a task has handed in."""
        return self._below(connection, task, f"{kind}/")

    def fetch(self, task: OutsideTask, kind: OutputKind, folder: Path) -> bool:
        """Have a folder hold what a task has handed in, and nothing else.

        False: other files took their place meanwhile, and the folder is as it was.
        """
        files = self._now_handed_in(task, kind)
        with tempfile.TemporaryDirectory(prefix=f"{kind}-", dir=folder.parent) as path:
            fetched = Path(path, "files")
            fetched.mkdir()
            try:
                for file in files:
                    self._bring(file, fetched)
            except DomainError:
                if self._now_handed_in(task, kind) == files:
                    raise
                return False
            shutil.rmtree(folder, ignore_errors=True)
            fetched.rename(folder)
        return True

    def _bring(self, file: HandedFile, folder: Path) -> None:
        target = folder.joinpath(*file.path.split("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out, self._blobs.open(file.sha256) as reader:
            for piece in reader:
                out.write(piece)

    def _now_handed_in(self, task: OutsideTask, kind: OutputKind) -> list[HandedFile]:
        with self._database.transaction() as connection:
            return self.handed_in(connection, task, kind)

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
            self._kept.put(task.run_id, f"{_home(task)}{_INPUT}{name}", _pieces(path, check), max_bytes=2**62)

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

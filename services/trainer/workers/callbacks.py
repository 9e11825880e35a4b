"""What outside workers ask for and tell, each by the token of its run."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from services.common.addresses import MAX_SIGNED_URL_CHARS, AddressRules, UrlRefused
from services.common.errors import InvalidArgument, ResourceExhausted
from services.common.file_names import DistinctPaths
from services.trainer.executing.outcomes import checked_outcome
from services.trainer.faults import RECIPE_REASONS
from services.trainer.task import Epoch, Outcome
from services.trainer.workers.files import Coming, OutsideFiles
from services.trainer.workers.models import HandedFile, OutputKind, OutsideTask, RemoteFile, RunTokenVoid, TaskState
from services.trainer.workers.store import OutsideStore, body_sha256
from services.trainer.workers.tokens import new_token

MAX_UNREAD: Final = 256
"""Reports of one worker that nobody has read; more wait."""
MAX_FILES: Final = 1_000
MAX_MESSAGE_CHARS: Final = 2_000
WORKER_LOST: Final = "WORKER_LOST"
_SIGN_OF_LIFE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """A task, and the files that belong to it."""

    outside: OutsideTask
    inputs: Sequence[HandedFile]


@dataclass(frozen=True, slots=True)
class Announced:
    """An upload, as its header announces it."""

    token: str
    kind: OutputKind
    epoch: int
    file_count: int


Uploaded = HandedFile | bytes
"""What comes after: the head of a file, or its bytes."""


class Callbacks:
    """See worker.proto for what each promises. Safe to use from many threads, and from all replicas."""

    def __init__(self, store: OutsideStore, files: OutsideFiles, rules: AddressRules) -> None:
        """`rules`: which URLs files may be brought from."""
        self._store = store
        self._files = files
        self._rules = rules

    def claim(self, worker: str, labels: Sequence[str], run_id: UUID | None) -> tuple[Assignment, str] | None:
        """Give the run that has waited longest to a worker that asks, with its token; None where none waits.

        `run_id`: that run, or none.
        """
        token = new_token()
        task = self._store.claim(worker, labels, token, run_id)
        if task is None:
            return None
        with self._store.transaction() as connection:
            return Assignment(task, self._files.inputs(connection, task)), token

    def assignment(self, token: str) -> Assignment:
        """Give the task that a token is for; its worker has shown itself."""
        with self._store.living(token) as (connection, task):
            self._store.heard(connection, task)
            self._store.notify(connection)
            return Assignment(task, self._files.inputs(connection, task))

    def download(self, token: str, path: str, offset: int) -> Iterator[bytes]:
        """Give the bytes of one of a task's files; raises NotFound (INPUT_NOT_FOUND), OutOfRange, DataLoss."""
        with self._store.living(token) as (connection, task):
            self._store.heard(connection, task)
            reader = self._files.open_input(connection, task, path, offset)
        with reader:
            yield from self._noted(token, reader)

    def report(self, token: str, sequence: int, epochs: Sequence[Epoch], log: bytes) -> bool:
        """Hear how a training goes; gives whether it is to stop. One that was heard before is not heard again.

        Raises:
            ResourceExhausted: what came before is not read yet (REPORTS_NOT_READ).
        """
        with self._store.living(token, cancelled=True) as (connection, task):
            if sequence > task.sequence and not task.cancelled:
                if self._store.unread(connection, task.task_id) >= MAX_UNREAD:
                    sentence = "the trainer has not read the reports before this one; try again in a moment"
                    raise ResourceExhausted(sentence, reason="REPORTS_NOT_READ", retry_after_s=1.0)
                self._store.tell(connection, task.task_id, epochs, log)
            self._store.heard(connection, task, sequence=max(sequence, task.sequence))
            return task.cancelled

    def upload(self, upload: Announced, parts: Iterator[Uploaded]) -> int:
        """Take files in; gives their size in bytes. None of them counts before all are here.

        Raises:
            InvalidArgument: see worker.proto.
        """
        with self._store.living(upload.token) as (connection, task):
            self._store.heard(connection, task)
        with self._files.coming(task) as coming:
            files = self._put(upload, parts, coming)
            with self._store.living(upload.token) as (connection, task):
                self._store.heard(connection, task)
                replaced = self._files.hand_in(connection, coming, upload.kind, files)
                if upload.kind is OutputKind.CHECKPOINT:
                    self._store.checkpointed(connection, task.task_id, upload.epoch)
        self._files.delete(replaced)
        return sum(file.size_bytes for file in files)

    def _put(self, upload: Announced, parts: Iterator[Uploaded], coming: Coming) -> list[HandedFile]:
        """Store the files of an upload."""
        files: list[HandedFile] = []
        paths, room_bytes = DistinctPaths(), self._files.max_bytes
        for head, pieces in _by_file(parts):
            if len(files) == upload.file_count:
                sentence = f"more files came than the {upload.file_count} that were announced"
                raise InvalidArgument.field("header.file_count", sentence, reason="TOO_MANY_FILES")
            _take(paths, "file.path", head.path)
            with closing(self._noted(upload.token, pieces)) as noted:
                file = self._files.put(coming, noted, head, room_bytes)
            room_bytes -= file.size_bytes
            files.append(file)
        if len(files) < upload.file_count:
            sentence = f"{len(files)} files came of the {upload.file_count} that were announced; send all of them again"
            raise InvalidArgument.field("header.file_count", sentence, reason="FILES_MISSING")
        return files

    def complete(self, token: str, outcome: dict[str, Any], artifacts: Sequence[RemoteFile]) -> None:
        """End a training well; the same again is answered as before.

        Raises:
            InvalidArgument: INVALID_OUTCOME, NO_ARTIFACT, INVALID_PATH, URL_NOT_ALLOWED.
            RunTokenVoid: it has ended otherwise.
        """
        ending = body_sha256({"outcome": outcome, "artifacts": [asdict(each) for each in artifacts]})
        with self._store.held(token) as (connection, task):
            if _ended_so(task, TaskState.COMPLETED, ending):
                return
            made = asdict(_checked(outcome))
            uploaded = self._files.handed_in(connection, task, OutputKind.ARTIFACT)
            self._check_artifacts(artifacts, uploaded)
            if not artifacts and not uploaded:
                sentence = "no file of the version came; upload them first, or say at which URLs they lie"
                raise InvalidArgument.field("artifacts", sentence, reason="NO_ARTIFACT")
            self._store.complete(connection, task.task_id, ending, made, artifacts)

    def fail(self, token: str, reason: str, message: str) -> None:
        """End a training badly; the same again is answered as before. Raises RunTokenVoid where it has ended else."""
        known = reason if reason in RECIPE_REASONS | {WORKER_LOST} else "TRAINING_FAILED"
        ending = body_sha256({"reason": reason, "message": message})
        with self._store.held(token) as (connection, task):
            if not _ended_so(task, TaskState.FAILED, ending):
                sentence = message[:MAX_MESSAGE_CHARS] or "the worker says no more"
                self._store.fail(connection, task.task_id, ending, known, sentence)

    def _check_artifacts(self, artifacts: Sequence[RemoteFile], uploaded: Sequence[HandedFile]) -> None:
        paths = DistinctPaths()
        for file in uploaded:
            _take(paths, "file.path", file.path)
        for number, artifact in enumerate(artifacts):
            _take(paths, f"artifacts[{number}].path", artifact.path)
            try:
                self._rules.endpoint(artifact.url, max_chars=MAX_SIGNED_URL_CHARS)
            except UrlRefused as error:
                field = f"artifacts[{number}].url"
                raise InvalidArgument.field(field, error.message, reason="URL_NOT_ALLOWED") from error
        declared_bytes = sum(artifact.size_bytes for artifact in artifacts)
        if declared_bytes > self._files.max_bytes:
            sentence = f"they have {declared_bytes:,} bytes; {self._files.max_bytes:,} are allowed"
            raise InvalidArgument.field("artifacts", sentence, reason="TOO_LARGE")

    def _noted(self, token: str, pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
        """Give pieces, and note now and then that the worker lives; what its token is not good for any more ends."""
        noted_at = time.monotonic()
        for piece in pieces:
            yield piece
            if time.monotonic() - noted_at >= _SIGN_OF_LIFE_S:
                noted_at = time.monotonic()
                with self._store.living(token) as (connection, task):
                    self._store.heard(connection, task)


def _by_file(parts: Iterator[Uploaded]) -> Iterator[tuple[HandedFile, Iterator[bytes]]]:
    """Give each file with its bytes; they are to be read to their end before the next one is asked for."""
    coming = next(parts, None)
    while coming is not None:
        if not isinstance(coming, HandedFile):
            raise InvalidArgument.field("file", "bytes came before the file that they are of", reason="HEADER_REQUIRED")
        following: list[HandedFile] = []
        yield coming, _bytes_of(parts, following)
        coming = following[0] if following else next(parts, None)


def _bytes_of(parts: Iterator[Uploaded], following: list[HandedFile]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, HandedFile):
            following.append(part)
            return
        yield part


def _ended_so(task: OutsideTask, state: TaskState, ending: str) -> bool:
    """Whether a task has ended by this very request; raises RunTokenVoid where by another one."""
    if task.state is state and task.end_sha256 == ending:
        return True
    if not task.live or task.cancelled:
        raise RunTokenVoid("this token is void: the run was completed, failed or cancelled; send no more of it")
    return False


def _checked(outcome: dict[str, Any]) -> Outcome:
    try:
        return checked_outcome(outcome)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        sentence = f"it cannot be used: {str(error)[:500]}"
        raise InvalidArgument.field("outcome", sentence, reason="INVALID_OUTCOME") from error


def _take(paths: DistinctPaths, field: str, path: str) -> None:
    if len(paths) >= MAX_FILES:
        raise InvalidArgument.field(field, f"more than {MAX_FILES:,} files came", reason="TOO_MANY_FILES")
    if other := paths.take(path):
        sentence = f"{path[:80]!r} and {other[:80]!r} are one file to some file systems; rename one"
        raise InvalidArgument.field(field, sentence, reason="INVALID_PATH")

"""The client of an outside worker: it fetches a task and its files, tells how it goes, and hands in what it made.

The run's token opens what belongs to the run: it goes in plain text to this machine alone; see `Client(insecure=)`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, TypeAlias

from penstock.api.trainer.v1 import worker_pb2 as pb
from penstock.channels import Connection
from penstock.credentials import Address, Credentials
from penstock.errors import DataLoss, PenstockError
from penstock.ids import uuid7
from penstock.retries import Tries
from penstock.stubs import TrainerStub
from penstock.uploads import CHUNK_BYTES
from penstock.values import enum_number

Kind: TypeAlias = "pb.OutputKind.ValueType | str"
"""ARTIFACT or CHECKPOINT, by number or by name in any case."""


class Source(Protocol):
    """A file to hand in: a Path is one."""

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Open it for reading, from its beginning."""
        ...


class TrainingWorkerClient:
    """Speaks to the trainer for a worker elsewhere."""

    def __init__(self, connection: Connection[TrainerStub], address: Address, credentials: Credentials) -> None:
        self._connection = connection
        self._address = address
        self._credentials = credentials

    def claim(self, worker: str, labels: Iterable[str] = (), *, run_id: str = "") -> pb.ClaimTrainingTaskResponse:
        """Ask for a run that waits for a remote worker with such labels; without a task where none waits.

        `run_id`: only this run, as a worker does that was called for it.

        Raises:
            InvalidArgument: the worker's name, a label or the id is none (INVALID_WORKER, INVALID_ID).
            PermissionDenied: the API key is no operator's (ROLE_TOO_WEAK).
        """
        request = pb.ClaimTrainingTaskRequest(worker=worker, labels=labels, run_id=run_id)
        return self._connection.unary(self._connection.stub.ClaimTrainingTask, request)

    def get_task(self, run_token: str) -> pb.TrainingTask:
        """Give the task that a token is for.

        Raises:
            Unauthenticated: no run has such a token (INVALID_RUN_TOKEN).
            PermissionDenied: nobody wants it any more (RUN_TOKEN_VOID); each of the other calls raises both as well.
        """
        request = pb.GetTrainingTaskRequest(run_token=self._checked(run_token))
        return self._connection.unary(self._connection.stub.GetTrainingTask, request).task

    def download_input(
        self,
        run_token: str,
        file: pb.TrainingInput,
        folder: str | PathLike[str],
        *,
        check: Callable[[], None] = lambda: None,
    ) -> Path:
        """Bring one of a task's files to its place below a folder, verified; gives where it lies.

        `check` is called with each piece, and may raise to end it.

        Raises:
            DataLoss: what came is not what was promised (DIGEST_MISMATCH).
        """
        target = Path(folder, *file.path.split("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.parent / f".penstock-{uuid7()}.part"
        digest = sha256()
        try:
            with unfinished.open("xb") as out, closing(self._pieces(self._checked(run_token), file)) as pieces:
                for piece in pieces:
                    check()
                    digest.update(piece)
                    out.write(piece)
            if digest.hexdigest() != file.sha256:
                sentence = f"{file.path}: its SHA-256 is {file.sha256}, that of what came {digest.hexdigest()}"
                raise DataLoss(sentence, reason="DIGEST_MISMATCH")
            return unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)

    def report(self, run_token: str, sequence: int, *, epochs: Sequence[pb.TaskEpoch] = (), log: bytes = b"") -> bool:
        """Tell what came since the report before, the `sequence`-th of this token; gives whether to stop."""
        token = self._checked(run_token)
        request = pb.ReportTrainingProgressRequest(run_token=token, sequence=sequence, epochs=epochs, log=log)
        return self._connection.unary(self._connection.stub.ReportTrainingProgress, request).cancelled

    def upload(self, run_token: str, kind: Kind, files: Mapping[str, Source], *, epoch: int = 0) -> int:
        """Hand in files, by their paths in the version or the checkpoint; gives their size in bytes.

        Raises:
            InvalidArgument: they are too large, or too many (TOO_LARGE, TOO_MANY_FILES).
        """
        number = enum_number("kind", pb.OutputKind, kind)
        token = self._checked(run_token)
        header = pb.OutputHeader(run_token=token, kind=number, epoch=epoch, file_count=len(files))
        tries = Tries(self._connection.retry)
        while True:
            try:
                answer = self._connection.upload(
                    self._connection.stub.UploadTrainingOutput,
                    pb.UploadTrainingOutputRequest,
                    _messages(header, files),
                )
                return answer.size_bytes
            except PenstockError as error:
                tries.again(error)

    def complete(
        self, run_token: str, outcome: pb.TrainingOutcome, *, artifacts: Sequence[pb.RemoteArtifact] = ()
    ) -> None:
        """End the training well: with the files that were uploaded, or with those that lie at URLs.

        Raises:
            InvalidArgument: the outcome cannot be used (INVALID_OUTCOME), no files came (NO_ARTIFACT), or the trainer
                may not reach a URL (URL_NOT_ALLOWED).
        """
        token = self._checked(run_token)
        request = pb.CompleteTrainingRunRequest(run_token=token, outcome=outcome, artifacts=artifacts)
        self._connection.unary(self._connection.stub.CompleteTrainingRun, request)

    def fail(self, run_token: str, reason: str, message: str) -> None:
        """End the training badly; WORKER_LOST as the reason has another worker try."""
        request = pb.FailTrainingRunRequest(run_token=self._checked(run_token), reason=reason, message=message)
        self._connection.unary(self._connection.stub.FailTrainingRun, request)

    def _checked(self, run_token: str) -> str:
        """Let a token through that is not to be seen on the way."""
        replace(self._credentials, token=run_token, token_file=None).check(self._address)
        return run_token

    def _pieces(self, run_token: str, file: pb.TrainingInput) -> Generator[bytes, None, None]:
        """Give a file's bytes, resuming where the connection broke."""
        tries = Tries(self._connection.retry)
        received_bytes = 0
        while True:
            request = pb.DownloadTrainingInputRequest(run_token=run_token, path=file.path, offset=received_bytes)
            try:
                method = self._connection.stub.DownloadTrainingInput
                with closing(self._connection.stream(method, request)) as answers:
                    for answer in answers:
                        received_bytes += len(answer.chunk)
                        tries.progressed()
                        yield answer.chunk
                return
            except PenstockError as error:
                tries.again(error)


def _messages(header: pb.OutputHeader, files: Mapping[str, Source]) -> Iterator[pb.UploadTrainingOutputRequest]:
    yield pb.UploadTrainingOutputRequest(header=header)
    for path, source in files.items():
        with source.open("rb") as stream:
            digest = sha256()
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
            size_bytes = stream.tell()
            file = pb.OutputFile(path=path, sha256=digest.hexdigest(), size_bytes=size_bytes)
            yield pb.UploadTrainingOutputRequest(file=file)
            stream.seek(0)
            while chunk := stream.read(CHUNK_BYTES):
                yield pb.UploadTrainingOutputRequest(chunk=chunk)

"""The client of batch prediction: jobs over files and rows, and their results."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from hashlib import sha256
from os import PathLike
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

from numpy.typing import ArrayLike

from penstock.api.inference.v1 import prediction_jobs_pb2 as pb
from penstock.api.inference.v1.prediction_jobs_pb2_grpc import PredictionJobServiceStub
from penstock.channels import Connection
from penstock.errors import DataLoss, InvalidArgument, PenstockError
from penstock.ids import uuid7
from penstock.paging import pages
from penstock.retries import WATCH_PATIENCE_S, Broken, Tries
from penstock.tensors import to_tensor
from penstock.uploads import Progress, UploadFile
from penstock.values import enum_number, to_struct, to_timestamp

TERMINAL = (pb.JOB_STATE_COMPLETED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED)
ONE_WAIT_S = 20.0
_SUFFIXES = {
    ".jsonl": pb.FILE_FORMAT_JSONL,
    ".ndjson": pb.FILE_FORMAT_JSONL,
    ".csv": pb.FILE_FORMAT_CSV,
    ".parquet": pb.FILE_FORMAT_PARQUET,
}
Format: TypeAlias = "pb.FileFormat.ValueType | str | None"
"""JSONL, CSV or PARQUET, by number or by name in any case; None: by the file's suffix, or the server's default."""


class PredictionJobsClient:
    """Calls the jobs process of the inference service."""

    def __init__(self, connection: Connection[PredictionJobServiceStub]) -> None:
        self._connection = connection

    def create(
        self,
        model: str,
        *,
        file: str | PathLike[str] | pb.FileInput | None = None,
        rows: Iterable[Mapping[str, Any]] | None = None,
        features: Mapping[str, Any] | None = None,
        tensors: Mapping[str, ArrayLike] | None = None,
        version: str = "",
        input_format: Format = None,
        output_format: Format = None,
        outputs: Sequence[str] = (),
        priority: int = 0,
        max_failed_rows: int | None = None,
        record_events: bool = True,
        user_id: str = "",
        soft_limit_s: float = 0.0,
        hard_limit_s: float = 0.0,
        max_attempts: int = 0,
        due_time: datetime | None = None,
        request_id: str = "",
        progress: Progress | None = None,
    ) -> pb.PredictionJob:
        """Queue a job over one of `file`, `rows`, `features` and `tensors`.

        Args:
            model: the model.
            file: a file of rows, uploaded first; or one that the service can read already, with its digest; or
                pb.FileInput(uri="dataset:NAME") of a dataset, of which the columns are read that the model takes.
            rows: features by name, at most 10,000 rows.
            features: those of one request, of one row or many.
            tensors: those of one request, by the name of an input.
            version: an exact version, a stage, `latest`; empty: PRODUCTION, else the latest.
            input_format: how the file is written.
            output_format: how the result is to be written; None: JSONL.
            outputs: which outputs are wanted; empty: all.
            priority: 1 goes first, 9 last; 0: 5.
            max_failed_rows: how many rows may fail before the job does; None: all but one.
            record_events: whether each prediction leaves an event in monitoring.
            user_id: who it is for; kept with the events.
            soft_limit_s: asks the job to end after so long, in seconds; 0: never.
            hard_limit_s: ends it where it stands after so long, in seconds; 0: the server's own limit.
            max_attempts: 1 to 20; 0: 5.
            due_time: not before this time, which must be aware.
            request_id: the same again returns the first result for 7 days; empty: one is made, so that a retry makes
                no second job.
            progress: called with the bytes uploaded so far and in all.

        Raises:
            InvalidArgument: none or several inputs, or one that the service refuses; `violations` names it.
            ResourceExhausted: too many jobs of this key have not ended (TOO_MANY_JOBS).
        """
        if sum(each is not None for each in (file, rows, features, tensors)) != 1:
            raise InvalidArgument("give one of file, rows, features and tensors", reason="INPUT_REQUIRED")
        request = pb.CreatePredictionJobRequest(
            model=model,
            version=version,
            output_format=enum_number("output_format", pb.FileFormat, output_format),
            outputs=outputs,
            priority=priority,
            max_failed_rows=max_failed_rows,
            record_events=record_events,
            user_id=user_id,
            soft_limit_ms=round(soft_limit_s * 1000),
            hard_limit_ms=round(hard_limit_s * 1000),
            max_attempts=max_attempts,
            due_time=to_timestamp("due_time", due_time),
            request_id=request_id or uuid7(),
        )
        if isinstance(file, pb.FileInput):
            request.file.CopyFrom(file)
        elif file is not None:
            request.file.CopyFrom(self.upload(file, input_format=input_format, progress=progress))
        elif rows is not None:
            request.rows.CopyFrom(pb.RowsInput(rows=[to_struct(row) for row in rows]))
        elif features is not None:
            request.single.CopyFrom(pb.SingleInput(features=to_struct(features)))
        else:
            named = [to_tensor(name, array) for name, array in (tensors or {}).items()]
            request.single.CopyFrom(pb.SingleInput(tensors=named))
        return self._connection.unary(self._connection.stub.CreatePredictionJob, request).job

    def upload(
        self, path: str | PathLike[str], *, input_format: Format = None, progress: Progress | None = None
    ) -> pb.FileInput:
        """Upload a file of rows, and give what `create` names it by.

        Raises:
            InvalidArgument: its suffix says no format, and none was given (FORMAT_REQUIRED).
            OSError: it can't be read.
        """
        source = Path(path)
        number = enum_number("input_format", pb.FileFormat, input_format) or _SUFFIXES.get(source.suffix.lower())
        if not number:
            sentence = f"{source.name} does not say how it is written; give input_format: jsonl, csv or parquet"
            raise InvalidArgument(sentence, reason="FORMAT_REQUIRED")
        upload = UploadFile.of(source.name, source)
        tries = Tries(self._connection.retry)
        while True:
            try:
                requests = _upload_requests(upload, progress)
                method, kind = self._connection.stub.UploadPredictionInput, pb.UploadPredictionInputRequest
                answer = self._connection.upload(method, kind, requests)
            except PenstockError as error:
                tries.again(error)
            else:
                return pb.FileInput(uri=answer.uri, sha256=answer.sha256, format=number)

    def get(self, job_id: str) -> pb.PredictionJob:
        """Give a job as it stands; raises NotFound (JOB_NOT_FOUND)."""
        request = pb.GetPredictionJobRequest(id=job_id)
        return self._connection.unary(self._connection.stub.GetPredictionJob, request).job

    def wait(self, job_id: str, *, timeout_s: float = 300.0) -> pb.PredictionJob:
        """Wait until a job has ended, or for so long, and give it as it stands then; raises NotFound."""
        deadline = monotonic() + timeout_s
        while True:
            left_s = max(0.0, min(ONE_WAIT_S, deadline - monotonic()))
            request = pb.WaitPredictionJobRequest(id=job_id, timeout_ms=round(left_s * 1000))
            method = self._connection.stub.WaitPredictionJob
            job = self._connection.unary(method, request, timeout_s=left_s + ONE_WAIT_S).job
            if job.state in TERMINAL or monotonic() >= deadline:
                return job

    def watch(self, job_id: str, *, broken: Broken | None = None) -> Generator[pb.PredictionJob, None, None]:
        """Give a job at once and whenever it changes, until it has ended.

        A stream that breaks is taken up again, for a minute at the least: a service that starts anew is back by then.
        `broken` is called once for each break that is about to be mended, with its error.

        Raises:
            NotFound: there is none such (JOB_NOT_FOUND).
            PenstockError: the service stayed away. The job goes on without; watch it again.
        """
        tries = Tries(self._connection.retry, patience_s=WATCH_PATIENCE_S, broken=broken)
        while True:
            request = pb.WatchPredictionJobRequest(id=job_id)
            try:
                with closing(self._connection.stream(self._connection.stub.WatchPredictionJob, request)) as answers:
                    for answer in answers:
                        tries.progressed()
                        yield answer.job
                        if answer.job.state in TERMINAL:
                            return
            except PenstockError as error:
                tries.again(error)

    def list(
        self, *, states: Iterable[pb.JobState.ValueType | str] = (), model: str = "", page_size: int = 0
    ) -> Iterator[pb.PredictionJob]:
        """List jobs, the newest first, page by page as they are wanted; `states` by number or by name in any case."""
        wanted = [enum_number("states", pb.JobState, state) for state in states]

        def fetch(token: str) -> pb.ListPredictionJobsResponse:
            request = pb.ListPredictionJobsRequest(states=wanted, model=model, page_size=page_size, page_token=token)
            return self._connection.unary(self._connection.stub.ListPredictionJobs, request)

        for page in pages(fetch):
            yield from page.jobs

    def cancel(self, job_id: str) -> pb.PredictionJob:
        """Ask for a job's end; one that runs ends between two batches. Raises FailedPrecondition (JOB_ENDED)."""
        request = pb.CancelPredictionJobRequest(id=job_id)
        return self._connection.unary(self._connection.stub.CancelPredictionJob, request).job

    def retry(self, job_id: str) -> pb.PredictionJob:
        """Queue a FAILED or CANCELLED job again, to go on after what is done; raises FailedPrecondition.

        After TOO_MANY_FAILED_ROWS the rows that failed are predicted once more, and the others are left as they are.
        """
        request = pb.RetryPredictionJobRequest(id=job_id)
        return self._connection.unary(self._connection.stub.RetryPredictionJob, request).job

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its result; raises FailedPrecondition where it has not."""
        request = pb.DeletePredictionJobRequest(id=job_id)
        self._connection.unary(self._connection.stub.DeletePredictionJob, request)

    def download(
        self, job_id: str, destination: str | PathLike[str], *, progress: Progress | None = None
    ) -> pb.PredictionResult:
        """Write a result to a file, verified by its digest, in one move; resumed where the connection breaks.

        Raises:
            FailedPrecondition: the job is not COMPLETED (WRONG_STATE).
            DataLoss: what came is not what the service promised (DIGEST_MISMATCH). Nothing is left behind.
            OSError: the destination can't be written.
        """
        target = Path(destination)
        unfinished = target.parent / f".penstock-{uuid7()}.part"
        try:
            with unfinished.open("xb") as out:
                result = self._verified(job_id, out.write, progress)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
        return result

    def workers(self) -> Sequence[pb.PredictionWorker]:
        """List the processes that work on jobs."""
        request = pb.ListPredictionWorkersRequest()
        return list(self._connection.unary(self._connection.stub.ListPredictionWorkers, request).workers)

    def _verified(
        self, job_id: str, write: Callable[[bytes], object], progress: Progress | None
    ) -> pb.PredictionResult:
        tries, digest, received_bytes = Tries(self._connection.retry), sha256(), 0
        result = pb.PredictionResult()
        while not result.sha256 or received_bytes < result.size_bytes:
            request = pb.DownloadPredictionResultRequest(id=job_id, offset_bytes=received_bytes)
            method = self._connection.stub.DownloadPredictionResult
            try:
                with closing(self._connection.stream(method, request)) as pieces:
                    for piece in pieces:
                        if piece.HasField("result"):
                            result = piece.result
                            continue
                        tries.progressed()
                        digest.update(piece.chunk)
                        write(piece.chunk)
                        received_bytes += len(piece.chunk)
                        if progress is not None:
                            progress(received_bytes, result.size_bytes)
                break
            except PenstockError as error:
                tries.again(error)
        if digest.hexdigest() != result.sha256:
            sentence = f"the result's SHA-256 is {result.sha256}, that of the {received_bytes} bytes that came another"
            raise DataLoss(f"{sentence}; download it again", reason="DIGEST_MISMATCH")
        return result


def _upload_requests(file: UploadFile, progress: Progress | None) -> Iterator[pb.UploadPredictionInputRequest]:
    header = pb.PredictionInputHeader(sha256=file.sha256, size_bytes=file.size_bytes)
    yield pb.UploadPredictionInputRequest(header=header)
    sent_bytes = 0
    for chunk in file.chunks():
        yield pb.UploadPredictionInputRequest(chunk=chunk)
        sent_bytes += len(chunk)
        if progress is not None:
            progress(sent_bytes, file.size_bytes)

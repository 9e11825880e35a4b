"""Large files on their way in parts, so that a break costs a part and not the file.

An upload is found again by the file's digest: whoever sends the same file with the same key goes on where the last one
was cut off, be it another process or another day.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import replace
from hashlib import sha256

from penstock.api.registry.v1 import uploads_pb2 as pb
from penstock.channels import Connection
from penstock.errors import Cancelled, FailedPrecondition, InvalidArgument, PenstockError
from penstock.retries import Tries
from penstock.stubs import RegistryStub
from penstock.uploads import Progress, Upload, UploadFile

# Putting parts together costs the registry about what one more upload costs. So a file goes in parts from the start
# only where losing it half-way would cost more, and smaller ones once a stream has broken.
HUGE_BYTES = 1024 * 1024 * 1024
LARGE_BYTES = 64 * 1024 * 1024
PARTS_AT_ONCE = 2
_ROUNDS = 3


def sent_beforehand(
    connection: Connection[RegistryStub], upload: Upload, progress: Progress | None, *, over_bytes: int
) -> Upload:
    """Send each file over a size that can be read again; gives the upload with these named by their upload ids.

    Raises:
        PenstockError: a part was refused, or retrying did not help; what has arrived stays for 7 days.
        OSError: the source can't be read.
    """
    if not any(_goes_in_parts(file, over_bytes) for file in upload.files):
        return upload
    total = sum(file.size_bytes for file in upload.files) if upload.repeatable else None
    count = _Count(progress, total)
    count.add(sum(file.size_bytes for file in upload.files if file.upload_id))
    files = [
        replace(file, upload_id=PartUpload(connection, file, count.add).send())
        if _goes_in_parts(file, over_bytes)
        else file
        for file in upload.files
    ]
    return replace(upload, files=tuple(files))


def _goes_in_parts(file: UploadFile, over_bytes: int) -> bool:
    return file.start is not None and file.size_bytes > over_bytes and not file.upload_id


class _Count:
    """Adds up what several threads have sent."""

    def __init__(self, progress: Progress | None, total_bytes: int | None) -> None:
        self._progress = progress
        self._total_bytes = total_bytes
        self._lock = threading.Lock()
        self.bytes = 0

    def add(self, size_bytes: int) -> None:
        with self._lock:
            self.bytes += size_bytes
            if self._progress is not None:
                self._progress(self.bytes, self._total_bytes)


class PartUpload:
    """One file on its way in parts; `told` hears of each piece that is sent, and of what is taken back by a retry."""

    def __init__(self, connection: Connection[RegistryStub], file: UploadFile, told: Callable[[int], None]) -> None:
        self._connection = connection
        self._file = file
        self._told = told
        self._stopping = threading.Event()

    def send(self) -> str:
        """Send what the registry does not have yet; gives the upload's id.

        Raises:
            PenstockError, OSError: see `sent_beforehand`.
        """
        request = pb.CreateUploadRequest(
            sha256=self._file.sha256, size_bytes=self._file.size_bytes, request_id=f"file-{self._file.sha256}"
        )
        upload = self._connection.unary(self._connection.stub.CreateUpload, request).upload
        if upload.state == pb.UPLOAD_STATE_FINISHED:
            self._told(self._file.size_bytes)
            return upload.id
        self._told(sum(_size_of(upload, number) for number in upload.received_parts))
        try:
            self._complete(upload)
        except InvalidArgument:
            # The file changed while it was sent, or the registry's limits did: these parts will never be of use.
            with suppress(PenstockError):
                self._connection.unary(self._connection.stub.AbortUpload, pb.AbortUploadRequest(upload_id=upload.id))
            raise
        return upload.id

    def _complete(self, upload: pb.Upload) -> None:
        for rounds_left in reversed(range(_ROUNDS)):
            missing = sorted(set(range(1, upload.part_count + 1)) - set(upload.received_parts))
            self._send_parts(upload, missing)
            try:
                self._finish(upload.id)
            except FailedPrecondition as error:
                # The blob store lost or damaged some: the registry says which it still has.
                if error.reason != "PARTS_MISSING" or not rounds_left:
                    raise
                request = pb.GetUploadRequest(upload_id=upload.id)
                upload = self._connection.unary(self._connection.stub.GetUpload, request).upload
                self._told(-sum(_size_of(upload, n) for n in range(1, upload.part_count + 1)))
                self._told(sum(_size_of(upload, number) for number in upload.received_parts))
            else:
                return

    def _send_parts(self, upload: pb.Upload, numbers: list[int]) -> None:
        """Send some parts, a few at once; the first error ends the others, and is raised when all have ended."""
        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="penstock-part") as pool:
            sending = [pool.submit(self._send_part, upload, number) for number in numbers]
            try:
                done, _ = wait(sending, return_when=FIRST_EXCEPTION)
            except BaseException:  # Ctrl-C: what waits shall not begin, what is under way shall end
                self._stop(pool)
                raise
            for future in done:
                if (error := future.exception()) is not None:
                    self._stop(pool)
                    raise error

    def _stop(self, pool: ThreadPoolExecutor) -> None:
        self._stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)

    def _send_part(self, upload: pb.Upload, number: int) -> None:
        offset_bytes, size_bytes = (number - 1) * upload.part_size_bytes, _size_of(upload, number)
        tries = Tries(self._connection.retry)
        while True:
            sent = _Count(None, None)
            try:
                digest = sha256()
                for chunk in self._file.chunks(offset_bytes, size_bytes):
                    digest.update(chunk)
                header = pb.PartHeader(upload_id=upload.id, part_number=number, sha256=digest.hexdigest())
                requests = self._requests(header, offset_bytes, size_bytes, sent)
                self._connection.upload(self._connection.stub.UploadPart, pb.UploadPartRequest, requests)
            except PenstockError as error:
                self._told(-sent.bytes)
                if self._stopping.is_set():
                    raise
                tries.again(error)
            else:
                return

    def _requests(
        self, header: pb.PartHeader, offset_bytes: int, size_bytes: int, sent: _Count
    ) -> Iterator[pb.UploadPartRequest]:
        yield pb.UploadPartRequest(header=header)
        for chunk in self._file.chunks(offset_bytes, size_bytes):
            if self._stopping.is_set():
                raise Cancelled("another part failed", reason="UPLOAD_STOPPED")
            yield pb.UploadPartRequest(chunk=chunk)
            sent.add(len(chunk))
            self._told(len(chunk))

    def _finish(self, upload_id: str) -> None:
        request = pb.FinishUploadRequest(upload_id=upload_id)
        tries = Tries(self._connection.retry)
        while True:
            try:
                with closing(self._connection.stream(self._connection.stub.FinishUpload, request)) as told:
                    for _ in told:
                        tries.progressed()
            except PenstockError as error:
                tries.again(error)
            else:
                return


def _size_of(upload: pb.Upload, number: int) -> int:
    if number < upload.part_count:
        return upload.part_size_bytes
    return upload.size_bytes - (upload.part_count - 1) * upload.part_size_bytes

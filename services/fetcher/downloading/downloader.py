"""One file from a source into the blob store, in parts: what is safe is never asked for again.

Parts are stored while the next one comes, and noted in their order, so that what is noted has no gaps. The digest of
the whole is computed as it passes; whoever takes a download over reads the parts that are there once, for it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from services.common.blobs import Blob, BlobStore
from services.common.errors import DataLoss, NotFound
from services.common.jobs import JobRun
from services.fetcher.faults import DigestMismatch, FileTooLarge, NetworkError, SourceChanged
from services.fetcher.models import Download, Part, RemoteFile
from services.fetcher.sources.source import Source, Stopping
from services.fetcher.store.downloads import DownloadStore, Taken

STORED_AT_ONCE = 2

Told = Callable[[int], None]
"""Told how many bytes of the file are here."""


class Awaited(Exception):
    """Another job brings the file."""


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Sizes in bytes: of a part, and of the largest file."""

    part_bytes: int
    max_file_bytes: int


class Downloader:
    """Brings files. Of two jobs that want the same file one brings it, and the other is told to come again."""

    def __init__(self, downloads: DownloadStore, blobs: BlobStore, limits: DownloadLimits) -> None:
        self._downloads = downloads
        self._blobs = blobs
        self._limits = limits

    def bring(self, run: JobRun, source: Source, file: RemoteFile, told: Told) -> Download:
        """Bring a file, or what lacks of it; gives it whole.

        Raises:
            Awaited: another job brings it.
            Stopped: the run is to end.
            DomainError: what the source raises; SourceChanged, DigestMismatch, FileTooLarge.
        """
        if (file.size_bytes or 0) > self._limits.max_file_bytes:
            raise self._too_large(file)
        identity = _identity(source, file)
        taken = self._downloads.take(run.job.job_id, identity or f"{run.job.job_id} {file.path}", sha256=file.sha256)
        if taken is None:
            raise Awaited
        if taken.whole is not None and identity:
            told(taken.whole.size_bytes)
            return taken.whole
        if taken.parts and not identity:
            taken = self._anew(run, taken)
        told(sum(part.size_bytes for part in taken.parts))
        try:
            return self._bring(run, source, file, taken, told)
        except (SourceChanged, FileTooLarge, DigestMismatch):
            with run.holding() as connection:
                self._downloads.begin_anew(connection, run.job.job_id, taken.download_id)
            raise

    def _chunks(self, run: JobRun, parts: Iterable[Part]) -> Iterator[bytes]:
        for part in parts:
            run.check()
            with self._blobs.open(part.sha256) as reader:
                yield from reader

    def _anew(self, run: JobRun, taken: Taken) -> Taken:
        """Let go of bytes that nothing shows to be those of the file as it is now."""
        with run.holding() as connection:
            self._downloads.begin_anew(connection, run.job.job_id, taken.download_id)
        return Taken(taken.download_id, [], None)

    def _bring(self, run: JobRun, source: Source, file: RemoteFile, taken: Taken, told: Told) -> Download:
        digest, parts = hashlib.sha256(), list(taken.parts)
        try:
            for chunk in self._chunks(run, parts):
                digest.update(chunk)
        except (DataLoss, NotFound) as error:
            raise SourceChanged(
                "what was downloaded before is damaged in the blob store; it is brought anew"
            ) from error
        writer = _PartWriter(run, self._downloads, self._blobs, taken, self._limits.part_bytes)
        begun = sum(part.size_bytes for part in parts)
        self._check_size(file, begun)
        if file.size_bytes is None or begun != file.size_bytes or not parts:
            stopping = Stopping(run.check, run.on_stop, run.forget)
            with writer, source.open(file, begun, stopping) as flow:
                position = flow.offset
                if position > begun:
                    raise NetworkError(f"{file.path} was sent from byte {position:,} on, and {begun:,} was asked for")
                for came in flow:
                    run.check()
                    chunk = came[max(0, begun - position) :] if position < begun else came
                    position += len(came)
                    self._check_size(file, position)
                    digest.update(chunk)
                    writer.add(chunk)
                    told(begun + writer.added_bytes)
                # What is not all of it is not noted: its last part would stand where others belong.
                size_bytes = begun + writer.added_bytes
                if position < begun:
                    raise SourceChanged(f"{file.path} is shorter than what came of it before; it is begun anew")
                if file.size_bytes is not None and size_bytes != file.size_bytes:
                    raise NetworkError(f"{file.path} ended after {size_bytes:,} of {file.size_bytes:,} bytes")
                self._check_digest(file, digest.hexdigest(), reused=bool(parts))
                writer.finish()
        else:
            self._check_digest(file, digest.hexdigest(), reused=True)
        whole = Download(taken.download_id, digest.hexdigest(), begun + writer.added_bytes, [*parts, *writer.parts])
        with run.holding() as connection:
            self._downloads.finish(
                connection, run.job.job_id, taken.download_id, sha256=whole.sha256, size_bytes=whole.size_bytes
            )
        return whole

    def _check_size(self, file: RemoteFile, size_bytes: int) -> None:
        if size_bytes > self._limits.max_file_bytes:
            raise self._too_large(file)
        if file.size_bytes is not None and size_bytes > file.size_bytes:
            raise SourceChanged(f"{file.path} has more than the {file.size_bytes:,} bytes announced; it is begun anew")

    def _check_digest(self, file: RemoteFile, sha256: str, *, reused: bool) -> None:
        """See that the bytes are those announced; those that came before may be others, and are brought anew first."""
        if not file.sha256 or sha256 == file.sha256:
            return
        if reused:
            raise SourceChanged(f"{file.path} is another than it was when its first bytes came; it is begun anew")
        raise DigestMismatch(f"{file.path} hashes to {sha256}, and {file.sha256} was announced: do not use it")

    def _too_large(self, file: RemoteFile) -> FileTooLarge:
        most = self._limits.max_file_bytes
        return FileTooLarge(f"{file.path} has more than the {most:,} bytes that PENSTOCK_FETCHER_MAX_FILE_BYTES allows")


class _PartWriter:
    """Cuts what comes into parts, stores them a few at once, and notes each as soon as all before it are noted."""

    def __init__(self, run: JobRun, downloads: DownloadStore, blobs: BlobStore, taken: Taken, part_bytes: int) -> None:
        self._run = run
        self._downloads = downloads
        self._blobs = blobs
        self._download_id = taken.download_id
        self._part_bytes = part_bytes
        self._first = len(taken.parts)
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._begun = 0
        self._storing: deque[Future[None]] = deque()
        self._stored: dict[int, Blob] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(STORED_AT_ONCE, thread_name_prefix="fetch-part")
        self.parts: list[Part] = []
        self.added_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let what is being stored be noted, whatever ended the transfer; what else was gathered is let go."""
        self._pool.shutdown(cancel_futures=True)

    def add(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.added_bytes += len(chunk)
        while self._gathered_bytes + len(chunk) >= self._part_bytes:
            room = self._part_bytes - self._gathered_bytes
            self._gather(chunk[:room])
            chunk = chunk[room:]
            self._store()
        self._gather(chunk)

    def finish(self) -> None:
        """Store and note all that is left."""
        if self._gathered_bytes or not (self._first or self._begun):
            self._store()
        while self._storing:
            self._storing.popleft().result()

    def _gather(self, chunk: bytes) -> None:
        if chunk:
            self._gathered.append(chunk)
            self._gathered_bytes += len(chunk)

    def _store(self) -> None:
        chunks, size_bytes = self._gathered, self._gathered_bytes
        self._gathered, self._gathered_bytes = [], 0
        while len(self._storing) >= STORED_AT_ONCE:
            self._storing.popleft().result()
        self._storing.append(self._pool.submit(self._put, self._begun, chunks, size_bytes))
        self._begun += 1

    def _put(self, number: int, chunks: list[bytes], size_bytes: int) -> None:
        def keep(coming: Blob) -> None:
            self._downloads.ledger.keep(coming.sha256)

        blob = self._blobs.put(chunks, size_bytes=size_bytes, max_bytes=size_bytes, before_publish=keep)
        with self._lock:
            self._stored[number] = blob
            while (ready := self._stored.pop(len(self.parts), None)) is not None:
                part = Part(self._first + len(self.parts), ready.sha256, ready.size_bytes)
                with self._run.holding() as connection:
                    self._downloads.put(connection, self._run.job.job_id, self._download_id, part)
                self.parts.append(part)


def _identity(source: Source, file: RemoteFile) -> str:
    """Say by what the same file is known again: where it lies, and what changes with its bytes.

    '' where the source says neither tag nor digest: then nothing shows that bytes which came before are still the
    file's. Parts are never another source's: only the whole of a file shows that they are its bytes.
    """
    if not file.sha256 and not file.tag:
        return ""
    known = f"{source.name}\n{file.locator}\n{file.tag}\n{file.size_bytes}\n{file.sha256}"
    return hashlib.sha256(known.encode()).hexdigest()

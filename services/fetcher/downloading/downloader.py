"""Files from a source into the blob store, in parts: what is safe is never asked for again.

Several files come at once, and several parts of a file where its source gives any range; each part is stored and noted
by itself. The digest of a whole file is computed in order, from memory where it can be; whoever takes a download over
reads the parts that are there once, for it.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from services.common.blobs import BlobStore
from services.common.errors import DataLoss, NotFound
from services.common.jobs import JobRun
from services.fetcher.downloading.assembly import Assembly
from services.fetcher.downloading.ending import Ending
from services.fetcher.downloading.filling import part_count
from services.fetcher.downloading.grouping import Grouped
from services.fetcher.downloading.lacking import here_bytes, identity_of, lacking_bytes
from services.fetcher.downloading.lines import Lines
from services.fetcher.downloading.transfer import Sizes, Transfer, too_large
from services.fetcher.faults import DigestMismatch, FileTooLarge, SourceChanged, StorageError
from services.fetcher.models import Download, Part, RemoteFile
from services.fetcher.sources.source import Source, Stopping
from services.fetcher.store.downloads import DownloadStore, Taken

Told = Callable[[int], None]
"""Told how many bytes of all files are here."""
Done = Callable[[Download], None]
"""Told of each file that is here whole; by one thread at a time."""


class Awaited(Exception):
    """Another job brings the file."""


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Sizes in bytes: of a part, of the largest file, and of what is left free where the blob store is a folder.

    `connections`: of one job at once; each further attempt uses half as many, for sources that do not bear more.
    """

    part_bytes: int
    max_file_bytes: int
    reserve_bytes: int = 0
    connections: int = 1


class Downloader:
    """Brings files. Of two jobs that want the same file one brings it, and the other is told to come again."""

    def __init__(self, downloads: DownloadStore, blobs: BlobStore, limits: DownloadLimits) -> None:
        self._downloads = downloads
        self._blobs = blobs
        self._limits = limits

    def bring(
        self,
        run: JobRun,
        source: Source,
        files: Sequence[RemoteFile],
        told: Told = lambda _: None,
        done: Done = lambda _: None,
        came: Told = lambda _: None,
    ) -> dict[str, Download]:
        """Bring files, or what lacks of them; gives them whole, by their paths, in their order.

        `came` is told, by one thread at a time, how many bytes more came from the source.

        When it returns or raises, no thread of it is left, and all that came whole is noted.

        Raises:
            Awaited: another job brings one of them.
            Stopped: the run is to end.
            DomainError: what the source raises; SourceChanged, DigestMismatch, FileTooLarge, StorageError.
        """
        for file in files:
            if (file.size_bytes or 0) > self._limits.max_file_bytes:
                raise too_large(file, self._limits.max_file_bytes)
        self._check_room(source, files)
        connections = max(1, self._limits.connections >> max(0, run.job.attempt - 1))
        with Lines(connections) as lines:
            ending = Ending(Stopping(run.check, run.on_stop, run.forget, lines.kept))
            here = here_bytes(self._downloads, source, files)
            keeping = Grouped[str](lambda coming: self._downloads.ledger.keep(*coming))
            noting = Grouped[tuple[UUID, Part]](lambda parts: self._note(run, parts))
            fetch = _Fetch(run, source, lines, ending, told, done, came, deque(files), here, keeping, noting)
            told(sum(here.values()))
            at_once = max(1, min(connections, len(files)))
            with ThreadPoolExecutor(at_once, thread_name_prefix="fetch-file") as pool:
                for _ in range(at_once):
                    pool.submit(ending.guarded, lambda: self._bring_some(fetch))
        if ending.error is not None:
            raise ending.error
        run.check()
        if fetch.awaits:
            raise Awaited
        return {file.path: fetch.downloads[file.path] for file in files}

    def _check_room(self, source: Source, files: Sequence[RemoteFile]) -> None:
        """See that the blob store has room for what lacks, as far as sizes are known."""
        free = self._blobs.free_bytes()
        if free is None:
            return
        known = [file for file in files if file.size_bytes is not None]
        short = (lacking_bytes(self._downloads, source, known) or 0) + self._limits.reserve_bytes - free
        if short > 0:
            kept = f"{free:,} are free, of which {self._limits.reserve_bytes:,} stay so"
            raise StorageError(f"the blob store's disk lacks {short:,} bytes: {kept}; free space or enlarge its volume")

    def _bring_some(self, fetch: _Fetch) -> None:
        """Bring files, one after the other, until none is left or one is awaited."""
        while (file := fetch.next_file()) is not None:
            try:
                with fetch.alone(identity_of(fetch.source, file)):
                    fetch.finished(file, self._bring(fetch, file))
            except Awaited:
                fetch.await_others()

    def _bring(self, fetch: _Fetch, file: RemoteFile) -> Download:
        run, job_id = fetch.run, fetch.run.job.job_id
        identity = identity_of(fetch.source, file)
        named = identity or f"{job_id} {file.path}"
        taken = self._downloads.take(job_id, named, sha256=file.sha256, part_bytes=self._limits.part_bytes)
        if taken is None:
            raise Awaited
        if taken.whole is not None and identity:
            fetch.found(file, taken.whole.size_bytes)
            return taken.whole
        if taken.parts and not (identity and _fits(taken, file.size_bytes)):
            # Nothing shows that these are bytes of the file as it is now.
            with run.holding() as connection:
                self._downloads.begin_anew(connection, job_id, taken.download_id)
            taken = Taken(taken.download_id, taken.part_bytes, [], None)
        try:
            return self._assembled(fetch, file, taken, connections=fetch.lines.connections if identity else 1)
        except (SourceChanged, FileTooLarge, DigestMismatch):
            with run.holding() as connection:
                self._downloads.begin_anew(connection, job_id, taken.download_id)
            fetch.found(file, 0)
            raise

    def _assembled(self, fetch: _Fetch, file: RemoteFile, taken: Taken, *, connections: int) -> Download:
        fetch.found(file, sum(part.size_bytes for part in taken.parts))
        count = _count_of(taken, file.size_bytes)
        ending = Ending(fetch.ending.stopping)
        assembly = Assembly(
            fetch.lines,
            ending,
            taken.parts,
            count,
            store=lambda number, content, on_taken: self._stored(fetch, taken, number, content, on_taken),
            read=self._read,
        )
        missing = sorted(set(range(count or 0)) - assembly.parts.keys())
        sizes = Sizes(taken.part_bytes, self._limits.max_file_bytes)
        transfer = Transfer(fetch.lines, ending, fetch.source, file, sizes, partial(fetch.came, file))
        brings = threading.Thread(
            target=ending.guarded,
            args=(lambda: transfer.bring(assembly, missing, connections if file.ranges else 1),),
            name="fetch-transfer",
        )
        digests: list[str] = []
        with ending.waking(fetch.lines.wake), fetch.lines.holder(assembly):
            brings.start()
            ending.guarded(lambda: digests.append(assembly.digest()))
            brings.join()
            assembly.settle()
        if ending.error is not None:
            raise ending.error
        fetch.ending.check()
        (sha256,) = digests
        _check_digest(file, sha256, reused=bool(taken.parts))
        parts = [assembly.parts[number] for number in sorted(assembly.parts)]
        whole = Download(taken.download_id, sha256, sum(part.size_bytes for part in parts), parts)
        with fetch.run.holding() as connection:
            self._downloads.finish(
                connection, fetch.run.job.job_id, taken.download_id, sha256=sha256, size_bytes=whole.size_bytes
            )
        return whole

    def _stored(
        self, fetch: _Fetch, taken: Taken, number: int, content: memoryview, on_taken: Callable[[], None]
    ) -> Part:
        """Store a part, and note it while the lease holds."""
        fetch.run.check()
        blob = self._blobs.put(
            [content],
            size_bytes=len(content),
            max_bytes=len(content),
            before_publish=lambda coming: fetch.keeping.do(coming.sha256),
            on_taken=on_taken,
        )
        part = Part(number, blob.sha256, blob.size_bytes)
        fetch.noting.do((taken.download_id, part))
        return part

    def _note(self, run: JobRun, parts: Sequence[tuple[UUID, Part]]) -> None:
        """Note parts of whichever files, each with its download."""
        by_download: defaultdict[UUID, list[Part]] = defaultdict(list)
        for download_id, part in parts:
            by_download[download_id].append(part)
        with run.holding() as connection:
            for download_id, several in by_download.items():
                self._downloads.put(connection, run.job.job_id, download_id, several)

    def _read(self, part: Part) -> Iterator[bytes]:
        try:
            with self._blobs.open(part.address) as reader:
                yield from reader
        except (DataLoss, NotFound) as error:
            sentence = "what was downloaded before is damaged in the blob store; it is brought anew"
            raise SourceChanged(sentence) from error


@dataclass(slots=True)
class _Fetch:
    """One job's files on their way."""

    run: JobRun
    source: Source
    lines: Lines
    ending: Ending
    told: Told
    done: Done
    brought: Told
    waiting: deque[RemoteFile]
    here: dict[str, int]
    """How many bytes of each file are here, by its path."""
    keeping: Grouped[str]
    """Notes blobs that are about to be seen; the disk is waited for once for all of them."""
    noting: Grouped[tuple[UUID, Part]]
    """Notes parts that are safe, each with its download: all wait for the job's row in any case."""
    downloads: dict[str, Download] = field(default_factory=dict)
    awaits: bool = False
    _here_bytes: int = field(init=False)
    _alone: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._here_bytes = sum(self.here.values())

    def next_file(self) -> RemoteFile | None:
        """Give the next file; None where there is none, or all of it is over."""
        self.ending.check()
        with self._lock:
            return self.waiting.popleft() if self.waiting else None

    @contextmanager
    def alone(self, identity: str) -> Iterator[None]:
        """Let one thread at a time bring the same file, which a plan may have under several paths."""
        with self._lock:
            alone = self._alone.setdefault(identity, threading.Lock()) if identity else threading.Lock()
        with alone:
            self.ending.check()
            yield

    def await_others(self) -> None:
        """Begin no further file: another job brings one of them."""
        with self._lock:
            self.awaits = True
            self.waiting.clear()

    def found(self, file: RemoteFile, size_bytes: int) -> None:
        """Note how much of a file is here, now that it was looked at."""
        with self._lock:
            self._change(file, size_bytes - self.here[file.path])

    def came(self, file: RemoteFile, size_bytes: int) -> None:
        """Count bytes of a file that came, or that are not here after all."""
        with self._lock:
            if size_bytes > 0:
                self.brought(size_bytes)
            self._change(file, size_bytes)

    def finished(self, file: RemoteFile, download: Download) -> None:
        """Keep a file that is here whole, and say so."""
        with self._lock:
            self.downloads[file.path] = download
            self.done(download)

    def _change(self, file: RemoteFile, more_bytes: int) -> None:
        self.here[file.path] += more_bytes
        self._here_bytes += more_bytes
        self.told(self._here_bytes)


def _fits(taken: Taken, size_bytes: int | None) -> bool:
    """Whether all parts are where and as large as parts of such a file must be."""
    *others, last = taken.parts
    most = taken.part_bytes
    if size_bytes is None:
        return all(part.size_bytes == most for part in others) and last.size_bytes <= most
    return all(part.size_bytes == min(most, size_bytes - part.number * most) for part in taken.parts)


def _count_of(taken: Taken, size_bytes: int | None) -> int | None:
    """Say how many parts a file has; None where nobody knows: only its last part is shorter than the others."""
    if size_bytes is not None:
        return part_count(size_bytes, taken.part_bytes)
    if taken.parts and taken.parts[-1].size_bytes < taken.part_bytes:
        return taken.parts[-1].number + 1
    return None


def _check_digest(file: RemoteFile, sha256: str, *, reused: bool) -> None:
    """See that the bytes are those announced; those that came before may be others, and are brought anew first."""
    if not file.sha256 or sha256 == file.sha256:
        return
    if reused:
        raise SourceChanged(f"{file.path} is another than it was when its first bytes came; it is begun anew")
    raise DigestMismatch(f"{file.path} hashes to {sha256}, and {file.sha256} was announced: do not use it")

"""Putting parts together, each upload once at a time, whoever and however many wait for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from services.common.blobs import BlobStore
from services.common.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from services.registry.parts.models import Progress, Upload
from services.registry.reservations import Reservations
from services.registry.store import Store

AT_ONCE: Final = 4
TOLD_EVERY_S: Final = 1.0


class Assembly:
    """One upload being put together."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.done_bytes = 0
        self.finished: Future[Upload] = Future()


class Assemblies:
    """The uploads that this process puts together. Two processes may do the same one: the bytes are the same."""

    def __init__(self, store: Store, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs
        self._reservations = Reservations(store)
        self._lock = threading.Lock()
        self._running: dict[str, Assembly] = {}
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="assemble")

    def close(self) -> None:
        """Give up those under way."""
        self._closing.set()
        self._pool.shutdown(cancel_futures=True)

    def follow(self, upload: Upload) -> Iterator[Progress]:
        """Begin with an upload, or join who has; tells how far it is, and at the end the upload."""
        assembly = self._begun(upload)
        while not wait([assembly.finished], TOLD_EVERY_S).done:
            yield Progress(assembly.done_bytes)
        yield Progress(upload.size_bytes, assembly.finished.result())

    def _begun(self, upload: Upload) -> Assembly:
        with self._lock:
            assembly = self._running.get(upload.upload_id)
            if assembly is None:
                if self._closing.is_set():
                    raise _draining()
                assembly = Assembly(upload)
                assembly.finished = self._pool.submit(self._assemble, assembly)
                self._running[upload.upload_id] = assembly
                assembly.finished.add_done_callback(lambda _: self._end(upload.upload_id))
            return assembly

    def _end(self, upload_id: str) -> None:
        with self._lock:
            self._running.pop(upload_id, None)

    def _assemble(self, assembly: Assembly) -> Upload:
        upload = assembly.upload
        with self._store.read() as tables:
            now = tables.uploads.find(upload.upload_id)
            parts = tables.uploads.parts(upload.upload_id)
        if now is not None and now.finished:
            return now
        self._blobs.put(
            self._joined(assembly, parts),
            sha256=upload.sha256,
            size_bytes=upload.size_bytes,
            max_bytes=upload.size_bytes,
            before_publish=self._reservations.reserve,
        )
        with self._store.write() as tables:
            if tables.uploads.lock(upload.upload_id) is None:
                raise NotFound(f"the upload {upload.upload_id} was aborted meanwhile", reason="UPLOAD_NOT_FOUND")
            tables.blobs.hold([upload.sha256])
            return tables.uploads.set_finished(upload.upload_id)

    def _joined(self, assembly: Assembly, parts: list[tuple[int, str]]) -> Iterator[bytes]:
        for number, sha256 in parts:
            try:
                with self._blobs.open(sha256) as reader:
                    for chunk in reader:
                        if self._closing.is_set():
                            raise _draining()
                        assembly.done_bytes += len(chunk)
                        yield chunk
            except (NotFound, DataLoss) as error:
                self._blobs.check()  # a volume that is not mounted has lost nothing
                with self._store.write() as tables:
                    tables.uploads.drop_part(assembly.upload.upload_id, number, sha256)
                raise FailedPrecondition(
                    f"the stored bytes of part {number} are gone or damaged; send it again, then call FinishUpload",
                    reason="PARTS_MISSING",
                ) from error


def _draining() -> Unavailable:
    return Unavailable("this registry is shutting down; call FinishUpload again", reason="DRAINING", retry_after_s=0.1)

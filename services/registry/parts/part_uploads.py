"""Uploads in parts: each part is a blob, and the file is made of them once all are there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import Counter

from services.common import checks
from services.common.blobs import BlobStore, checked_sha256
from services.common.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.common.keys import caller
from services.registry.parts.assemblies import Assemblies
from services.registry.parts.models import NewPart, NewUpload, Progress, Upload
from services.registry.parts.ownership import owned
from services.registry.reservations import Reservations
from services.registry.settings import RegistrySettings
from services.registry.store import Store

_log = structlog.get_logger(__name__)
MEBIBYTE: Final = 1024 * 1024
MAX_PARTS: Final = 10_000
MAX_PART_BYTES: Final = 1024 * MEBIBYTE
MAX_UNFINISHED: Final = 100
# Small enough to lose little by a break, large enough that the calls and commits around a part do not count.
USUAL_PART_BYTES: Final = 32 * MEBIBYTE
# Well within the time that callers give a call; a disk reads some 10 GB in it.
CHECKED_WITHIN_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class PartLimits:
    """How large a file may be, and how small its parts."""

    max_file_bytes: int
    min_part_bytes: int = 5 * MEBIBYTE


class PartUploads:
    """Takes files in parts. `close` it: files are put together on threads of its own."""

    def __init__(self, store: Store, blobs: BlobStore, *, limits: PartLimits, uploaded_bytes: Counter) -> None:
        self._store = store
        self._blobs = blobs
        self._limits = limits
        self._reservations = Reservations(store)
        self._assemblies = Assemblies(store, blobs)
        self._uploaded_bytes = uploaded_bytes

    @classmethod
    def from_settings(
        cls, settings: RegistrySettings, store: Store, blobs: BlobStore, *, uploaded_bytes: Counter
    ) -> PartUploads:
        """Build from the registry's settings."""
        limits = PartLimits(max_file_bytes=settings.max_upload_bytes, min_part_bytes=settings.min_part_bytes)
        return cls(store, blobs, limits=limits, uploaded_bytes=uploaded_bytes)

    def close(self) -> None:
        """Give up what is being put together; it can be begun again."""
        self._assemblies.close()

    def create(self, new: NewUpload) -> Upload:
        """Begin an upload, or find the one that the same request began. One whose bytes are stored is FINISHED.

        Stored bytes are read and checked first, so that whoever sends a damaged file again heals it. Those that can't
        be read within `CHECKED_WITHIN_S` are asked for again.

        Raises:
            InvalidArgument: DIGEST_MALFORMED, TOO_LARGE, OUT_OF_BOUNDS, INVALID_PART_SIZE.
            FailedPrecondition: REQUEST_ID_REUSED.
            ResourceExhausted: TOO_MANY_UPLOADS.
        """
        self._check(new)
        name = caller().name
        with self._store.write() as tables:
            made = tables.uploads.find_by_request(name, new.request_id)
            if made is not None and not made.finished:
                self._check_same(made, new)
                return made
            known = tables.blobs.revive(new.sha256)
        # Between these transactions, for reading takes its time, and nobody shall wait for it with a lock.
        checked = known and self._is_stored(new)
        with self._store.write() as tables:
            tables.uploads.lock_caller(name)
            stored = checked and tables.blobs.revive(new.sha256)
            made = tables.uploads.find_by_request(name, new.request_id)
            if made is not None:
                self._check_same(made, new)
                return tables.uploads.set_receiving(made.upload_id) if made.finished and not stored else made
            if not stored and tables.uploads.count_unfinished(name) >= MAX_UNFINISHED:
                raise ResourceExhausted(
                    f"{MAX_UNFINISHED} uploads of yours wait for parts; finish or abort some, or let them expire",
                    reason="TOO_MANY_UPLOADS",
                )
            return tables.uploads.insert(new, self._part_bytes(new), name, finished=stored)

    def put(self, part: NewPart) -> Upload:
        """Store a part, instead of what came under its number before.

        Raises:
            NotFound: UPLOAD_NOT_FOUND.
            InvalidArgument: INVALID_PART_NUMBER, DIGEST_MALFORMED, DIGEST_MISMATCH, SIZE_MISMATCH.
            FailedPrecondition: UPLOAD_FINISHED.
            ResourceExhausted: BLOB_STORE_FULL.
        """
        upload = _receiving(self.get(part.upload_id))
        if not 1 <= part.part_number <= upload.part_count:
            raise InvalidArgument.field(
                "part_number",
                f"got {part.part_number}; this upload's parts are 1 to {upload.part_count}",
                reason="INVALID_PART_NUMBER",
            )
        size_bytes = upload.size_of(part.part_number)
        blob = self._blobs.put(
            part.chunks,
            sha256=checked_sha256(part.sha256),
            size_bytes=size_bytes,
            max_bytes=MAX_PART_BYTES,
            before_publish=self._reservations.reserve,
        )
        self._uploaded_bytes.inc(blob.size_bytes)
        with self._store.write() as tables:
            _receiving(owned(tables.uploads.lock(part.upload_id), part.upload_id))
            tables.blobs.hold([blob.sha256])
            return tables.uploads.put_part(part.upload_id, part.part_number, blob.sha256)

    def get(self, upload_id: str) -> Upload:
        """Say which parts have arrived; raises NotFound (UPLOAD_NOT_FOUND)."""
        with self._store.read() as tables:
            return owned(tables.uploads.find(upload_id), upload_id)

    def finish(self, upload_id: str) -> Iterator[Progress]:
        """Put the parts together and check the whole, telling how far it is at least once a second.

        Who asks while it is being done already follows that. Who goes away stops nothing.

        Raises:
            NotFound: UPLOAD_NOT_FOUND.
            FailedPrecondition: PARTS_MISSING, also where the store has lost or damaged some: send them again.
            InvalidArgument: DIGEST_MISMATCH.
            ResourceExhausted: BLOB_STORE_FULL.
        """
        upload = self.get(upload_id)
        if upload.finished:
            yield Progress(upload.size_bytes, upload)
            return
        if missing := upload.missing_parts:
            shown = ", ".join(map(str, missing[:20]))
            raise FailedPrecondition(
                f"{len(missing):,} of {upload.part_count:,} parts are missing: {shown}"
                f"{' and so on' if len(missing) > 20 else ''}; send them, then call FinishUpload again",
                reason="PARTS_MISSING",
            )
        yield from self._assemblies.follow(upload)

    def abort(self, upload_id: str) -> None:
        """Forget an upload and its parts; raises NotFound (UPLOAD_NOT_FOUND)."""
        with self._store.write() as tables:
            owned(tables.uploads.lock(upload_id), upload_id)
            tables.uploads.delete(upload_id)

    def _check(self, new: NewUpload) -> None:
        checked_sha256(new.sha256)
        checks.between("size_bytes", new.size_bytes, 1, 2**62)
        if new.size_bytes > self._limits.max_file_bytes:
            raise InvalidArgument.field(
                "size_bytes",
                f"the limit is {self._limits.max_file_bytes:,} bytes and {new.size_bytes:,} were announced",
                reason="TOO_LARGE",
            )
        least = max(self._limits.min_part_bytes, -(-new.size_bytes // MAX_PARTS))
        if new.part_size_bytes and not least <= new.part_size_bytes <= MAX_PART_BYTES:
            raise InvalidArgument.field(
                "part_size_bytes",
                f"got {new.part_size_bytes:,}; for this file {least:,} to {MAX_PART_BYTES:,} are allowed, or 0",
                reason="INVALID_PART_SIZE",
            )

    def _part_bytes(self, new: NewUpload) -> int:
        return new.part_size_bytes or max(USUAL_PART_BYTES, -(-new.size_bytes // MAX_PARTS))

    def _check_same(self, made: Upload, new: NewUpload) -> None:
        wanted = (new.sha256, new.size_bytes, new.part_size_bytes or made.part_size_bytes)
        if wanted != (made.sha256, made.size_bytes, made.part_size_bytes):
            raise FailedPrecondition(
                f"the request_id {checks.shown(new.request_id)} came with another upload before; choose a new one",
                reason="REQUEST_ID_REUSED",
            )

    def _is_stored(self, new: NewUpload) -> bool:
        """Read the stored bytes and say whether they are there and right; also False where that takes too long."""
        give_up = time.monotonic() + CHECKED_WITHIN_S
        try:
            with self._blobs.open(new.sha256) as reader:
                if reader.size_bytes != new.size_bytes:
                    return False
                return all(time.monotonic() < give_up for _ in reader)
        except NotFound:
            return False
        except DataLoss as error:
            _log.warning("damaged blob asked for again", sha256=new.sha256, message=error.message)
            return False


def _receiving(upload: Upload) -> Upload:
    if upload.finished:
        raise FailedPrecondition(
            f"the upload {upload.upload_id} is finished; name it in FileHeader.upload_id", reason="UPLOAD_FINISHED"
        )
    return upload

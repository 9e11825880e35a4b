"""Versions of rows that are sent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from penstock.ids import uuid7
from services.common.allowed_files import write_scratch
from services.common.errors import Cancelled, DataLoss, InvalidArgument
from services.common.keys import Principal
from services.trainer.datasets.files import RowFiles
from services.trainer.datasets.kinds import ColumnType, DatasetFormat
from services.trainer.datasets.models import Dataset, NewVersion, Source, UploadSource
from services.trainer.datasets.rows.limits import TooLarge
from services.trainer.datasets.rows.reader import ReadLimits, read_file
from services.trainer.datasets.rows.writing import write_rows
from services.trainer.datasets.store import DatasetStore


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What a header says."""

    name: str
    form: DatasetFormat
    file_name: str = ""
    delimiter: str = ""
    column_types: Mapping[str, ColumnType] = field(default_factory=dict)
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    request_id: str = ""
    header_sha256: str = ""


class Uploads:
    """Takes rows in."""

    def __init__(self, store: DatasetStore, files: RowFiles, limits: ReadLimits, max_bytes: int) -> None:
        self._store = store
        self._files = files
        self._limits = limits
        self._max_bytes = max_bytes

    def upload(
        self, new: NewUpload, chunks: Iterable[bytes], principal: Principal, active: Callable[[], bool]
    ) -> tuple[Dataset, bool]:
        """Make a version of what is sent; gives it, and whether it was there. It ends once the call is not `active`.

        Raises:
            InvalidArgument: MALFORMED_ROWS, NO_ROWS, TOO_MANY, UNKNOWN_COLUMN.
            ResourceExhausted: TOO_LARGE.
            FailedPrecondition: REQUEST_ID_REUSED.
            DataLoss: DIGEST_MISMATCH.
            Cancelled: the caller went away; no version is left.
        """

        def check() -> None:
            if not active():
                raise Cancelled("the caller went away while the rows were read")

        with self._files.scratch() as folder:
            sent = folder / "sent"
            sha256 = self._receive(chunks, sent)
            if new.sha256 and new.sha256 != sha256:
                sentence = f"the bytes that came hash to {sha256}, and {new.sha256} was announced; send them again"
                raise DataLoss(sentence, reason="DIGEST_MISMATCH")
            version = NewVersion(
                version_id=UUID(uuid7()),
                name=new.name,
                source=Source(upload=UploadSource(new.file_name, sha256)),
                created_by=principal.name,
                description=new.description,
                labels=new.labels,
                request_id=new.request_id,
                body_sha256=hashlib.sha256(f"{new.header_sha256}{sha256}".encode()).hexdigest(),
            )
            with self._store.transaction() as connection:
                known = self._store.repeated(connection, version)
            if known is not None:
                return known
            rows = folder / "rows.parquet"
            batches = read_file(sent, new.form, new.column_types, self._limits, folder, check, delimiter=new.delimiter)
            found = write_rows(batches, rows, check)
            if not found.row_count:
                raise InvalidArgument("the file has no row; a dataset has at least one", reason="NO_ROWS")
            blob = self._files.keep(rows, check)
        with self._store.transaction() as connection:
            self._store.lock(connection, new.name)
            if (known := self._store.repeated(connection, version)) is not None:
                return known
            newest = self._store.find(connection, new.name, 0)
            if newest is not None and newest.rows.digest == found.digest:
                self._store.answer(connection, version, newest.version_id)
                return newest, True
            self._store.insert(connection, version)
            self._store.finish(connection, version.version_id, found, (blob.sha256, blob.size_bytes))
        return self._store.by_id(version.version_id), False

    def _receive(self, chunks: Iterable[bytes], path: Path) -> str:
        digest, size_bytes = hashlib.sha256(), 0
        with path.open("xb") as out:
            for chunk in chunks:
                size_bytes += len(chunk)
                if size_bytes > self._max_bytes:
                    sentence = f"more than the {self._max_bytes:,} bytes came that are allowed"
                    raise TooLarge(f"{sentence}; send fewer rows at a time, or Parquet, which is smaller")
                digest.update(chunk)
                write_scratch(out, chunk)
        return digest.hexdigest()

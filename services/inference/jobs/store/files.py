"""The blobs of this service and the inputs that name them: what may be read, and what nothing names any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from services.common.blobs import Blob
from services.common.blobs.store import BlobLedger
from services.common.errors import NotFound, ResourceExhausted
from services.common.jobs import JobConnection
from services.common.postgres import Database

_INSERT_INPUT = """
INSERT INTO inference.prediction_inputs (input_id, sha256, size_bytes, created_by)
VALUES (%(input_id)s, %(sha256)s, %(size_bytes)s, %(created_by)s)
"""
_LOCK_INPUTS = "SELECT pg_advisory_xact_lock(hashtextextended('penstock.inputs.' || %(created_by)s, 0))"
_UNUSED_BYTES = """
SELECT coalesce(sum(size_bytes), 0)::bigint AS size_bytes FROM inference.prediction_inputs inputs
WHERE created_by = %(created_by)s
  AND NOT EXISTS (SELECT FROM inference.prediction_jobs WHERE input_sha256 = inputs.sha256)
"""
_FIND_INPUT = "SELECT sha256, created_by FROM inference.prediction_inputs WHERE input_id = %(input_id)s"
_EXPIRE_INPUTS = """
DELETE FROM inference.prediction_inputs
WHERE create_time <= clock_timestamp() - make_interval(secs => %(kept_s)s)
"""
_UNNAMED: LiteralString = """
NOT EXISTS (SELECT FROM inference.prediction_inputs WHERE sha256 = blobs.sha256)
AND NOT EXISTS (SELECT FROM inference.prediction_chunks WHERE sha256 = blobs.sha256)
AND NOT EXISTS (SELECT FROM inference.prediction_jobs WHERE input_sha256 = blobs.sha256)
AND NOT EXISTS (SELECT FROM inference.prediction_jobs WHERE result ->> 'sha256' = blobs.sha256)
"""


@dataclass(frozen=True, slots=True)
class StoredInput:
    """A file that a caller sent."""

    sha256: str
    created_by: str


class FileStore:
    """The tables of blobs and inputs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.ledger = BlobLedger(database, "inference", _UNNAMED)

    def touch(self, connection: JobConnection, sha256: str) -> None:
        """Hold a blob that is named from now on; raises NotFound (INPUT_NOT_FOUND) where it has gone."""
        if not self.ledger.touch(connection, sha256):
            raise NotFound("the input's bytes are not stored any more; upload it again", reason="INPUT_NOT_FOUND")

    def add_input(self, input_id: UUID, blob: Blob, created_by: str, *, max_unused_bytes: int) -> None:
        """Note a file that a caller sent; raises ResourceExhausted as `check_unused`, the file counted."""
        with self._database.transaction() as connection:
            connection.execute(_LOCK_INPUTS, {"created_by": created_by})  # two at once could each find room for one
            self.touch(connection, blob.sha256)
            values = {"input_id": input_id, "sha256": blob.sha256, "size_bytes": blob.size_bytes}
            connection.execute(_INSERT_INPUT, {**values, "created_by": created_by})
            self._check_unused(connection, created_by, max_unused_bytes, coming_bytes=0)

    def check_unused(self, created_by: str, max_unused_bytes: int, *, coming_bytes: int) -> None:
        """See that a caller's inputs that no job names leave room; raises ResourceExhausted (TOO_MANY_INPUT_BYTES)."""
        with self._database.transaction() as connection:
            self._check_unused(connection, created_by, max_unused_bytes, coming_bytes=coming_bytes)

    def _check_unused(
        self, connection: JobConnection, created_by: str, max_unused_bytes: int, *, coming_bytes: int
    ) -> None:
        row = connection.execute(_UNUSED_BYTES, {"created_by": created_by}).fetchone()
        if (row["size_bytes"] if row else 0) + coming_bytes > max_unused_bytes:
            raise ResourceExhausted(
                f"{max_unused_bytes:,} bytes of uploaded inputs that no job names are allowed for a key; create jobs "
                "of those that are there, or wait until they expire",
                reason="TOO_MANY_INPUT_BYTES",
            )

    def find_input(self, input_id: UUID) -> StoredInput | None:
        """Find a file that a caller sent."""
        with self._database.transaction() as connection:
            row = connection.execute(_FIND_INPUT, {"input_id": input_id}).fetchone()
        return StoredInput(**row) if row else None

    def expire(self, kept_s: float) -> None:
        """Forget files that were sent so long ago; a job that reads one holds its bytes by itself."""
        with self._database.transaction() as connection:
            connection.execute(_EXPIRE_INPUTS, {"kept_s": kept_s})

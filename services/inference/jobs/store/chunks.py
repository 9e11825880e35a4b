"""What is done of jobs; everything here is written while the job's lease is held."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from services.common.jobs import JobConnection
from services.common.postgres import Database
from services.inference.jobs.models import Chunk, Done

_PUT = """
INSERT INTO inference.prediction_chunks (job_id, chunk_number, first_row, row_count, failed_count, sha256)
VALUES (%(job_id)s, %(number)s, %(first_row)s, %(row_count)s, %(failed_count)s, %(sha256)s)
ON CONFLICT (job_id, chunk_number) DO UPDATE SET failed_count = EXCLUDED.failed_count, sha256 = EXCLUDED.sha256
"""
_ADD_TIME = """
UPDATE inference.prediction_jobs SET inference_ms = inference_ms + %(inference_ms)s WHERE job_id = %(job_id)s
"""
_DONE = """
SELECT count(*) AS chunk_count, coalesce(sum(row_count), 0)::bigint AS row_count,
    coalesce(sum(failed_count), 0)::bigint AS failed_count
FROM inference.prediction_chunks WHERE job_id = %(job_id)s
"""
_LIST = """
SELECT chunk_number AS number, first_row, row_count, failed_count, sha256 FROM inference.prediction_chunks
WHERE job_id = %(job_id)s AND chunk_number >= %(first)s ORDER BY chunk_number LIMIT 1000
"""
_CLEAR = "DELETE FROM inference.prediction_chunks WHERE job_id = %(job_id)s"
_RESOLVE = """
UPDATE inference.prediction_jobs SET resolved_version = %(version)s, version_digest = %(digest)s
WHERE job_id = %(job_id)s
"""
_BEGIN_ANEW = """
UPDATE inference.prediction_jobs SET resolved_version = '', version_digest = '', inference_ms = 0
WHERE job_id = %(job_id)s
"""
_UNENDED = """
SELECT count(*) AS count FROM inference.prediction_jobs WHERE created_by = %(created_by)s AND end_time IS NULL
"""


class ChunkStore:
    """The table of chunks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def done(self, job_id: UUID) -> Done:
        """Add up what is done."""
        with self._database.transaction() as connection:
            row = connection.execute(_DONE, {"job_id": job_id}).fetchone()
        return Done(**row) if row else Done()

    def all(self, job_id: UUID) -> Iterator[Chunk]:
        """Give a job's chunks in their order."""
        first = 0
        while True:
            with self._database.transaction() as connection:
                rows = connection.execute(_LIST, {"job_id": job_id, "first": first}).fetchall()
            if not rows:
                return
            yield from (Chunk(**row) for row in rows)
            first = rows[-1]["number"] + 1

    def put(self, connection: JobConnection, job_id: UUID, chunk: Chunk, inference_ms: float) -> None:
        """Note rows that are done, in place of the same rows before."""
        values = {
            "job_id": job_id, "number": chunk.number, "first_row": chunk.first_row, "row_count": chunk.row_count,
            "failed_count": chunk.failed_count, "sha256": chunk.sha256, "inference_ms": inference_ms,
        }  # fmt: skip
        connection.execute(_PUT, values)
        connection.execute(_ADD_TIME, values)

    def clear(self, connection: JobConnection, job_id: UUID) -> None:
        """Forget the chunks of a job whose result has been put together."""
        connection.execute(_CLEAR, {"job_id": job_id})

    def begin_anew(self, connection: JobConnection, job_id: UUID) -> None:
        """Forget what is done of a job, and with which version."""
        self.clear(connection, job_id)
        connection.execute(_BEGIN_ANEW, {"job_id": job_id})

    def unended(self, connection: JobConnection, created_by: str) -> int:
        """Count a caller's jobs that have not ended."""
        row = connection.execute(_UNENDED, {"created_by": created_by}).fetchone()
        return int(row["count"]) if row else 0

    def resolve(self, connection: JobConnection, job_id: UUID, version: str, digest: str) -> None:
        """Keep the version that predicts."""
        connection.execute(_RESOLVE, {"job_id": job_id, "version": version, "digest": digest})

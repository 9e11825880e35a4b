"""What a fetch's row has beside the columns of every job."""

from __future__ import annotations

from uuid import UUID

from psycopg.types.json import Jsonb

from services.common.jobs import JobConnection
from services.fetcher.models import Leftover, Phase, Plan

_PLAN = """
UPDATE fetcher.fetch_jobs SET plan = %(plan)s, phase = 'DOWNLOADING', done_files = 0, reused_bytes = 0,
    bytes_per_second = 0 WHERE job_id = %(job_id)s
"""
_FORGET_PLAN = "UPDATE fetcher.fetch_jobs SET plan = NULL, phase = 'DOWNLOADING' WHERE job_id = %(job_id)s"
_NAME = "UPDATE fetcher.fetch_jobs SET model = %(model)s, version = %(version)s WHERE job_id = %(job_id)s"
_VERSION = "UPDATE fetcher.fetch_jobs SET version = %(version)s WHERE job_id = %(job_id)s"
_PHASE = "UPDATE fetcher.fetch_jobs SET phase = %(phase)s, bytes_per_second = 0 WHERE job_id = %(job_id)s"
_FILE = """
UPDATE fetcher.fetch_jobs SET done_files = %(done_files)s, reused_bytes = %(reused_bytes)s WHERE job_id = %(job_id)s
"""
_FLOWS = "UPDATE fetcher.fetch_jobs SET bytes_per_second = %(bytes_per_second)s WHERE job_id = %(job_id)s"
_TOLD = "UPDATE fetcher.fetch_jobs SET webhook_message_id = %(message_id)s WHERE job_id = %(job_id)s"
# The phase of an ended job says whether a version of it is still to be looked at.
_LEFTOVERS = """
SELECT job_id, source, coalesce(nullif(plan ->> 'canonical', ''), reference) AS reference, model, version
FROM fetcher.fetch_jobs
WHERE end_time > clock_timestamp() - interval '1 day' AND state IN ('FAILED', 'CANCELLED')
  AND phase IN ('PROCESSING', 'VALIDATING')
  AND version <> ''
ORDER BY end_time DESC LIMIT %(limit)s
"""
_SETTLE = """
UPDATE fetcher.fetch_jobs SET phase = 'DOWNLOADING' WHERE job_id = %(job_id)s AND state IN ('FAILED', 'CANCELLED')
"""
_UNENDED = "SELECT count(*) AS count FROM fetcher.fetch_jobs WHERE created_by = %(created_by)s AND end_time IS NULL"


class FetchStore:
    """Writes the own columns of fetches, each in a transaction that is lent: `JobRun.holding`, or a creation's."""

    def plan(self, connection: JobConnection, job_id: UUID, plan: Plan) -> None:
        """Keep what is fetched, and begin with it."""
        connection.execute(_PLAN, {"job_id": job_id, "plan": Jsonb(plan.columns())})

    def forget_plan(self, connection: JobConnection, job_id: UUID) -> None:
        """Have the source asked anew."""
        connection.execute(_FORGET_PLAN, {"job_id": job_id})

    def name(self, connection: JobConnection, job_id: UUID, model: str, version: str) -> None:
        """Keep what the model and the version are called; '' where that is open."""
        connection.execute(_NAME, {"job_id": job_id, "model": model, "version": version})

    def free_version(self, connection: JobConnection, job_id: UUID, version: str) -> None:
        """Let the version be chosen again, save for the one that was asked for."""
        connection.execute(_VERSION, {"job_id": job_id, "version": version})

    def enter(self, connection: JobConnection, job_id: UUID, phase: Phase) -> None:
        """Keep what the job is at."""
        connection.execute(_PHASE, {"job_id": job_id, "phase": phase.value})

    def file_done(self, connection: JobConnection, job_id: UUID, *, done_files: int, reused_bytes: int) -> None:
        """Count a file that is here whole, and the bytes that were here before."""
        values = {"done_files": done_files, "reused_bytes": reused_bytes}
        connection.execute(_FILE, {"job_id": job_id, **values})

    def flows(self, connection: JobConnection, job_id: UUID, bytes_per_second: int) -> None:
        """Keep how fast bytes come."""
        connection.execute(_FLOWS, {"job_id": job_id, "bytes_per_second": bytes_per_second})

    def told(self, connection: JobConnection, job_id: UUID, message_id: UUID) -> None:
        """Keep which message tells of the job's end."""
        connection.execute(_TOLD, {"job_id": job_id, "message_id": message_id})

    def leftovers(self, connection: JobConnection, limit: int) -> list[Leftover]:
        """List jobs of the last day that ended without the version that they may have registered."""
        return [Leftover(**row) for row in connection.execute(_LEFTOVERS, {"limit": limit}).fetchall()]

    def settle(self, connection: JobConnection, job_id: UUID) -> None:
        """Note that nothing of a job is left behind."""
        connection.execute(_SETTLE, {"job_id": job_id})

    def unended(self, connection: JobConnection, created_by: str) -> int:
        """Count a caller's jobs that have not ended."""
        row = connection.execute(_UNENDED, {"created_by": created_by}).fetchone()
        return int(row["count"]) if row else 0

"""What a run's row has beside the columns of every job; its epochs, and what it printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from uuid import UUID

from psycopg.types.json import Jsonb

from services.common.jobs import JobConnection, Progress
from services.common.postgres import Database
from services.trainer.runs.models import KeptEpoch, LogPiece, Phase, RunSpec
from services.trainer.task import Epoch, Outcome, Part

_PREPARED = """
UPDATE trainer.training_runs SET dataset = %(dataset)s, split_id = %(split_id)s, part_counts = %(part_counts)s
WHERE job_id = %(run_id)s
"""
_AT = """
UPDATE trainer.training_runs SET message = %(message)s WHERE job_id = %(run_id)s
RETURNING done_count, failed_count, total_count
"""
_ENTER = "UPDATE trainer.training_runs SET phase = %(phase)s, message = %(message)s WHERE job_id = %(run_id)s"
_TRAINED = "UPDATE trainer.training_runs SET outcome = %(outcome)s WHERE job_id = %(run_id)s"
_NAME = """
UPDATE trainer.training_runs
SET version_generated = version_generated OR new_version <> %(version)s, new_version = %(version)s
WHERE job_id = %(run_id)s
"""
_REGISTERED = """
UPDATE trainer.training_runs SET registered = true, new_version = %(version)s, new_version_stage = %(stage)s
WHERE job_id = %(run_id)s
"""
_PROFILED = "UPDATE trainer.training_runs SET profile_id = %(profile_id)s WHERE job_id = %(run_id)s"
_VALIDATED = """
UPDATE trainer.training_runs SET validation_passed = %(passed)s, shortfalls = %(shortfalls)s,
    evaluation_id = %(evaluation_id)s WHERE job_id = %(run_id)s
"""
_UNENDED = "SELECT count(*) AS count FROM trainer.training_runs WHERE created_by = %(created_by)s AND end_time IS NULL"
_EPOCH = """
INSERT INTO trainer.training_epochs (run_id, number, metrics, attempt)
VALUES (%(run_id)s, %(number)s, %(metrics)s, %(attempt)s)
ON CONFLICT (run_id, number) DO UPDATE
SET metrics = excluded.metrics, attempt = excluded.attempt, time = clock_timestamp()
"""
_EPOCHS = """
SELECT number, metrics, attempt, time FROM trainer.training_epochs
WHERE run_id = %(run_id)s AND number > %(after)s ORDER BY number LIMIT %(limit)s
"""
_LOG_END = """
SELECT coalesce(max(begin_offset + length(chunk)), 0) AS size FROM trainer.training_logs WHERE run_id = %(run_id)s
"""
_LOG = "INSERT INTO trainer.training_logs (run_id, begin_offset, chunk) VALUES (%(run_id)s, %(offset)s, %(chunk)s)"
# What lies between the first and the last pieces goes as more comes.
_THIN = """
DELETE FROM trainer.training_logs
WHERE run_id = %(run_id)s AND begin_offset >= %(kept)s AND begin_offset + length(chunk) < %(end)s - %(kept)s
"""
_READ_LOG = """
SELECT begin_offset, chunk FROM trainer.training_logs
WHERE run_id = %(run_id)s AND begin_offset + length(chunk) > %(offset)s ORDER BY begin_offset LIMIT 16
"""
KEPT_LOG_BYTES = 2 * 1024 * 1024
"""Of what a run printed, its beginning and its end, each."""


class RunStore:
    """Writes the own columns of runs, each in a transaction that is lent: `JobRun.holding`, or a creation's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def prepared(
        self, connection: JobConnection, run_id: UUID, dataset: str, split_id: str, counts: Mapping[Part, int]
    ) -> None:
        """Keep which rows it learns from, and how many."""
        part_counts = Jsonb({part.value: count for part, count in counts.items()})
        values = {"run_id": run_id, "dataset": dataset, "split_id": split_id, "part_counts": part_counts}
        connection.execute(_PREPARED, values)

    def at(self, connection: JobConnection, run_id: UUID, message: str) -> Progress:
        """Keep what it is at, for people; gives how far it is."""
        row = connection.execute(_AT, {"run_id": run_id, "message": message}).fetchone()
        return Progress(row["done_count"], row["failed_count"], row["total_count"]) if row else Progress()

    def enter(self, connection: JobConnection, run_id: UUID, phase: Phase, message: str) -> None:
        """Keep what it is at."""
        connection.execute(_ENTER, {"run_id": run_id, "phase": phase.value, "message": message})

    def trained(self, connection: JobConnection, run_id: UUID, outcome: Outcome) -> None:
        """Keep what the recipe left."""
        connection.execute(_TRAINED, {"run_id": run_id, "outcome": Jsonb(asdict(outcome))})

    def name(self, connection: JobConnection, run_id: UUID, version: str) -> None:
        """Keep what the version is called, before it is registered; what nobody asked for is generated."""
        connection.execute(_NAME, {"run_id": run_id, "version": version})

    def registered(self, connection: JobConnection, run_id: UUID, version: str, stage: str) -> None:
        """Keep that the version is in the registry."""
        connection.execute(_REGISTERED, {"run_id": run_id, "version": version, "stage": stage})

    def profiled(self, connection: JobConnection, run_id: UUID, profile_id: str) -> None:
        """Keep which reference profile was made of its rows."""
        connection.execute(_PROFILED, {"run_id": run_id, "profile_id": profile_id})

    def validated(
        self, connection: JobConnection, run_id: UUID, *, passed: bool, shortfalls: Sequence[str], evaluation_id: int
    ) -> None:
        """Keep how the version did."""
        values = {"run_id": run_id, "passed": passed, "shortfalls": Jsonb(list(shortfalls))}
        connection.execute(_VALIDATED, {**values, "evaluation_id": evaluation_id})

    def unended(self, connection: JobConnection, created_by: str) -> int:
        """Count a caller's runs that have not ended."""
        row = connection.execute(_UNENDED, {"created_by": created_by}).fetchone()
        return int(row["count"]) if row else 0

    def told(self, connection: JobConnection, run_id: UUID, epochs: Sequence[Epoch], attempt: int) -> None:
        """Keep epochs; one of the same number is told anew."""
        for epoch in epochs:
            values = {"run_id": run_id, "number": epoch.number, "metrics": Jsonb(dict(epoch.metrics))}
            connection.execute(_EPOCH, {**values, "attempt": attempt})

    def epochs(self, run_id: UUID, *, after: int, limit: int) -> list[KeptEpoch]:
        """Give epochs after a number, in order."""
        with self._database.transaction() as connection:
            values = {"run_id": run_id, "after": after, "limit": limit}
            return [KeptEpoch(**row) for row in connection.execute(_EPOCHS, values).fetchall()]

    def printed(self, connection: JobConnection, run_id: UUID, chunk: bytes) -> None:
        """Keep what was printed, behind what is there; of much the beginning and the end."""
        row = connection.execute(_LOG_END, {"run_id": run_id}).fetchone()
        offset = int(row["size"]) if row else 0
        connection.execute(_LOG, {"run_id": run_id, "offset": offset, "chunk": chunk})
        connection.execute(_THIN, {"run_id": run_id, "kept": KEPT_LOG_BYTES, "end": offset + len(chunk)})

    def log(self, run_id: UUID, offset: int) -> list[LogPiece]:
        """Give some pieces of what was printed from a byte on."""
        with self._database.transaction() as connection:
            rows = connection.execute(_READ_LOG, {"run_id": run_id, "offset": offset}).fetchall()
        pieces = []
        for row in rows:
            skipped = max(0, offset - row["begin_offset"])
            pieces.append(LogPiece(row["begin_offset"] + skipped, bytes(row["chunk"])[skipped:]))
        return pieces


def columns_of(spec: RunSpec) -> dict[str, object]:
    """Give the columns of a new run's row."""
    trigger = spec.trigger
    return {
        "model": spec.model, "type": spec.type.value, "executor": spec.executor.value, "recipe": spec.recipe,
        "parameters": Jsonb(dict(spec.parameters)), "data_source": spec.data_source,
        "config_version": spec.config_version, "parent_version": spec.parent_version,
        "requested_by": trigger.requested_by, "retraining_request_id": trigger.retraining_request_id,
        "note": trigger.note, "new_version": spec.new_version, "script": spec.script,
    }  # fmt: skip

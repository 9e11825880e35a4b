"""What a validation's row has beside the columns of every job."""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

from psycopg.types.json import Jsonb

from services.common.jobs import JobConnection
from services.trainer.validating.jobs import ValidationSpec
from services.trainer.validating.models import Trial, Validation

_AT = "UPDATE trainer.validations SET message = %(message)s WHERE job_id = %(validation_id)s"
_PREPARED = "UPDATE trainer.validations SET dataset = %(dataset)s WHERE job_id = %(validation_id)s"
_UNENDED = "SELECT count(*) AS count FROM trainer.validations WHERE created_by = %(created_by)s AND end_time IS NULL"
_OF_RUN = """
INSERT INTO trainer.validations (job_id, state, created_by, start_time, claim_time, end_time, attempt, result, model,
    version, against, dataset, label_column, slices, note, message, training_run_id)
SELECT %(run_id)s, 'COMPLETED', created_by, clock_timestamp(), clock_timestamp(), clock_timestamp(), 1, %(result)s,
    %(model)s, %(version)s, %(against)s, %(dataset)s, %(label_column)s, %(slices)s, %(note)s, %(message)s,
    %(training_run_id)s
FROM trainer.training_runs WHERE job_id = %(run_id)s
ON CONFLICT (job_id) DO NOTHING
"""


class ValidationStore:
    """Writes the own columns of validations, each in a transaction that is lent: `JobRun.holding`, or a creation's."""

    def at(self, connection: JobConnection, validation_id: UUID, message: str) -> None:
        """Keep what it is at, for people."""
        connection.execute(_AT, {"validation_id": validation_id, "message": message})

    def prepared(self, connection: JobConnection, validation_id: UUID, dataset: str) -> None:
        """Keep which rows it is of."""
        connection.execute(_PREPARED, {"validation_id": validation_id, "dataset": dataset})

    def unended(self, connection: JobConnection, created_by: str) -> int:
        """Count a caller's validations that have not ended."""
        row = connection.execute(_UNENDED, {"created_by": created_by}).fetchone()
        return int(row["count"]) if row else 0

    def of_run(self, connection: JobConnection, run_id: UUID, trial: Trial, validation: Validation) -> None:
        """Keep a run's own validation beside the others, under the run's id; twice is once."""
        values = {
            "run_id": run_id,
            "training_run_id": str(run_id),
            "result": Jsonb(asdict(validation)),
            "model": trial.model,
            "version": trial.version,
            "against": validation.live_version,
            "dataset": trial.dataset,
            "label_column": trial.label,
            "slices": Jsonb(list(trial.slices)),
            "note": trial.note,
            "message": said(trial.version, validation),
        }
        connection.execute(_OF_RUN, values)


def columns_of(spec: ValidationSpec) -> dict[str, object]:
    """Give the columns of a new validation's row."""
    return {
        **asdict(spec),
        "rows": spec.rows.value,
        "slices": Jsonb(list(spec.slices)),
        "split": None if spec.split is None else Jsonb(dict(spec.split)),
    }


def said(version: str, validation: Validation) -> str:
    """Say in a sentence how a version did, and where nothing was asked of it, that."""
    if validation.passed and not validation.criteria:
        return f"version {version} passed validation, since the model has no success criteria"
    return f"version {version} {'passed' if validation.passed else 'did not pass'} validation"

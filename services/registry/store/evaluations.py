"""Evaluations: append-only, judged when they were recorded."""

from __future__ import annotations

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from services.registry.models import Model, ModelVersion
from services.registry.training import Evaluation, NewEvaluation

_SELECT = """
SELECT e.evaluation_id, m.name AS model, v.version, e.metrics, e.dataset, e.note, e.passed, e.shortfalls, e.failure,
       e.evaluated_by, e.evaluate_time
FROM registry.evaluations e
JOIN registry.versions v USING (version_id)
JOIN registry.models m ON m.model_id = e.model_id
"""
_GET = f"{_SELECT} WHERE e.evaluation_id = %(evaluation_id)s"
_LATEST = f"{_SELECT} WHERE e.version_id = %(version_id)s ORDER BY e.evaluation_id DESC LIMIT 1"
_NARROWED = {
    "model_id": "e.model_id = %(model_id)s",
    "version_id": "e.version_id = %(version_id)s",
    "before": "e.evaluation_id < %(before)s",
}
_INSERT = """
INSERT INTO registry.evaluations
    (version_id, model_id, metrics, dataset, note, passed, shortfalls, failure, evaluated_by)
VALUES (%(version_id)s, %(model_id)s, %(metrics)s, %(dataset)s, %(note)s, %(passed)s, %(shortfalls)s, %(failure)s,
    %(evaluated_by)s)
RETURNING evaluation_id
"""

_EVALUATION = TypeAdapter(Evaluation)


class EvaluationTable:
    """The table of evaluations."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def get_by_id(self, evaluation_id: int) -> Evaluation:
        """Read the evaluation that a row of ours points to."""
        return _EVALUATION.validate_python(self._connection.execute(_GET, {"evaluation_id": evaluation_id}).fetchone())

    def find_latest(self, version: ModelVersion) -> Evaluation | None:
        """Find the last evaluation of a version."""
        row = self._connection.execute(_LATEST, {"version_id": version.version_id}).fetchone()
        return None if row is None else _EVALUATION.validate_python(row)

    def page(
        self, model: Model, *, version: ModelVersion | None, before: int | None, limit: int
    ) -> tuple[Evaluation, ...]:
        """Read up to `limit` evaluations of a model, or of one version, the newest first, those before one."""
        wanted = {"model_id": model.model_id, "version_id": version and version.version_id, "before": before}
        where = " AND ".join(condition for name, condition in _NARROWED.items() if wanted[name] is not None)
        statement = f"{_SELECT} WHERE {where} ORDER BY e.evaluation_id DESC LIMIT %(limit)s"
        rows = self._connection.execute(statement, {**wanted, "limit": limit})
        return tuple(_EVALUATION.validate_python(row) for row in rows)

    def insert(
        self, version: ModelVersion, new: NewEvaluation, *, shortfalls: tuple[str, ...], evaluated_by: str
    ) -> int:
        """Keep an evaluation of a version, and give its id; it passed if nothing fell short."""
        row = self._connection.execute(
            _INSERT,
            {
                "version_id": version.version_id,
                "model_id": version.model_id,
                "metrics": Jsonb(dict(new.metrics)),
                "dataset": new.dataset,
                "note": new.note,
                "passed": not shortfalls,
                "shortfalls": list(shortfalls),
                "failure": new.failure,
                "evaluated_by": evaluated_by,
            },
        ).fetchone()
        return int((row or {})["evaluation_id"])

"""The append-only log of stage moves."""

from __future__ import annotations

from datetime import datetime

from psycopg import Connection
from psycopg.rows import DictRow
from pydantic import TypeAdapter

from services.registry.models import Approval, Model, ModelVersion, Stage, Transition, TransitionKind

_SELECT = """
SELECT t.transition_id, m.name AS model, t.version_id, v.version, v.deployment_number, t.from_stage, t.to_stage,
       t.kind, t.promoted_by, t.approved_by, t.note, t.promoted_time, t.previous_live_transition_id
FROM registry.transitions t
JOIN registry.versions v USING (version_id)
JOIN registry.models m ON m.model_id = t.model_id
"""
_GET = f"{_SELECT} WHERE t.transition_id = %(transition_id)s"
_PAGE = f"""
{_SELECT}
WHERE t.model_id = %(model_id)s
  AND (%(version_id)s::bigint IS NULL OR t.version_id = %(version_id)s)
  AND (%(before)s::bigint IS NULL OR t.transition_id < %(before)s)
ORDER BY t.transition_id DESC LIMIT %(limit)s
"""
# PRODUCTION is left only when another version enters it, so the last to enter by then was live then.
_LIVE_AT = f"""
{_SELECT}
WHERE t.model_id = %(model_id)s AND t.to_stage = 'PRODUCTION'
  AND (%(time)s::timestamptz IS NULL OR t.promoted_time <= %(time)s)
ORDER BY t.transition_id DESC LIMIT 1
"""
_INSERT = """
INSERT INTO registry.transitions
    (model_id, version_id, from_stage, to_stage, kind, promoted_by, approved_by, note, previous_live_transition_id)
VALUES
    (%(model_id)s, %(version_id)s, %(from_stage)s, %(to_stage)s, %(kind)s, %(promoted_by)s, %(approved_by)s, %(note)s,
     %(previous_live_transition_id)s)
RETURNING transition_id
"""

_TRANSITION = TypeAdapter(Transition)


class TransitionTable:
    """The table of stage moves."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def get(self, transition_id: int) -> Transition:
        """Read the move that a row of ours points to."""
        row = self._connection.execute(_GET, {"transition_id": transition_id}).fetchone()
        return _TRANSITION.validate_python(row)

    def page(
        self, model: Model, *, version: ModelVersion | None, before: int | None, limit: int
    ) -> tuple[Transition, ...]:
        """Read up to `limit` moves, the newest first, those before one."""
        wanted = {
            "model_id": model.model_id,
            "version_id": version and version.version_id,
            "before": before,
            "limit": limit,
        }
        return tuple(_TRANSITION.validate_python(row) for row in self._connection.execute(_PAGE, wanted))

    def find_live_at(self, model: Model, time: datetime | None) -> Transition | None:
        """Find the move that made live what was live at a time; None: now."""
        row = self._connection.execute(_LIVE_AT, {"model_id": model.model_id, "time": time}).fetchone()
        return None if row is None else _TRANSITION.validate_python(row)

    def append(
        self,
        version: ModelVersion,
        to_stage: Stage,
        kind: TransitionKind,
        approval: Approval,
        *,
        previous_live_transition_id: int | None = None,
    ) -> int:
        """Log the move of a version out of the stage that it is in; a REGISTER comes from nowhere."""
        row = self._connection.execute(
            _INSERT,
            {
                "model_id": version.model_id,
                "version_id": version.version_id,
                "from_stage": None if kind is TransitionKind.REGISTER else version.stage,
                "to_stage": to_stage,
                "kind": kind,
                "promoted_by": approval.promoted_by,
                "approved_by": approval.approved_by,
                "note": approval.note,
                "previous_live_transition_id": previous_live_transition_id,
            },
        ).fetchone()
        return int((row or {})["transition_id"])

"""The append-only log of every change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.registry.audit import Actor, AuditEntry, AuditFilters
from services.registry.store.batches import in_batches

_CHOSEN = "SELECT audit_id FROM registry.audit WHERE {where} ORDER BY audit_id DESC LIMIT %(limit)s"
_PAGE = """
SELECT audit_id, time, caller, role, action, model, version, before, after, note FROM registry.audit
WHERE audit_id = ANY(%(audit_ids)s) ORDER BY audit_id DESC
"""
_NARROWED = {
    "model": "model = %(model)s",
    "version": "version = %(version)s",
    "caller": "caller = %(caller)s",
    "action": "action = %(action)s",
    "start_time": "time >= %(start_time)s",
    "end_time": "time < %(end_time)s",
    "earlier_than": "audit_id < %(earlier_than)s",
}
_INSERT = """
INSERT INTO registry.audit (caller, role, action, model, version, before, after, note)
VALUES (%(caller)s, %(role)s, %(action)s, %(model)s, %(version)s, %(before)s, %(after)s, %(note)s)
"""


class AuditTable:
    """The table of changes."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def append(
        self,
        actor: Actor,
        action: str,
        model: str,
        version: str = "",
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> None:
        """Log a change that this transaction makes; `before` and `after` are JSON."""
        self._connection.execute(
            _INSERT,
            {
                "caller": actor.name,
                "role": actor.role,
                "action": action,
                "model": model,
                "version": version,
                "before": None if before is None else Jsonb(before),
                "after": None if after is None else Jsonb(after),
                "note": note,
            },
        )

    def page(self, filters: AuditFilters, *, before: int | None, limit: int) -> tuple[tuple[AuditEntry, ...], bool]:
        """Read up to `limit` changes, the newest first, those before one.

        Returns:
            The changes, and whether there are more of them, which is also so where they are too wide for one page.
        """
        wanted = {**dataclasses.asdict(filters), "earlier_than": before}
        where = ["true", *(condition for name, condition in _NARROWED.items() if wanted[name] not in ("", None))]
        chosen = _CHOSEN.format(where=" AND ".join(where))
        ids = [row["audit_id"] for row in self._connection.execute(chosen, {**wanted, "limit": limit + 1})]
        rows = in_batches(ids[:limit], lambda batch: self._connection.execute(_PAGE, {"audit_ids": batch}).fetchall())
        return tuple(AuditEntry(**row) for row in rows), len(ids) > len(rows)

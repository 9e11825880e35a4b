"""Revisions: which versions changed, in the order of the commits."""

from __future__ import annotations

from psycopg import Connection
from psycopg.rows import DictRow

CHANGES_CHANNEL = "registry_changes"

_NEXT = "UPDATE registry.revisions SET revision = revision + 1 RETURNING revision"
_STAMP = "UPDATE registry.versions SET revision = %(revision)s WHERE version_id = ANY(%(version_ids)s)"
_TOUCH_MODELS = """
UPDATE registry.models SET update_time = clock_timestamp()
WHERE model_id IN (SELECT model_id FROM registry.versions WHERE version_id = ANY(%(version_ids)s))
"""
_INSERT = "INSERT INTO registry.changes (revision, version_id) SELECT %(revision)s, unnest(%(version_ids)s::bigint[])"
_NOTIFY = "SELECT pg_notify(%(channel)s, '')"
_BOUNDS = "SELECT compacted_revision, revision FROM registry.revisions"
# Revisions count without gaps, so the limit cuts no transaction in two.
_SINCE = """
SELECT max(revision) AS revision, array_agg(DISTINCT version_id) AS version_ids
FROM registry.changes WHERE revision > %(after)s AND revision <= %(after)s + %(limit)s
"""
_COMPACT = """
UPDATE registry.revisions SET compacted_revision = revision - %(kept)s
WHERE compacted_revision < revision - %(kept)s
RETURNING compacted_revision
"""
_FORGET = "DELETE FROM registry.changes WHERE revision <= %(compacted)s"


class ChangeTable:
    """What changed at which revision."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection
        self._noted: set[int] = set()

    def note(self, version_id: int) -> None:
        """Remember that this transaction changed a version."""
        self._noted.add(version_id)

    def record(self) -> None:
        """Give what was noted one revision. The lock on the counter is held until the commit: call it last."""
        if not self._noted:
            return
        changed: dict[str, object] = {"version_ids": sorted(self._noted)}
        self._connection.execute(_TOUCH_MODELS, changed)
        row = self._connection.execute(_NEXT).fetchone()
        changed["revision"] = (row or {})["revision"]
        self._connection.execute(_STAMP, changed)
        self._connection.execute(_INSERT, changed)
        self._connection.execute(_NOTIFY, {"channel": CHANGES_CHANNEL})
        self._noted.clear()

    def bounds(self) -> tuple[int, int]:
        """Read the revision up to which changes are forgotten, and the newest one."""
        row = self._connection.execute(_BOUNDS).fetchone() or {}
        return row["compacted_revision"], row["revision"]

    def since(self, after: int, *, limit: int) -> tuple[int, list[int]]:
        """Read which versions changed in up to `limit` revisions after one, and the last of those revisions."""
        row = self._connection.execute(_SINCE, {"after": after, "limit": limit}).fetchone() or {}
        return row["revision"] or after, row["version_ids"] or []

    def compact(self, kept: int) -> None:
        """Forget all but the newest `kept` revisions."""
        row = self._connection.execute(_COMPACT, {"kept": kept}).fetchone()
        if row is not None:
            self._connection.execute(_FORGET, {"compacted": row["compacted_revision"]})

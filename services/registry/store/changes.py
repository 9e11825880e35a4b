"""Revisions: which versions changed, in the order of the commits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
_BOUNDS = "SELECT compacted_revision AS compacted, revision AS newest, epoch::text AS epoch FROM registry.revisions"
# Revisions count without gaps, so the limit cuts no transaction in two.
_SINCE = """
SELECT max(revision) AS revision, array_agg(DISTINCT version_id ORDER BY version_id) AS version_ids
FROM registry.changes WHERE revision > %(after)s AND revision <= %(after)s + %(limit)s
"""
_BESIDE = """
SELECT coalesce(array_agg(version_id ORDER BY version_id), '{}') AS version_ids
FROM registry.versions
WHERE revision > %(after)s
  AND model_id IN (SELECT model_id FROM registry.versions WHERE version_id = ANY(%(version_ids)s))
"""
_COMPACT = """
UPDATE registry.revisions SET compacted_revision = revision - %(kept)s
WHERE compacted_revision < revision - %(kept)s
RETURNING compacted_revision
"""
_FORGET = "DELETE FROM registry.changes WHERE revision <= %(compacted)s"
# The leap is for watchers that know of no epochs: their revision is a forgotten one then.
_BEGIN_EPOCH = """
UPDATE registry.revisions
SET epoch = gen_random_uuid(), revision = revision + %(leap)s, compacted_revision = revision + %(leap)s
RETURNING epoch::text AS epoch
"""
EPOCH_LEAP = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """The revision up to which changes are forgotten, the newest one, and the epoch that both belong to."""

    compacted: int
    newest: int
    epoch: str


class ChangeTable:
    """What changed at which revision."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection
        self._noted: set[int] = set()

    def note(self, *version_ids: int) -> None:
        """Remember that this transaction changed versions."""
        self._noted.update(version_ids)

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

    def bounds(self) -> Bounds:
        """Read how far the changes reach."""
        return Bounds(**(self._connection.execute(_BOUNDS).fetchone() or {}))

    def since(self, after: int, *, limit: int) -> tuple[int, list[int]]:
        """Read which versions changed in up to `limit` revisions after one, and the last of those revisions."""
        row = self._connection.execute(_SINCE, {"after": after, "limit": limit}).fetchone() or {}
        return row["revision"] or after, row["version_ids"] or []

    def beside(self, after: int, version_ids: Iterable[int]) -> list[int]:
        """Read all that changed after a revision in the models of some versions, themselves included."""
        wanted = {"after": after, "version_ids": list(version_ids)}
        row = self._connection.execute(_BESIDE, wanted).fetchone() or {}
        return list(row["version_ids"])

    def begin_epoch(self) -> str:
        """Begin another life of this database, and name it: every watcher begins anew."""
        row = self._connection.execute(_BEGIN_EPOCH, {"leap": EPOCH_LEAP}).fetchone() or {}
        self._connection.execute(_FORGET, {"compacted": 2**62})
        return str(row["epoch"])

    def compact(self, kept: int) -> None:
        """Forget all but the newest `kept` revisions."""
        row = self._connection.execute(_COMPACT, {"kept": kept}).fetchone()
        if row is not None:
            self._connection.execute(_FORGET, {"compacted": row["compacted_revision"]})

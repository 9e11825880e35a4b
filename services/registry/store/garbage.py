"""What takes up room for nothing: uploads past their time, and blobs that nothing names.

Whoever stores a blob writes its row first (`touch_time` now, no `condemn_time`), and only then can its bytes be seen.
A blob is deleted under its row's lock, so that an upload either clears the condemnation first, or waits, finds no row,
and writes both anew. Where the store's answer is lost, so is the lock; but the mark that was committed before
(`delete_time`) stays, and nobody stores these bytes until the store must be done with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import DictRow

from services.registry.store.blobs import LATE_DELETE_S

# Any number that nothing else here uses.
_ROUND_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('penstock.registry.garbage', 0)) AS locked"
_NO_IDLE_LIMIT = "SET LOCAL idle_in_transaction_session_timeout = 0"
_NOW = "SELECT clock_timestamp() AS now"
_EXPIRE = """
DELETE FROM registry.uploads WHERE upload_id IN (
    SELECT upload_id FROM registry.uploads WHERE expire_time <= %(at)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
"""
_COUNT_EXPIRED = "SELECT count(*) AS count FROM registry.uploads WHERE expire_time <= %(at)s"
# What a round purges and expires before it looks is told beforehand in a dry run.
_NAMED = """
(EXISTS (SELECT 1 FROM registry.files f JOIN registry.versions v USING (version_id)
         WHERE f.sha256 = b.sha256 AND NOT v.purged
           AND NOT (%(foresee)s AND v.delete_time IS NOT NULL AND v.purge_time <= %(at)s))
 OR EXISTS (SELECT 1 FROM registry.upload_parts p JOIN registry.uploads u USING (upload_id)
            WHERE p.sha256 = b.sha256 AND NOT (%(foresee)s AND u.expire_time <= %(at)s))
 OR EXISTS (SELECT 1 FROM registry.uploads u
            WHERE u.sha256 = b.sha256 AND NOT (%(foresee)s AND u.expire_time <= %(at)s)))
"""
_UNNAMED = """
b.sha256 > %(after)s AND b.sha256 <= %(last)s AND b.condemn_time IS NULL
AND b.touch_time <= %(at)s - make_interval(secs => %(grace_s)s) AND NOT <named>
"""
_UNKNOWN = """
SELECT found.sha256, found.size_bytes, found.modified_time
FROM unnest(%(sha256s)s::text[], %(sizes)s::bigint[], %(times)s::timestamptz[])
     AS found (sha256, size_bytes, modified_time)
LEFT JOIN registry.blobs b USING (sha256)
WHERE b.sha256 IS NULL AND found.modified_time <= %(at)s - make_interval(secs => %(grace_s)s)
"""


def _filled(statement: str) -> str:
    """Put the conditions that several statements share in their places."""
    for place, condition in (("<unknown>", _UNKNOWN), ("<unnamed>", _UNNAMED), ("<named>", _NAMED)):
        statement = statement.replace(place, condition)
    return statement


_SPARE = _filled("""
UPDATE registry.blobs b SET condemn_time = NULL
WHERE b.sha256 > %(after)s AND b.sha256 <= %(last)s AND b.condemn_time IS NOT NULL AND <named>
""")
_CONDEMNED = _filled("""
SELECT b.sha256, b.size_bytes, b.condemn_time,
       coalesce(b.delete_time > %(at)s - make_interval(secs => %(late_s)s), false) AS being_deleted
FROM registry.blobs b
WHERE b.condemn_time IS NOT NULL AND b.condemn_time <= %(at)s
  AND (b.condemn_time, b.sha256) > (%(after_time)s, %(after)s) AND NOT <named>
ORDER BY b.condemn_time, b.sha256 LIMIT %(limit)s
""")
# A window of rows at a time, whatever becomes of them, so that no statement takes long.
_WINDOW = """
SELECT max(sha256) AS last FROM (
    SELECT sha256 FROM registry.blobs WHERE sha256 > %(after)s ORDER BY sha256 LIMIT %(limit)s
) AS blobs
"""
_CONDEMN = _filled("""
UPDATE registry.blobs b SET condemn_time = clock_timestamp() WHERE <unnamed>
RETURNING b.sha256, b.size_bytes, b.condemn_time
""")
_WOULD_CONDEMN = _filled(
    "SELECT b.sha256, b.size_bytes, %(at)s::timestamptz AS condemn_time FROM registry.blobs b WHERE <unnamed>"
)
_LOCK_CONDEMNED = """
SELECT 1 FROM registry.blobs
WHERE sha256 = %(sha256)s AND condemn_time <= %(condemned_by)s
  AND (delete_time IS NULL OR delete_time <= clock_timestamp() - make_interval(secs => %(late_s)s))
FOR UPDATE SKIP LOCKED
"""
_IS_NAMED = _filled("SELECT <named> AS named FROM registry.blobs b WHERE b.sha256 = %(sha256)s")
_SPARE_ONE = "UPDATE registry.blobs SET condemn_time = NULL WHERE sha256 = %(sha256)s"
_MARK = """
UPDATE registry.blobs SET delete_time = clock_timestamp() WHERE sha256 = %(sha256)s RETURNING delete_time
"""
_LOCK_MARKED = "SELECT 1 FROM registry.blobs WHERE sha256 = %(sha256)s AND delete_time = %(mark)s FOR UPDATE"
_UNMARK = "UPDATE registry.blobs SET delete_time = NULL WHERE sha256 = %(sha256)s"
_FORGET = "DELETE FROM registry.blobs WHERE sha256 = %(sha256)s"
_ADOPT = _filled("""
WITH unknown AS (<unknown>), adopted AS (
    INSERT INTO registry.blobs AS b (sha256, size_bytes, touch_time, condemn_time)
    SELECT b.sha256, b.size_bytes, b.modified_time, CASE WHEN <named> THEN NULL ELSE clock_timestamp() END
    FROM unknown b
    ON CONFLICT ON CONSTRAINT blobs_key DO NOTHING
    RETURNING b.sha256, b.size_bytes, b.condemn_time
)
SELECT * FROM adopted WHERE condemn_time IS NOT NULL
""")
_WOULD_ADOPT = _filled("""
SELECT b.sha256, b.size_bytes, %(at)s::timestamptz AS condemn_time FROM (<unknown>) b WHERE NOT <named>
""")


@dataclass(frozen=True, slots=True)
class CondemnedBlob:
    """A blob that nothing names, and since when that is known.

    `being_deleted`: the store was told lately to delete it, and its answer is not known.
    """

    sha256: str
    size_bytes: int
    condemn_time: datetime
    being_deleted: bool = False


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob as the store has it, and when it was last written."""

    sha256: str
    size_bytes: int
    modified_time: datetime


@dataclass(frozen=True, slots=True)
class Round:
    """One round of garbage collection: by what time, how long a blob is left alone, and whether only to look."""

    at: datetime
    grace_s: float
    dry_run: bool

    def parameters(self, **more: object) -> dict[str, object]:
        """Give what the statements here need to know of it."""
        return {"at": self.at, "grace_s": self.grace_s, "foresee": self.dry_run, **more}


class GarbageTable:
    """The tables of blobs and uploads, as garbage collection sees them."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def begin_round(self) -> datetime | None:
        """Keep other rounds away until this transaction ends, and give the time; None: another round is under way."""
        row = self._connection.execute(_ROUND_LOCK).fetchone() or {}
        if not row["locked"]:
            return None
        self._connection.execute(_NO_IDLE_LIMIT)
        now: datetime = (self._connection.execute(_NOW).fetchone() or {})["now"]
        return now

    def expire_uploads(self, at: datetime, *, limit: int) -> int:
        """Forget up to `limit` uploads past their time, with their parts, and say how many."""
        return self._connection.execute(_EXPIRE, {"at": at, "limit": limit}).rowcount

    def count_expired_uploads(self, at: datetime) -> int:
        """Count the uploads past their time."""
        row = self._connection.execute(_COUNT_EXPIRED, {"at": at}).fetchone() or {}
        return int(row["count"])

    def spare(self, current: Round, *, after: str, last: str) -> None:
        """Clear the condemnation of what is named again, in a window."""
        self._connection.execute(_SPARE, current.parameters(after=after, last=last))

    def condemned(self, current: Round, *, after: CondemnedBlob | None, limit: int) -> list[CondemnedBlob]:
        """Read up to `limit` blobs that were condemned before this round and are still unnamed, the oldest first."""
        position = {"after_time": after.condemn_time, "after": after.sha256} if after else _BEGINNING
        rows = self._connection.execute(_CONDEMNED, current.parameters(**position, limit=limit, late_s=LATE_DELETE_S))
        return [CondemnedBlob(**row) for row in rows]

    def window(self, after: str, *, limit: int) -> str | None:
        """Find the last of the next `limit` blobs after one; None: there are none."""
        row = self._connection.execute(_WINDOW, {"after": after, "limit": limit}).fetchone() or {}
        return None if row["last"] is None else str(row["last"])

    def condemn(self, current: Round, *, after: str, last: str) -> list[CondemnedBlob]:
        """Condemn what nothing names and nobody touched for a while, in a window; a dry run only reads it."""
        statement = _WOULD_CONDEMN if current.dry_run else _CONDEMN
        rows = self._connection.execute(statement, current.parameters(after=after, last=last))
        return [CondemnedBlob(**row) for row in rows]

    def adopt(self, current: Round, found: Sequence[StoredBlob]) -> list[CondemnedBlob]:
        """Give a condemned row to each stored blob that has none and is old enough; a dry run only reads them."""
        columns = {
            "sha256s": [blob.sha256 for blob in found],
            "sizes": [blob.size_bytes for blob in found],
            "times": [blob.modified_time for blob in found],
        }
        statement = _WOULD_ADOPT if current.dry_run else _ADOPT
        rows = self._connection.execute(statement, current.parameters(**columns))
        return [CondemnedBlob(**row) for row in rows]

    def mark(self, sha256: str, *, condemned_by: datetime) -> datetime | None:
        """Mark the row of a blob that is still condemned, so that nobody stores it while it is deleted.

        Gives the mark; None: it must not be deleted now. One that is named after all is spared, one that an upload
        holds just now is left alone, and so is one whose last deletion may still be under way.
        """
        wanted = {"sha256": sha256, "condemned_by": condemned_by, "late_s": LATE_DELETE_S}
        if self._connection.execute(_LOCK_CONDEMNED, wanted).fetchone() is None:
            return None
        # Only a statement that begins under the lock sees all that was named before it.
        looked = {**wanted, "foresee": False, "at": condemned_by}
        if (self._connection.execute(_IS_NAMED, looked).fetchone() or {})["named"]:
            self._connection.execute(_SPARE_ONE, wanted)
            return None
        marked: datetime = (self._connection.execute(_MARK, wanted).fetchone() or {})["delete_time"]
        return marked

    def lock_marked(self, sha256: str, mark: datetime) -> bool:
        """Lock the row of a blob under its mark, so that uploads wait; False where the mark is not there any more."""
        self._connection.execute(_NO_IDLE_LIMIT)  # a store that is slow to delete must not cost us the lock
        return self._connection.execute(_LOCK_MARKED, {"sha256": sha256, "mark": mark}).fetchone() is not None

    def unmark(self, sha256: str) -> None:
        """Take the mark away: the store has said that it did not delete the bytes."""
        self._connection.execute(_UNMARK, {"sha256": sha256})

    def forget(self, sha256: str) -> None:
        """Delete the row of a blob whose bytes are gone."""
        self._connection.execute(_FORGET, {"sha256": sha256})


_BEGINNING: dict[str, object] = {"after_time": "-infinity", "after": ""}

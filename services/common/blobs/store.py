"""The ledger of a service's blobs: a row before the bytes can be seen, and until after they are gone.

What nothing names any more is condemned, left alone for a while, and deleted; whoever stores or names the same bytes
meanwhile takes the sentence back. Once deletion has begun, the same bytes are refused until it is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, LiteralString

import structlog
from psycopg import Connection, sql

from services.common.blobs.blob import BlobStore
from services.common.errors import DomainError, Unavailable
from services.common.postgres import Database

_log = structlog.get_logger(__name__)
PAGE = 1_000

_KEEP: LiteralString = """
INSERT INTO {blobs} AS known (sha256) SELECT unnest(%(sha256s)s::text[])
ON CONFLICT (sha256) DO UPDATE SET touch_time = clock_timestamp(), condemn_time = NULL
WHERE known.delete_time IS NULL
"""
_TOUCH: LiteralString = """
UPDATE {blobs} SET touch_time = clock_timestamp(), condemn_time = NULL
WHERE sha256 = %(sha256)s AND delete_time IS NULL
"""
_CONDEMN: LiteralString = """
UPDATE {blobs} blobs SET condemn_time = clock_timestamp()
WHERE condemn_time IS NULL AND delete_time IS NULL
  AND touch_time <= clock_timestamp() - make_interval(secs => %(grace_s)s) AND {unnamed}
"""
_BEGIN_DELETING: LiteralString = """
UPDATE {blobs} blobs SET delete_time = clock_timestamp()
WHERE delete_time IS NULL AND condemn_time <= clock_timestamp() - make_interval(secs => %(grace_s)s) AND {unnamed}
"""
_DELETING: LiteralString = """
SELECT sha256 FROM {blobs} WHERE delete_time IS NOT NULL AND sha256 > %(after)s ORDER BY sha256 LIMIT %(limit)s
"""
_HOLD: LiteralString = """
SELECT FROM {blobs} WHERE sha256 = ANY (%(sha256s)s) AND delete_time IS NULL ORDER BY sha256 FOR UPDATE
"""
_DISCARD: LiteralString = """
UPDATE {blobs} blobs SET delete_time = clock_timestamp()
WHERE sha256 = ANY (%(sha256s)s) AND delete_time IS NULL AND {unnamed} RETURNING sha256
"""
_TAKE: LiteralString = """
SELECT FROM {blobs} WHERE sha256 = %(sha256)s AND delete_time IS NOT NULL FOR UPDATE SKIP LOCKED
"""
_FORGET: LiteralString = "DELETE FROM {blobs} WHERE sha256 = %(sha256)s"


class BlobLedger:
    """The table `schema.blobs`. `unnamed` is the SQL condition under which nothing names the row `blobs`."""

    def __init__(self, database: Database, schema: str, unnamed: LiteralString) -> None:
        self._database = database
        self._parts = {"blobs": sql.Identifier(schema, "blobs"), "unnamed": sql.SQL(unnamed)}

    def keep(self, *sha256s: str) -> None:
        """Note blobs before their bytes can be seen; raises Unavailable while one of them is being deleted."""
        with self._database.transaction() as connection:
            self.keep_with(connection, *sha256s)

    def keep_with(self, connection: Connection[Any], *sha256s: str) -> None:
        """Do the same in a transaction of the caller's, which may name them in it."""
        distinct = sorted(set(sha256s))  # in one order: two who keep the same never wait for each other
        if connection.execute(self._sql(_KEEP), {"sha256s": distinct}).rowcount < len(distinct):
            sentence = "the same bytes are just being deleted; send them again in a moment"
            raise Unavailable(sentence, reason="BLOB_BEING_DELETED", retry_after_s=5.0)

    def touch(self, connection: Connection[Any], sha256: str) -> bool:
        """Hold a blob that is named from now on; False where it has gone."""
        return connection.execute(self._sql(_TOUCH), {"sha256": sha256}).rowcount > 0

    def discard(self, connection: Connection[Any], *sha256s: str) -> list[str]:
        """Begin to delete those blobs that nothing names any more, with what the caller's transaction changes.

        Gives which: `delete` them once that is committed; where nobody lives to do it, `collect` does. There is no time
        of grace: so all who may store the same bytes name them in the transaction that keeps them, or `touch` them in
        the one that names them.
        """
        wanted = {"sha256s": sorted(set(sha256s))}
        # Whoever is about to name one of them holds its row: only a statement that begins afterwards sees the name.
        connection.execute(self._sql(_HOLD), wanted)
        return [row["sha256"] for row in connection.execute(self._sql(_DISCARD), wanted).fetchall()]

    def collect(self, blobs: BlobStore, grace_s: float, stopping: Callable[[], bool] = lambda: False) -> int:
        """Condemn what nothing names, and delete what was condemned so long ago; gives how many were deleted."""
        with self._database.transaction() as connection:
            connection.execute(self._sql(_CONDEMN), {"grace_s": grace_s})
            connection.execute(self._sql(_BEGIN_DELETING), {"grace_s": grace_s})
        deleted, last = 0, ""
        while page := self.deleting(last):
            for sha256 in page:
                if stopping():
                    return deleted
                deleted += self.delete(blobs, sha256)
            last = page[-1]
        return deleted

    def deleting(self, after: str = "") -> list[str]:
        """List what is to be deleted, by digest, from after one on; at most a page."""
        with self._database.transaction() as connection:
            rows = connection.execute(self._sql(_DELETING), {"after": after, "limit": PAGE}).fetchall()
        return [row["sha256"] for row in rows]

    def delete(self, blobs: BlobStore, sha256: str) -> bool:
        """Delete a blob whose deletion has begun; gives whether it is gone by this call.

        Its row is held meanwhile. So of those who delete it at once one does, and whoever stores the same bytes waits
        until they are gone: else a slow deletion would end those that came back. What cannot be deleted now is left for
        the next round, and holds up no other.
        """
        with self._database.transaction() as connection:
            if not connection.execute(self._sql(_TAKE), {"sha256": sha256}).rowcount:
                return False
            try:
                blobs.delete(sha256)
            except DomainError as error:
                _log.warning("blob not deleted", sha256=sha256, reason=error.reason, message=error.message)
                return False
            connection.execute(self._sql(_FORGET), {"sha256": sha256})
        return True

    def _sql(self, statement: LiteralString) -> sql.Composed:
        return sql.SQL(statement).format(**self._parts)

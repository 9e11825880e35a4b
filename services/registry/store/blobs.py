"""Blobs that are stored or about to be, each with a row before its bytes can be seen.

Garbage collection marks a row and deletes its bytes under the row's lock. So whoever stores some writes the row first
and waits for that lock, and whoever names some writes the row again, in the transaction that names them. A mark without
a lock is a deletion whose answer was lost: the store may still carry it out, and would take with it what is stored now.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from psycopg import Connection
from psycopg.rows import DictRow

from services.common.errors import Aborted, Unavailable

# How long a store may take to carry out a deletion whose answer was lost: far longer than it is waited for, and than
# servers keep a request that they can't serve.
LATE_DELETE_S: Final = 600.0
_TOUCH = """
INSERT INTO registry.blobs (sha256, size_bytes) VALUES (%(sha256)s, %(size_bytes)s)
ON CONFLICT ON CONSTRAINT blobs_key
DO UPDATE SET size_bytes = excluded.size_bytes, touch_time = clock_timestamp(), condemn_time = NULL,
              delete_time = NULL
WHERE blobs.delete_time IS NULL OR blobs.delete_time <= clock_timestamp() - make_interval(secs => %(late_s)s)
"""
_REVIVE = """
UPDATE registry.blobs SET touch_time = clock_timestamp(), condemn_time = NULL
WHERE sha256 = %(sha256)s AND delete_time IS NULL
"""


class BlobTable:
    """The table of blobs."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def touch(self, sha256: str, size_bytes: int) -> None:
        """Say that these bytes are about to be stored; waits for garbage collection, where it is deleting them.

        Raises:
            Unavailable: the store did not say whether it has deleted them, and may yet (BLOB_BEING_DELETED).
        """
        values = {"sha256": sha256, "size_bytes": size_bytes, "late_s": LATE_DELETE_S}
        if self._connection.execute(_TOUCH, values).rowcount == 0:
            raise Unavailable(
                "garbage collection is deleting an older copy of these bytes and the blob store has not answered; "
                f"send them again, at the latest {LATE_DELETE_S / 60:g} minutes from now they are taken",
                reason="BLOB_BEING_DELETED",
            )

    def revive(self, sha256: str) -> bool:
        """Keep garbage collection away from bytes for a while; False where no row says that they stay."""
        return self._connection.execute(_REVIVE, {"sha256": sha256}).rowcount == 1

    def hold(self, digests: Iterable[str]) -> None:
        """Keep garbage collection away from all that this transaction names, until its rows can be seen.

        Raises:
            Aborted: it has taken some of them already (BLOB_COLLECTED).
        """
        for sha256 in sorted(set(digests)):  # in one order, so that nobody waits in a circle
            if not self.revive(sha256):
                raise Aborted(
                    "garbage collection took bytes of this upload before it was complete; send it again",
                    reason="BLOB_COLLECTED",
                )

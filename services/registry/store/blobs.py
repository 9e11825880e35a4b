"""Blobs that are stored or about to be, each with a row before its bytes can be seen.

Garbage collection deletes bytes under their row's lock. So whoever stores some writes the row first and waits for that
lock, and whoever names some writes the row again, in the transaction that names them.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import Connection
from psycopg.rows import DictRow

from services.common.errors import Aborted

_TOUCH = """
INSERT INTO registry.blobs (sha256, size_bytes) VALUES (%(sha256)s, %(size_bytes)s)
ON CONFLICT ON CONSTRAINT blobs_key
DO UPDATE SET size_bytes = excluded.size_bytes, touch_time = clock_timestamp(), condemn_time = NULL
"""
_REVIVE = """
UPDATE registry.blobs SET touch_time = clock_timestamp(), condemn_time = NULL WHERE sha256 = %(sha256)s
"""


class BlobTable:
    """The table of blobs."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def touch(self, sha256: str, size_bytes: int) -> None:
        """Say that these bytes are about to be stored; waits for garbage collection, where it is deleting them."""
        self._connection.execute(_TOUCH, {"sha256": sha256, "size_bytes": size_bytes})

    def revive(self, sha256: str) -> bool:
        """Keep garbage collection away from bytes for a while; False where no row says that they are stored."""
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

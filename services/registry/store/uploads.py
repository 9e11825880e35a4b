"""Uploads in parts. One that is FINISHED names its blob, and one that is not its parts' blobs, until it expires."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Final

from psycopg import Connection
from psycopg.rows import DictRow

from services.registry.parts.models import NewUpload, Upload

KEPT_DAYS: Final = 7

_SELECT = """
SELECT u.upload_id::text, u.sha256, u.size_bytes, u.part_size_bytes, u.finished, u.created_by, u.create_time,
       u.expire_time,
       (SELECT coalesce(array_agg(p.part_number ORDER BY p.part_number), '{}') FROM registry.upload_parts p
        WHERE p.upload_id = u.upload_id) AS received_parts
FROM registry.uploads u
"""
_FIND = f"{_SELECT} WHERE u.upload_id = %(upload_id)s AND u.expire_time > clock_timestamp()"
_FIND_BY_REQUEST = f"""
{_SELECT}
WHERE u.created_by = %(created_by)s AND u.request_id = %(request_id)s AND u.expire_time > clock_timestamp()
"""
_LOCK = "SELECT 1 FROM registry.uploads WHERE upload_id = %(upload_id)s FOR UPDATE"
# Two creations by one caller come one after the other, so that its limit and its request ids hold.
_LOCK_CALLER = "SELECT pg_advisory_xact_lock(hashtextextended('registry uploads of ' || %(created_by)s, 0))"
_COUNT_UNFINISHED = """
SELECT count(*) AS count FROM registry.uploads
WHERE created_by = %(created_by)s AND NOT finished AND expire_time > clock_timestamp()
"""
_INSERT = """
INSERT INTO registry.uploads
    (upload_id, sha256, size_bytes, part_size_bytes, finished, created_by, request_id, expire_time)
VALUES
    (%(upload_id)s, %(sha256)s, %(size_bytes)s, %(part_size_bytes)s, %(finished)s, %(created_by)s, %(request_id)s,
     clock_timestamp() + make_interval(days => %(kept_days)s))
"""
_SET_FINISHED = """
UPDATE registry.uploads
SET finished = %(finished)s, expire_time = clock_timestamp() + make_interval(days => %(kept_days)s)
WHERE upload_id = %(upload_id)s
"""
_PUT_PART = """
INSERT INTO registry.upload_parts (upload_id, part_number, sha256)
VALUES (%(upload_id)s, %(part_number)s, %(sha256)s)
ON CONFLICT ON CONSTRAINT upload_parts_key DO UPDATE SET sha256 = excluded.sha256
"""
_PUSH_EXPIRY = """
UPDATE registry.uploads SET expire_time = clock_timestamp() + make_interval(days => %(kept_days)s)
WHERE upload_id = %(upload_id)s
"""
_PARTS = """
SELECT part_number, sha256 FROM registry.upload_parts WHERE upload_id = %(upload_id)s ORDER BY part_number
"""
_DROP_PART = """
DELETE FROM registry.upload_parts
WHERE upload_id = %(upload_id)s AND part_number = %(part_number)s AND sha256 = %(sha256)s
"""
_DROP_PARTS = "DELETE FROM registry.upload_parts WHERE upload_id = %(upload_id)s"
_DELETE = "DELETE FROM registry.uploads WHERE upload_id = %(upload_id)s"
_EXPIRE_REQUEST = """
DELETE FROM registry.uploads
WHERE created_by = %(created_by)s AND request_id = %(request_id)s AND expire_time <= clock_timestamp()
"""


class UploadTable:
    """The tables of uploads and their parts."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def lock_caller(self, created_by: str) -> None:
        """Let nobody else create an upload in this caller's name until the transaction ends."""
        self._connection.execute(_LOCK_CALLER, {"created_by": created_by})

    def find_by_request(self, created_by: str, request_id: str) -> Upload | None:
        """Find what the same request made before."""
        if not request_id:
            return None
        return self._find(_FIND_BY_REQUEST, created_by=created_by, request_id=request_id)

    def count_unfinished(self, created_by: str) -> int:
        """Count a caller's uploads that wait for parts."""
        row = self._connection.execute(_COUNT_UNFINISHED, {"created_by": created_by}).fetchone()
        return int((row or {})["count"])

    def insert(self, new: NewUpload, part_size_bytes: int, created_by: str, *, finished: bool) -> Upload:
        """Begin an upload."""
        upload_id = str(uuid.uuid4())
        values = {
            **dataclasses.asdict(new),
            "part_size_bytes": part_size_bytes,
            "upload_id": upload_id,
            "created_by": created_by,
            "finished": finished,
        }
        if new.request_id:
            self._connection.execute(_EXPIRE_REQUEST, values)
        self._connection.execute(_INSERT, {**values, "kept_days": KEPT_DAYS})
        return self._get(upload_id)

    def find(self, upload_id: str) -> Upload | None:
        """Find an upload that has not expired."""
        return self._find(_FIND, upload_id=upload_id)

    def lock(self, upload_id: str) -> Upload | None:
        """Wait for an upload's lock, and read it as it stands then."""
        self._connection.execute(_LOCK, {"upload_id": upload_id})
        return self.find(upload_id)

    def put_part(self, upload_id: str, part_number: int, sha256: str) -> Upload:
        """Keep that a part has arrived, instead of what came under its number before."""
        values = {"upload_id": upload_id, "part_number": part_number, "sha256": sha256, "kept_days": KEPT_DAYS}
        self._connection.execute(_PUT_PART, values)
        self._connection.execute(_PUSH_EXPIRY, values)
        return self._get(upload_id)

    def parts(self, upload_id: str) -> list[tuple[int, str]]:
        """Read the numbers and digests of the parts that have arrived, in order."""
        rows = self._connection.execute(_PARTS, {"upload_id": upload_id})
        return [(row["part_number"], row["sha256"]) for row in rows]

    def drop_part(self, upload_id: str, part_number: int, sha256: str) -> None:
        """Forget a part, unless it was replaced meanwhile."""
        values = {"upload_id": upload_id, "part_number": part_number, "sha256": sha256}
        self._connection.execute(_DROP_PART, values)

    def set_finished(self, upload_id: str) -> Upload:
        """Keep that the file is whole; its parts are nobody's from now on."""
        values = {"upload_id": upload_id, "kept_days": KEPT_DAYS, "finished": True}
        self._connection.execute(_DROP_PARTS, values)
        self._connection.execute(_SET_FINISHED, values)
        return self._get(upload_id)

    def set_receiving(self, upload_id: str) -> Upload:
        """Take the file for missing again: its bytes are gone."""
        self._connection.execute(_SET_FINISHED, {"upload_id": upload_id, "kept_days": KEPT_DAYS, "finished": False})
        return self._get(upload_id)

    def delete(self, upload_id: str) -> None:
        """Forget an upload and its parts."""
        self._connection.execute(_DELETE, {"upload_id": upload_id})

    def _get(self, upload_id: str) -> Upload:
        found = self.find(upload_id)
        assert found is not None, "an upload that this transaction has written is there"  # noqa: S101 -- for the types
        return found

    def _find(self, statement: str, **values: object) -> Upload | None:
        row = self._connection.execute(statement, values).fetchone()
        return None if row is None else Upload(**{**row, "received_parts": tuple(row["received_parts"])})

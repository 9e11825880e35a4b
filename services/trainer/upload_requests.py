"""Requests that make versions of datasets and scripts, remembered by their request_id: the same again is no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from services.common.errors import FailedPrecondition
from services.common.jobs import JobConnection

# Until the transaction ends: who comes with the same id meanwhile, for another name even, waits and finds this one.
_LOCK = """
SELECT pg_advisory_xact_lock(
    hashtextextended('penstock.trainer.requests ' || %(created_by)s || ' ' || %(request_id)s, 0))
"""
_MADE: LiteralString = """
SELECT version_id, body_sha256, false AS existed FROM trainer.{kind}_versions
WHERE created_by = %(created_by)s AND request_id = %(request_id)s
UNION ALL
SELECT version_id, body_sha256, true FROM trainer.{kind}_requests
WHERE created_by = %(created_by)s AND request_id = %(request_id)s
"""
_EXPIRE: LiteralString = """
DELETE FROM trainer.{kind}_requests
WHERE version_id = %(version_id)s AND create_time < clock_timestamp() - interval '7 days'
"""
# Of a version that was deleted meanwhile nothing is remembered: the same again makes one.
_ANSWER: LiteralString = """
INSERT INTO trainer.{kind}_requests (created_by, request_id, body_sha256, version_id)
SELECT %(created_by)s, %(request_id)s, %(body_sha256)s, version_id FROM trainer.{kind}_versions
WHERE version_id = %(version_id)s FOR KEY SHARE
"""


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """A request as its caller may repeat it; `request_id` is '' where it is not to be remembered."""

    created_by: str
    request_id: str
    body_sha256: str


class UploadRequests:
    """Remembers what requests were answered with; `kind`: dataset, script."""

    def __init__(self, kind: LiteralString) -> None:
        self._made = _MADE.replace("{kind}", kind)
        self._expire = _EXPIRE.replace("{kind}", kind)
        self._answer = _ANSWER.replace("{kind}", kind)

    def repeated(self, connection: JobConnection, request: UploadRequest) -> tuple[UUID, bool] | None:
        """Give the version that the same request was answered with, and whether that was there before it came.

        Nobody else has an answer for its id until the transaction ends.

        Raises:
            FailedPrecondition: REQUEST_ID_REUSED: it said something else then.
        """
        if not request.request_id:
            return None
        values = {"created_by": request.created_by, "request_id": request.request_id}
        connection.execute(_LOCK, values)
        row = connection.execute(self._made, values).fetchone()
        if row is None:
            return None
        if row["body_sha256"] != request.body_sha256:
            sentence = (
                f"the request_id {request.request_id!r} came with another request before; choose a new one for a new "
                "request, and send exactly the same to repeat one"
            )
            raise FailedPrecondition(sentence, reason="REQUEST_ID_REUSED")
        return row["version_id"], row["existed"]

    def answer(self, connection: JobConnection, request: UploadRequest, version_id: UUID) -> None:
        """Remember that a request, not `repeated`, is answered with a version that was there."""
        values = {
            "created_by": request.created_by,
            "request_id": request.request_id,
            "body_sha256": request.body_sha256,
            "version_id": version_id,
        }
        connection.execute(self._expire, values)
        if request.request_id:
            connection.execute(self._answer, values)

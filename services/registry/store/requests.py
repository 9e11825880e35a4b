"""The first results of requests, so that the same one again makes nothing twice."""

from __future__ import annotations

import dataclasses

from psycopg import Connection
from psycopg.rows import DictRow

from services.common.errors import FailedPrecondition
from services.registry.models import RequestKey

KEPT_DAYS = 7

_FIND = """
SELECT body_sha256, model_id, version_id, evaluation_id FROM registry.requests
WHERE caller = %(caller)s AND rpc = %(rpc)s AND request_id = %(request_id)s
  AND create_time > clock_timestamp() - make_interval(days => %(kept_days)s)
"""
_EXPIRE = "DELETE FROM registry.requests WHERE create_time <= clock_timestamp() - make_interval(days => %(kept_days)s)"
# One past its time makes room; one that is not stays, and no row is written.
_INSERT = """
INSERT INTO registry.requests AS kept (caller, rpc, request_id, body_sha256, model_id, version_id, evaluation_id)
VALUES (%(caller)s, %(rpc)s, %(request_id)s, %(body_sha256)s, %(model_id)s, %(version_id)s,
        %(evaluation_id)s)
ON CONFLICT ON CONSTRAINT requests_key DO UPDATE
SET body_sha256 = excluded.body_sha256, model_id = excluded.model_id, version_id = excluded.version_id,
    evaluation_id = excluded.evaluation_id, create_time = excluded.create_time
WHERE kept.create_time <= clock_timestamp() - make_interval(days => %(kept_days)s)
"""


class RequestTable:
    """The table of first results."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def known(self, caller: str, rpc: str, request_id: str) -> bool:
        """Say whether a request of this id made something before."""
        return self._find(caller, rpc, request_id) is not None

    def find_result(self, key: RequestKey) -> tuple[int, int | None] | None:
        """Find the ids of the model and version that the same request made before.

        Raises:
            FailedPrecondition: the id came with another body (REQUEST_ID_REUSED).
        """
        first = self._first(key)
        return None if first is None else (first["model_id"], first["version_id"])

    def find_version(self, key: RequestKey) -> int | None:
        """Find the id of the version that the same request made before; raises as `find_result` does."""
        _, version_id = self.find_result(key) or (None, None)
        return version_id

    def find_evaluation(self, key: RequestKey) -> int | None:
        """Find the id of the evaluation that the same request made before; raises as `find_result` does."""
        first = self._first(key)
        return None if first is None else first["evaluation_id"]

    def insert(
        self, key: RequestKey, model_id: int, version_id: int | None = None, evaluation_id: int | None = None
    ) -> None:
        """Keep what a request made; one without an id is not kept.

        Raises:
            FailedPrecondition: the id was used at the same time for something else (REQUEST_ID_REUSED).
        """
        if not key.request_id:
            return
        ids = {"model_id": model_id, "version_id": version_id, "evaluation_id": evaluation_id}
        made = {**ids, "kept_days": KEPT_DAYS}
        if self._connection.execute(_INSERT, {**dataclasses.asdict(key), **made}).rowcount == 0:
            raise _reused(key)

    def expire(self) -> None:
        """Forget those that are past their time."""
        self._connection.execute(_EXPIRE, {"kept_days": KEPT_DAYS})

    def _first(self, key: RequestKey) -> DictRow | None:
        first = self._find(key.caller, key.rpc, key.request_id)
        if first is not None and first["body_sha256"] != key.body_sha256:
            raise _reused(key)
        return first

    def _find(self, caller: str, rpc: str, request_id: str) -> DictRow | None:
        if not request_id:
            return None
        key = {"caller": caller, "rpc": rpc, "request_id": request_id, "kept_days": KEPT_DAYS}
        return self._connection.execute(_FIND, key).fetchone()


def _reused(key: RequestKey) -> FailedPrecondition:
    return FailedPrecondition(
        f"the request_id {key.request_id!r} came with another request before; choose a new one for a new request, "
        "and send exactly the same to repeat one",
        reason="REQUEST_ID_REUSED",
    )

"""The queue of the validator: leases by the database's clock, fenced by the attempt's number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psycopg import Connection
from psycopg.rows import DictRow

from services.registry.models import Framework, Lease

VALIDATIONS_CHANNEL = "registry_validations"

_INSERT = "INSERT INTO registry.validations (version_id) VALUES (%(version_id)s)"
_NOTIFY = "SELECT pg_notify(%(channel)s, '')"
# Every claim counts as a crash until it says otherwise: one that is killed can't.
_CLAIM = """
UPDATE registry.validations
SET attempt = attempt + 1, crash_count = crash_count + 1,
    lease_expire_time = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE validation_id = (
    SELECT waiting.validation_id FROM registry.validations waiting JOIN registry.versions USING (version_id)
    WHERE waiting.lease_expire_time <= clock_timestamp() AND framework = ANY(%(frameworks)s)
    ORDER BY waiting.lease_expire_time, waiting.validation_id FOR UPDATE OF waiting SKIP LOCKED LIMIT 1
)
RETURNING validation_id, version_id, attempt, crash_count
"""
_RENEW = """
UPDATE registry.validations SET lease_expire_time = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE validation_id = %(validation_id)s AND attempt = %(attempt)s
"""
_POSTPONE = """
UPDATE registry.validations
SET crash_count = crash_count - 1, lease_expire_time = clock_timestamp() + make_interval(secs => %(pause_s)s)
WHERE validation_id = %(validation_id)s AND attempt = %(attempt)s
"""
_FINISH = """
DELETE FROM registry.validations WHERE validation_id = %(validation_id)s AND attempt = %(attempt)s
"""
_ANNOUNCE = """
INSERT INTO registry.validators (name, frameworks) VALUES (%(name)s, %(frameworks)s)
ON CONFLICT ON CONSTRAINT validators_key DO UPDATE SET frameworks = EXCLUDED.frameworks, seen_time = clock_timestamp()
"""
# A day covers a restart of everything; who has been away for longer is not counted on.
_FORGET = "DELETE FROM registry.validators WHERE seen_time < clock_timestamp() - interval '24 hours'"
# Validators say once a minute that they run; 5 minutes forgive a few that were lost.
_KNOWN = """
SELECT framework, coalesce(bool_or(seen_time >= clock_timestamp() - interval '5 minutes'), false) AS running
FROM registry.validators LEFT JOIN LATERAL unnest(frameworks) framework ON true
WHERE seen_time >= clock_timestamp() - interval '24 hours'
GROUP BY framework
"""


class ValidationTable:
    """What waits for the validators or is with one of them, and which validators there are."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def insert(self, version_id: int) -> None:
        """Queue a version, and wake the validators."""
        self._connection.execute(_INSERT, {"version_id": version_id})
        self._connection.execute(_NOTIFY, {"channel": VALIDATIONS_CHANNEL})

    def claim(self, lease_s: float, frameworks: Sequence[Framework]) -> Lease | None:
        """Take the one of these frameworks that has waited longest, or whose lease ran out; None: there is none."""
        row = self._connection.execute(_CLAIM, {"lease_s": lease_s, "frameworks": list(frameworks)}).fetchone()
        return None if row is None else Lease(**row)

    def renew(self, leases: Iterable[Lease], lease_s: float) -> None:
        """Lengthen those leases that are still held."""
        for lease in leases:
            self._connection.execute(_RENEW, {**_token(lease), "lease_s": lease_s})

    def postpone(self, lease: Lease, pause_s: float) -> None:
        """Give a lease back, for another try after a pause: it ended with a word, so it was no crash."""
        self._connection.execute(_POSTPONE, {**_token(lease), "pause_s": pause_s})

    def finish(self, lease: Lease) -> bool:
        """Take it out of the queue; False when the lease was lost, and the caller must write nothing."""
        return self._connection.execute(_FINISH, _token(lease)).rowcount == 1

    def announce(self, name: str, frameworks: Sequence[Framework]) -> None:
        """Note that a validator runs and what it opens, and forget those that were not seen for a day."""
        self._connection.execute(_ANNOUNCE, {"name": name, "frameworks": list(frameworks)})
        self._connection.execute(_FORGET)

    def known_frameworks(self) -> frozenset[Framework] | None:
        """Name what the validators seen in the last 5 minutes open; None where none was seen for a day.

        None says nothing against a framework: at the very first start the validators may come after the registry.
        """
        rows = self._connection.execute(_KNOWN).fetchall()
        # A newer release may announce what this one has no name for.
        running = {row["framework"] for row in rows if row["running"]} & set(Framework)
        return frozenset(map(Framework, running)) if rows else None


def _token(lease: Lease) -> dict[str, object]:
    return {"validation_id": lease.validation_id, "attempt": lease.attempt}

"""What hosts may be asked for: token buckets that all replicas take from, by the database's clock."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from services.common.postgres import Database

# The generic cell rate algorithm (ITU-T I.371, annex A): of a bucket nothing is kept but the time until which what was
# taken is made good. It is full once that has passed, and empty when it lies `burst_s` ahead.
_TAKE = """
WITH asked AS (
    SELECT host, unit, paid_time, clock_timestamp() AS asked_time
    FROM fetcher.host_budgets WHERE host = %(host)s AND unit = %(unit)s FOR UPDATE
), judged AS (
    SELECT host, unit, greatest(paid_time, asked_time) + make_interval(secs => %(cost_s)s) AS paid_time,
        greatest(0, extract(epoch FROM paid_time - asked_time)::float8) + %(cost_s)s - %(burst_s)s AS wait_s
    FROM asked
), taken AS (
    UPDATE fetcher.host_budgets budgets SET paid_time = judged.paid_time FROM judged
    WHERE budgets.host = judged.host AND budgets.unit = judged.unit AND wait_s <= %(most_wait_s)s
    RETURNING budgets.host
)
SELECT greatest(0, wait_s) AS wait_s, EXISTS (SELECT FROM taken) AS taken FROM judged
"""
# Locks the row even where it is there already: nobody may delete it before it is taken from.
_ADD = """
INSERT INTO fetcher.host_budgets (host, unit) VALUES (%(host)s, %(unit)s)
ON CONFLICT (host, unit) DO UPDATE SET host = EXCLUDED.host
"""
_EMPTY = """
INSERT INTO fetcher.host_budgets (host, unit, paid_time)
VALUES (%(host)s, %(unit)s, clock_timestamp() + make_interval(secs => %(pause_s)s + %(burst_s)s))
ON CONFLICT (host, unit) DO UPDATE SET paid_time = greatest(host_budgets.paid_time, EXCLUDED.paid_time)
"""
_FORGET = """
DELETE FROM fetcher.host_budgets WHERE (host, unit) IN (
    SELECT host, unit FROM fetcher.host_budgets WHERE paid_time < clock_timestamp()
    ORDER BY paid_time LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
"""
FORGOTTEN_AT_ONCE = 100


class Unit(enum.StrEnum):
    """What is counted."""

    REQUESTS = "requests"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Rate:
    """How much of a unit a second, and how much at once after a while of nothing."""

    per_s: float
    burst: float

    @property
    def burst_s(self) -> float:
        """How long an empty bucket takes to fill."""
        return self.burst / self.per_s


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether something was taken, and how many seconds from now it is there, or would have been."""

    taken: bool
    wait_s: float


class HostStore:
    """The table of hosts' budgets. It holds no more rows than hosts were asked within the time that a bucket fills."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, host: str, unit: Unit, count: float, rate: Rate, *, most_wait_s: float) -> Turn:
        """Take from a host's bucket, in turn; what would be there only after `most_wait_s` is not taken."""
        values = {
            "host": host, "unit": unit.value, "cost_s": count / rate.per_s, "burst_s": rate.burst_s,
            "most_wait_s": most_wait_s,
        }  # fmt: skip
        with self._database.transaction() as connection:
            row = connection.execute(_TAKE, values).fetchone()
            if row is None:
                connection.execute(_FORGET, {"limit": FORGOTTEN_AT_ONCE})
                connection.execute(_ADD, values)
                row = connection.execute(_TAKE, values).fetchone()
        return Turn(row["taken"], row["wait_s"]) if row else Turn(taken=False, wait_s=0.0)

    def pause(self, host: str, seconds: float, rate: Rate) -> None:
        """Have nobody ask a host for so long; its bucket of requests is empty then, and fills as usual."""
        values = {"host": host, "unit": Unit.REQUESTS.value, "pause_s": seconds, "burst_s": rate.burst_s}
        with self._database.transaction() as connection:
            connection.execute(_EMPTY, values)

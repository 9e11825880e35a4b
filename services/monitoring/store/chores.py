"""The leases of chores: one row each."""

from __future__ import annotations

from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow

from services.common.postgres import Database

_TAKE = """
INSERT INTO monitoring.chores AS held (name, holder, lease_time)
VALUES (%(name)s, %(holder)s, now() + %(lease_s)s * interval '1 second')
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lease_time = excluded.lease_time
WHERE held.holder = excluded.holder OR held.lease_time <= now()
RETURNING name
"""

# Even one that ran out is still one's own while nobody has taken it: nothing was done by another since.
_KEEP = """
UPDATE monitoring.chores SET lease_time = now() + %(lease_s)s * interval '1 second'
WHERE name = %(name)s AND holder = %(holder)s
RETURNING name
"""
_HOLD = "SELECT name FROM monitoring.chores WHERE name = %(name)s AND holder = %(holder)s FOR SHARE"

_GIVE_BACK = "UPDATE monitoring.chores SET lease_time = now() WHERE name = %(name)s AND holder = %(holder)s"

Transaction = Connection[DictRow]
"""A connection inside a transaction of somebody else's."""


class ChoreStore:
    """Who does what at the moment, by the database's clock."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def take(self, name: str, holder: UUID, *, lease_s: float) -> bool:
        """Take a lease that is free, or one's own; False where another has it."""
        with self._db.transaction() as connection:
            values = {"name": name, "holder": holder, "lease_s": lease_s}
            return connection.execute(_TAKE, values).fetchone() is not None

    def keep(self, name: str, holder: UUID, *, lease_s: float) -> bool:
        """Keep one's own lease for longer; False where another has taken it since, whether or not it still has it."""
        with self._db.transaction() as connection:
            values = {"name": name, "holder": holder, "lease_s": lease_s}
            return connection.execute(_KEEP, values).fetchone() is not None

    def hold(self, connection: Transaction, name: str, holder: UUID) -> bool:
        """Have nobody take a lease until the connection's transaction ends; False where another has taken it."""
        return connection.execute(_HOLD, {"name": name, "holder": holder}).fetchone() is not None

    def give_back(self, name: str, holder: UUID) -> None:
        """Let another have it at once."""
        with self._db.transaction() as connection:
            connection.execute(_GIVE_BACK, {"name": name, "holder": holder})

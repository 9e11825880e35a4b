"""The leases of chores: one row each."""

from __future__ import annotations

from uuid import UUID

from services.common.postgres import Database

_TAKE = """
INSERT INTO monitoring.chores AS held (name, holder, lease_time)
VALUES (%(name)s, %(holder)s, now() + %(lease_s)s * interval '1 second')
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lease_time = excluded.lease_time
WHERE held.holder = excluded.holder OR held.lease_time <= now()
RETURNING name
"""

_GIVE_BACK = "UPDATE monitoring.chores SET lease_time = now() WHERE name = %(name)s AND holder = %(holder)s"


class ChoreStore:
    """Who does what at the moment, by the database's clock."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def take(self, name: str, holder: UUID, *, lease_s: float) -> bool:
        """Take a lease that is free, or keep one's own for longer; False where another has it."""
        with self._db.transaction() as connection:
            values = {"name": name, "holder": holder, "lease_s": lease_s}
            return connection.execute(_TAKE, values).fetchone() is not None

    def give_back(self, name: str, holder: UUID) -> None:
        """Let another have it at once."""
        with self._db.transaction() as connection:
            connection.execute(_GIVE_BACK, {"name": name, "holder": holder})

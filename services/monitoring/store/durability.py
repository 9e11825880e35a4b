"""What we answer for is on disk."""

from __future__ import annotations

from psycopg import Connection
from psycopg.rows import DictRow

# A server that is set to `off` would tell of commits that a crash then forgets. Stricter settings stay as they are.
_MAKE_DURABLE = """
SELECT set_config('synchronous_commit', 'on', true)
WHERE current_setting('synchronous_commit') = 'off'
"""


def make_durable(connection: Connection[DictRow]) -> None:
    """See that the transaction's commit returns only when it is on disk."""
    connection.execute(_MAKE_DURABLE)

"""The SQL of configurations. A revision goes up with each change: whoever has it needs to read nothing again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.common.errors import ResourceExhausted
from services.common.postgres import Database
from services.monitoring.configuration import rules
from services.monitoring.configuration.models import Change, Own, Scope
from services.monitoring.store.durability import make_durable

MAX_SCOPES = 10_000
Transaction = Connection[DictRow]
"""A connection inside a transaction."""

_REVISION = "SELECT revision FROM monitoring.configuration_revision"
# The row is held until the commit, so that changes come one after the other.
_LOCK = f"{_REVISION} FOR UPDATE"
_ADVANCE = "UPDATE monitoring.configuration_revision SET revision = revision + 1"
_ALL = "SELECT model, version, own FROM monitoring.configurations"

_SET = """
INSERT INTO monitoring.configurations (model, version, own) VALUES (%(model)s, %(version)s, %(own)s)
ON CONFLICT ON CONSTRAINT configurations_pkey DO UPDATE SET own = excluded.own
"""

_DELETE = "DELETE FROM monitoring.configurations WHERE model = %(model)s AND version = %(version)s"

_LOG = """
INSERT INTO monitoring.configuration_changes (change_time, model, version, own_before, own_after, changed_by, note)
VALUES (%(time)s, %(model)s, %(version)s, %(before)s, %(after)s, %(changed_by)s, %(note)s)
"""

_CHANGES = """
SELECT change_number, change_time, model, version, own_before, own_after, changed_by, note
FROM monitoring.configuration_changes
WHERE (%(model)s = '' OR model = %(model)s) AND (%(before)s::bigint IS NULL OR change_number < %(before)s)
ORDER BY change_number DESC
LIMIT %(limit)s
"""


_FEATURES = """
SELECT feature.name
FROM monitoring.profiles AS profile
JOIN monitoring.profile_features AS feature USING (profile_id)
WHERE %(model)s = '' OR profile.model = %(model)s
UNION
SELECT jsonb_object_keys(unknown)
FROM monitoring.live_profiles
WHERE (%(model)s = '' OR model = %(model)s) AND start_time > now() - interval '1 day' AND unknown <> '{}'
"""


class ConfigurationStore:
    """What scopes say, and what they said."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def revision(self) -> int:
        """Tell the revision, which goes up with each change."""
        with self._db.transaction() as connection:
            return _revision(connection)

    def read(self) -> tuple[int, dict[Scope, Own]]:
        """Give all that is said, and a revision that is not newer than that."""
        with self._db.transaction() as connection:
            return _revision(connection), _all(connection)

    @contextmanager
    def changing(self) -> Iterator[Changing]:
        """Begin a change, committed at the end of the block; nobody else changes anything meanwhile."""
        with self._db.transaction() as connection:
            make_durable(connection)
            yield Changing(connection)

    def changes(self, model: str, *, before: int | None, limit: int) -> list[Change]:
        """List changes, the newest first: those before a number, where one is given."""
        with self._db.transaction() as connection:
            rows = connection.execute(_CHANGES, {"model": model, "before": before, "limit": limit})
            return [_change(row) for row in rows]


class FeatureStore:
    """What features models are known to have."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def names(self, model: str) -> frozenset[str]:
        """Give the features of a model's profiles, and those that came without being there; "" is all models."""
        with self._db.transaction() as connection:
            return frozenset(row["name"] for row in connection.execute(_FEATURES, {"model": model}))


class Changing:
    """A change under way, on `connection`: nobody else changes anything until its transaction ends.

    `own` is what all scopes say as yet, and `revision` the revision.
    """

    def __init__(self, connection: Transaction) -> None:
        self.connection = connection
        self.revision = _revision(connection, _LOCK)
        self.own = _all(connection)

    def write(self, scope: Scope, own: Own, *, changed_by: str, note: str, time: datetime) -> None:
        """Have a scope say this, and log it.

        Raises:
            ResourceExhausted: too many scopes say something (TOO_MANY_CONFIGURATIONS).
        """
        before = self.own.get(scope, {})
        values = {"model": scope.model, "version": scope.version}
        if own:
            if scope not in self.own and len(self.own) >= MAX_SCOPES:
                raise ResourceExhausted(
                    f"{MAX_SCOPES} models and versions have configurations already; empty one, or set this for all",
                    reason="TOO_MANY_CONFIGURATIONS",
                )
            self.connection.execute(_SET, {**values, "own": Jsonb(rules.dump(own))})
        else:
            self.connection.execute(_DELETE, values)
        told = {"before": Jsonb(rules.dump(before)), "after": Jsonb(rules.dump(own))}
        self.connection.execute(_ADVANCE)
        self.revision += 1
        self.connection.execute(_LOG, {**values, **told, "changed_by": changed_by, "note": note, "time": time})


def _revision(connection: Transaction, statement: LiteralString = _REVISION) -> int:
    row = connection.execute(statement).fetchone()
    if row is None:
        raise AssertionError("the migration puts the one row there")
    return int(row["revision"])


def _all(connection: Transaction) -> dict[Scope, Own]:
    return {Scope(row["model"], row["version"]): rules.load(row["own"]) for row in connection.execute(_ALL)}


def _change(row: Mapping[str, Any]) -> Change:
    return Change(
        number=row["change_number"],
        time=row["change_time"],
        scope=Scope(row["model"], row["version"]),
        before=rules.load(row["own_before"]),
        after=rules.load(row["own_after"]),
        changed_by=row["changed_by"],
        note=row["note"],
    )

"""Views, and the tables of their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.common.errors import FailedPrecondition, NotFound
from services.registry.features.models import (
    Computation,
    Feature,
    FeatureType,
    NewView,
    RequestValue,
    View,
    ViewChange,
)
from services.registry.features.store.columns import SQL_TYPES

_COLUMNS: LiteralString = """
view_id, name, version, entity, features, request_values, ttl_ms, owner, description, labels, created_by, create_time,
update_time
"""
_NAME = """
INSERT INTO features.view_names (name, entity) VALUES (%(name)s, %(entity)s)
ON CONFLICT (name) DO UPDATE SET name = excluded.name
RETURNING entity
"""
_INSERT: LiteralString = f"""
WITH numbered AS (
    UPDATE features.view_names SET last_version = last_version + 1 WHERE name = %(name)s RETURNING last_version
)
INSERT INTO features.views (name, version, entity, features, request_values, ttl_ms, owner, description, labels,
    created_by)
VALUES (%(name)s, (SELECT last_version FROM numbered), %(entity)s, %(features)s, %(request_values)s, %(ttl_ms)s,
    %(owner)s, %(description)s, %(labels)s, %(created_by)s)
RETURNING {_COLUMNS}
"""  # noqa: S608 - the columns are ours
_FIND: LiteralString = f"""
SELECT {_COLUMNS} FROM features.views WHERE name = %(name)s AND (%(version)s = 0 OR version = %(version)s)
ORDER BY version DESC LIMIT 1
"""  # noqa: S608 - the columns are ours
_KNOWN = "SELECT FROM features.views WHERE name = %(name)s LIMIT 1"
_UPDATE: LiteralString = f"""
UPDATE features.views SET ttl_ms = coalesce(%(ttl_ms)s, ttl_ms), owner = coalesce(%(owner)s, owner),
    description = coalesce(%(description)s, description), labels = coalesce(%(labels)s, labels),
    update_time = clock_timestamp()
WHERE view_id = %(view_id)s
RETURNING {_COLUMNS}
"""  # noqa: S608 - the columns are ours
# Keys are compared as bytes: nobody asks for a language's order, which takes several times as long. No statistics are
# taken of less than a thousand rows: statements prepared for so few go from end to end of what may be millions soon.
_TABLE = """
CREATE TABLE {rows} (
    entity_key text COLLATE "C" NOT NULL, event_time bigint NOT NULL, create_time bigint NOT NULL{features},
    PRIMARY KEY (entity_key, event_time, create_time)
) WITH (autovacuum_analyze_threshold = 1000, autovacuum_vacuum_threshold = 1000)
"""
_DELETE = "DELETE FROM features.views WHERE view_id = %(view_id)s"
_NEWEST: LiteralString = f"""
SELECT {_COLUMNS} FROM features.views views
WHERE (%(entity)s = '' OR entity = %(entity)s) AND name > %(after)s
    AND NOT EXISTS (SELECT FROM features.views later WHERE later.name = views.name AND later.version > views.version)
ORDER BY name LIMIT %(limit)s
"""  # noqa: S608 - the columns are ours
_VERSIONS: LiteralString = f"""
SELECT {_COLUMNS} FROM features.views WHERE name = %(name)s AND version < %(before)s
ORDER BY version DESC LIMIT %(limit)s
"""  # noqa: S608 - the columns are ours


class ViewTable:
    """The table of views, inside a transaction that is lent."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def lock_name(self, name: str, entity: str) -> None:
        """Let one at a time make versions of a view.

        Raises:
            FailedPrecondition: it is about another entity (ENTITY_CHANGED).
        """
        row = self._connection.execute(_NAME, {"name": name, "entity": entity}).fetchone()
        if row is not None and row["entity"] != entity:
            sentence = f"view {name!r} is about {row['entity']!r} for good; give the view of {entity!r} another name"
            raise FailedPrecondition(sentence, reason="ENTITY_CHANGED")

    def insert(self, new: NewView, created_by: str) -> View:
        """Make the next version of a view, with its table; its name is locked."""
        values = {
            **asdict(new),
            "features": Jsonb([asdict(feature) for feature in new.features]),
            "request_values": Jsonb([asdict(each) for each in new.request_values]),
            "labels": Jsonb(dict(new.labels)),
            "created_by": created_by,
        }
        (row,) = self._connection.execute(_INSERT, values).fetchall()
        view = _view(row)
        self._make_table(view)
        return view

    def find(self, name: str, version: int = 0) -> View | None:
        """Find a version of a view; 0: the newest."""
        row = self._connection.execute(_FIND, {"name": name, "version": version}).fetchone()
        return None if row is None else _view(row)

    def get(self, name: str, version: int = 0) -> View:
        """Find a version; raises NotFound (VIEW_NOT_FOUND, VIEW_VERSION_NOT_FOUND)."""
        view = self.find(name, version)
        if view is None:
            if version and self._connection.execute(_KNOWN, {"name": name}).fetchone() is not None:
                raise NotFound(f"view {name!r} has no version {version}", reason="VIEW_VERSION_NOT_FOUND")
            raise NotFound(f"there is no feature view {name!r}", reason="VIEW_NOT_FOUND")
        return view

    def update(self, view: View, change: ViewChange) -> View:
        """Change what may be changed."""
        labels = None if change.labels is None else Jsonb(dict(change.labels))
        row = self._connection.execute(
            _UPDATE, {**asdict(change), "labels": labels, "view_id": view.view_id}
        ).fetchone()
        if row is None:  # deleted in between
            raise NotFound(f"view {view.name!r} has no version {view.version}", reason="VIEW_VERSION_NOT_FOUND")
        return _view(row)

    def delete(self, view: View) -> None:
        """Delete a version with its values."""
        if self._connection.execute(_DELETE, {"view_id": view.view_id}).rowcount:
            self._connection.execute(sql.SQL("DROP TABLE {}").format(rows_table(view)))

    def newest(self, entity: str, *, after: str, limit: int) -> list[View]:
        """List the newest version of each view, by name."""
        values = {"entity": entity, "after": after, "limit": limit}
        return [_view(row) for row in self._connection.execute(_NEWEST, values).fetchall()]

    def versions(self, name: str, *, before: int, limit: int) -> list[View]:
        """List the versions of a view, the newest first."""
        values = {"name": name, "before": before, "limit": limit}
        return [_view(row) for row in self._connection.execute(_VERSIONS, values).fetchall()]

    def _make_table(self, view: View) -> None:
        features = [
            sql.SQL(", {} {}").format(column_name(place), sql.SQL(SQL_TYPES[feature.type]))
            for place, feature in enumerate(view.stored)
        ]
        self._connection.execute(sql.SQL(_TABLE).format(rows=rows_table(view), features=sql.Composed(features)))


def rows_table(view: View) -> sql.Identifier:
    """Name the table of all that was ever written of a view."""
    return sql.Identifier("features", f"rows_{view.view_id}")


def column_name(place: int) -> sql.Identifier:
    """Name the column of a stored feature, by its place: a feature's own name is never part of a statement."""
    return sql.Identifier(f"f{place}")


def column_names(places: Sequence[int], table: str = "") -> sql.Composed:
    """Name several, with a comma before each."""
    return sql.Composed(
        [sql.SQL(", {}").format(sql.Identifier(*([table] if table else []), f"f{place}")) for place in places]
    )


def _view(row: dict[str, Any]) -> View:
    features = tuple(
        Feature(
            each["name"],
            FeatureType(each["type"]),
            each["description"],
            each.get("expression", ""),  # what was made before there were expressions says nothing of them
            Computation(each.get("computation", Computation.ON_WRITE)),
        )
        for each in row["features"]
    )
    values = tuple(
        RequestValue(each["name"], FeatureType(each["type"]), each["description"]) for each in row["request_values"]
    )
    return View(**{**row, "features": features, "request_values": values})

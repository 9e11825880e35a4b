"""A registry's database with a great many versions, copied from one that the registry wrote itself.

Whatever columns a table has are read while it runs: what is not said here is as the registry wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

LARGE = "large"
TEAMS = 20
_COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attidentity = '' AND attgenerated = ''
"""
_STAGE = """
CASE WHEN n %% 100 = 50 THEN 'STAGING' WHEN n %% 20 = 1 THEN 'CANDIDATE' WHEN n %% 25 = 2 THEN 'ARCHIVED'
     ELSE 'DEVELOPMENT' END
"""
_MODELS: Mapping[str, str] = {
    "name": "'model-' || lpad(n::text, 3, '0')",
    "version_count": "%(versions)s::bigint",
    "live_transition_id": "NULL",
    "latest_version_id": "NULL",
    "search": "registry.words('model-' || lpad(n::text, 3, '0') || ' ' || t.description)",
}
_VERSIONS: Mapping[str, str] = {
    "model_id": "m.model_id",
    "version": "version_name(n)",
    "deployment_number": "n",
    "framework": "CASE WHEN n %% 10 = 0 THEN 'TENSORFLOW' ELSE t.framework END",
    "stage": _STAGE,
    "labels": "jsonb_build_object('team', 'team-' || n %% %(teams)s::bigint)",
    "description": "'trained on batch ' || n",
    "search": "registry.words(concat_ws(' ', m.name, version_name(n), 'trained on batch ' || n))",
    "revision": "%(revision)s::bigint + row_number() OVER ()",
}


@dataclass(frozen=True, slots=True)
class Size:
    """100 models of 1,000 versions and one of 100,000, unless told otherwise."""

    models: int = 100
    versions_each: int = 1_000
    versions_of_large: int = 100_000


def version_name(number: int) -> str:
    """Give the name of a model's version; 1 is the one that the registry wrote."""
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def fill(database_url: str, size: Size) -> None:
    """Copy the only version there is, the first of the model `large`, into all the others."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "CREATE FUNCTION pg_temp.version_name(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS "
            "$$ SELECT n / 10000 || '.' || n / 100 % 100 || '.' || n % 100 $$"
        )
        one = _only(connection, "SELECT version_id, revision, model_id FROM registry.versions")
        revision = _only(connection, "SELECT revision FROM registry.revisions")[0]
        values = {"version": one[0], "model": one[2], "teams": TEAMS, "revision": revision}
        _copy(
            connection,
            "models",
            _MODELS,
            "registry.models t, generate_series(1, %(count)s::bigint) AS n WHERE true",
            values | {"count": size.models, "versions": size.versions_each},
        )
        source = (
            "registry.versions t, registry.models m, generate_series(%(first)s::bigint, %(count)s) AS n "
            "WHERE t.version_id = %(version)s AND (m.model_id = %(model)s) = %(large)s ORDER BY n, m.model_id"
        )
        _copy(
            connection,
            "versions",
            _VERSIONS,
            source,
            values | {"first": 2, "count": size.versions_of_large, "large": True},
        )
        revision = _only(connection, "SELECT max(revision) FROM registry.versions")[0]
        _copy(
            connection,
            "versions",
            _VERSIONS,
            source,
            values | {"first": 1, "count": size.versions_each, "large": False, "revision": revision},
        )
        others = "registry.{} t, registry.versions v WHERE t.version_id = %(version)s AND v.version_id <> t.version_id"
        _copy(connection, "files", {"version_id": "v.version_id"}, others.format("files"), values)
        moved = {"model_id": "v.model_id", "version_id": "v.version_id", "to_stage": "v.stage"}
        _copy(connection, "transitions", moved, others.format("transitions"), values)
        connection.execute(
            "INSERT INTO registry.changes (revision, version_id) SELECT revision, version_id "
            "FROM registry.versions ON CONFLICT DO NOTHING"
        )
        connection.execute("UPDATE registry.revisions SET revision = (SELECT max(revision) FROM registry.versions)")
        connection.execute("UPDATE registry.models SET latest_version_id = registry.latest_of(model_id)")
        connection.execute(
            "UPDATE registry.models SET version_count = %s WHERE name = %s", [size.versions_of_large, LARGE]
        )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def _copy(
    connection: psycopg.Connection[Any], table: str, changed: Mapping[str, str], source: str, values: Mapping[str, Any]
) -> None:
    columns = [row[0] for row in connection.execute(_COLUMNS, [f"registry.{table}"])]
    statement = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(
        sql.Identifier("registry", table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(
            sql.SQL(changed[name].replace("version_name(", "pg_temp.version_name("))
            if name in changed
            else sql.Identifier("t", name)
            for name in columns
        ),
        sql.SQL(source),
    )
    connection.execute(statement, values)


def _only(connection: psycopg.Connection[Any], statement: str) -> Any:
    return connection.execute(statement.encode()).fetchone()

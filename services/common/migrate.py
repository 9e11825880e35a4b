"""Migrations: numbered SQL files, applied in order, each in a transaction of its own.

A service keeps `migrations/0001_models.sql`, `0002_….sql` and owns one schema. What was applied stands in
`<schema>.schema_migrations` with each file's digest: a released file is never edited, the next one is written.
Files expand first and contract a release later, so that the release before still runs on the new tables.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from services.common.errors import FailedPrecondition
from services.common.postgres import translated

FILE_NAME = re.compile(r"(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
LOCK_WAIT_MS = 60_000
CONNECT_TIMEOUT_S = 10
_LOCKS_SETTING = "max_locks_per_transaction"

_HISTORY_TABLE = """
CREATE TABLE IF NOT EXISTS {schema}.schema_migrations (
    number       integer     PRIMARY KEY,
    name         text        NOT NULL,
    sha256       text        NOT NULL,
    applied_time timestamptz NOT NULL DEFAULT now()
)
"""
_HISTORY = "SELECT number, name, sha256 FROM {schema}.schema_migrations ORDER BY number"
_RECORD = "INSERT INTO {schema}.schema_migrations (number, name, sha256) VALUES (%s, %s, %s)"


class MigrationError(FailedPrecondition):
    """The files and the database do not tell the same story; nothing was changed."""

    default_reason = "MIGRATION_REFUSED"


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    sha256: str
    text: str

    def __str__(self) -> str:
        return f"{self.number:04d}_{self.name}"


def load_migrations(folder: Path) -> tuple[Migration, ...]:
    """Read a folder's migrations in order; raises MigrationError unless they count 1, 2, 3 … without gaps."""
    migrations = []
    for path in sorted(folder.glob("*.sql")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: a migration is named 0001_what_it_does.sql.")
        content = path.read_bytes()
        migrations.append(
            Migration(int(match["number"]), match["name"], hashlib.sha256(content).hexdigest(), content.decode())
        )
    for expected, migration in enumerate(migrations, start=1):
        if migration.number != expected:
            raise MigrationError(f"{migration}: number {expected:04d} should stand here, without gaps or twins.")
    return tuple(migrations)


def migrate(database_url: str, schema: str, folder: Path) -> tuple[str, ...]:
    """Bring `schema` to the newest migration in `folder`; returns the names of those applied now.

    Safe to run from many processes at once: one works, the others wait for it. Raises MigrationError when an
    applied file has changed, the database knows migrations that the folder does not, or one needs more locks than it
    has room for (LOCKS_EXHAUSTED), and Unavailable when the database is away.
    """
    migrations = load_migrations(folder)
    applied = []
    with (
        translated({}),
        psycopg.connect(database_url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection,
    ):
        while (done := _apply_next(connection, schema, migrations)) is not None:
            applied.append(str(done))
    return tuple(applied)


def _apply_next(connection: psycopg.Connection[Any], schema: str, migrations: Sequence[Migration]) -> Migration | None:
    """Apply the first pending migration, under the schema's lock; None when there is none left.

    The lock ends with the transaction, so a transaction pooler may stand between.
    """
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"penstock.migrate.{schema}"])
        pending = _pending(connection, schema, migrations)
        if pending is None:
            return None
        connection.execute(sql.SQL("SET LOCAL search_path = {schema}, public").format(schema=sql.Identifier(schema)))
        try:
            connection.execute(pending.text.encode())
        except pg.OutOfMemory as error:
            if _LOCKS_SETTING not in (error.diag.message_hint or ""):
                raise
            raise MigrationError(
                f"{pending} locks more tables at once than the database has room for, and nothing was changed; raise "
                f"PostgreSQL's {_LOCKS_SETTING}, restart it, and migrate again. It may be lowered afterwards.",
                reason="LOCKS_EXHAUSTED",
            ) from error
        connection.execute(_in_schema(_RECORD, schema), [pending.number, pending.name, pending.sha256])
        return pending


def _pending(connection: psycopg.Connection[Any], schema: str, migrations: Sequence[Migration]) -> Migration | None:
    connection.execute(_in_schema("CREATE SCHEMA IF NOT EXISTS {schema}", schema))
    connection.execute(_in_schema(_HISTORY_TABLE, schema))
    history = connection.execute(_in_schema(_HISTORY, schema)).fetchall()
    if len(history) > len(migrations):
        newest = f"{history[-1][0]:04d}_{history[-1][1]}"
        raise MigrationError(
            f"Schema {schema} is at {newest}, which this release does not know; run a release that does.",
            reason="DATABASE_AHEAD",
        )
    for (number, name, sha256), migration in zip(history, migrations, strict=False):
        if (number, sha256) != (migration.number, migration.sha256):
            raise MigrationError(
                f"{migration} differs from {number:04d}_{name} as applied to schema {schema}; "
                "restore the file and write a new migration.",
                reason="MIGRATION_CHANGED",
            )
    return migrations[len(history)] if len(history) < len(migrations) else None


def _in_schema(text: str, schema: str) -> sql.Composed:
    return sql.SQL(text).format(schema=sql.Identifier(schema))

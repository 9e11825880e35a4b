"""Queries of other databases: in a transaction that may only read, within a time, block by block."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any, Final, cast

import psycopg
from psycopg import sql

from services.common.errors import InvalidArgument, Unavailable
from services.registry.features.imports.models import Block, SourceColumns
from services.registry.features.imports.row_reader import BLOCK_ROWS, RowReader
from services.registry.features.models import View

CONNECT_TIMEOUT_S: Final = 10


class QueryReading:
    """A query of another PostgreSQL. It is read as a table, by the extended protocol: it can be one SELECT alone."""

    def __init__(self, url: str, query: str, *, name: str, timeout_ms: int) -> None:
        self._url = url
        self._query = query
        self._name = name
        self._timeout_ms = timeout_ms
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._stopped = False

    def blocks(self, view: View, columns: SourceColumns, now_us: int) -> Iterator[Block]:
        """Give the query's rows.

        Raises:
            InvalidArgument: QUERY_FAILED, UNKNOWN_COLUMN, UNKNOWN_FEATURE, WRONG_TYPE, MISSING_VALUE, OUT_OF_BOUNDS.
            Unavailable: the database gives no answer (INPUT_UNAVAILABLE).
        """
        try:
            with self._connect() as connection, connection.cursor() as cursor:
                self._connection = connection
                if self._stopped:
                    return
                cursor.execute("SET TRANSACTION READ ONLY")
                cursor.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(self._timeout_ms)))
                # One SELECT and nothing else: what is read as a table can be no COPY, and the extended protocol takes
                # no second statement. The line break ends a comment of theirs.
                statement = f"SELECT * FROM (\n{self._query}\n) AS rows_to_import".encode()  # noqa: S608 - it is theirs
                rows = cast("Generator[tuple[Any, ...], None, None]", cursor.stream(statement))
                with contextlib.closing(rows):  # it holds the connection's lock until then
                    yield from self._blocks(cursor, rows, view, columns, now_us)
                connection.rollback()
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if self._stopped:
                return
            if isinstance(error, psycopg.errors.QueryCanceled):
                sentence = f"the query took longer than the {self._timeout_ms:,} ms that it may; ask for fewer rows"
                raise InvalidArgument.field("query.sql", sentence, reason="QUERY_FAILED") from error
            sentence = f"the database {self._name!r} gives no answer ({type(error).__name__})"
            raise Unavailable(sentence, reason="INPUT_UNAVAILABLE") from error
        except psycopg.Error as error:
            said = (error.diag.message_primary or type(error).__name__)[:500]
            raise InvalidArgument.field("query.sql", f"the database says: {said}", reason="QUERY_FAILED") from error

    def stop(self) -> None:
        """See `Reading.stop`."""
        self._stopped = True
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):  # it may have ended meanwhile
                self._connection.cancel_safe(timeout=CONNECT_TIMEOUT_S)

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            self._url,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="penstock-features",
            options="-c default_transaction_read_only=on",
        )

    def _blocks(
        self,
        cursor: psycopg.Cursor[tuple[Any, ...]],
        rows: Iterator[tuple[Any, ...]],
        view: View,
        columns: SourceColumns,
        now_us: int,
    ) -> Iterator[Block]:
        block: list[tuple[Any, ...]] = []
        reader: RowReader | None = None
        begin = 1
        for row in rows:
            if reader is None:
                reader = RowReader([each.name for each in cursor.description or ()], view, columns, now_us)
            block.append(row)
            if len(block) == BLOCK_ROWS:
                yield reader.read(block, begin)
                begin, block = begin + len(block), []
        if reader is not None and block:
            yield reader.read(block, begin)

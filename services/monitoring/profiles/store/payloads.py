"""Events with what was captured of them, read a slice at a time; of more than may be read a uniform sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID
from zlib import crc32

from psycopg import Connection
from psycopg.rows import DictRow, tuple_row

from services.common.postgres import Database
from services.monitoring.ids import first_id
from services.monitoring.models import Window
from services.monitoring.profiles.tensors import MAX_EVENT_ROWS
from services.monitoring.profiles.values import LiveRow

SLICE_BYTES = 8 * 1024 * 1024
SLICE_EVENTS = 2_000
SLICE_CELLS = 4_000_000
"""Rows times the columns that are wanted: each has its place in memory, however little was sent for it."""
MAX_EVENTS_BYTES = 256 * 1024 * 1024
MAX_EVENTS = 250_000
"""Of one bucket, or one profile: of more a uniform sample is taken."""
_PAGE_EVENTS = 100_000

_SIZES = """
SELECT inference_id, octet_length(features) + coalesce(octet_length(prediction), 0), row_count
FROM monitoring.inferences
WHERE model = %(model)s AND version = %(version)s AND inference_id >= %(first_id)s AND inference_id < %(end_id)s
  AND inference_id > %(after)s AND features IS NOT NULL
ORDER BY inference_id
LIMIT %(limit)s
"""
_EVENTS = """
SELECT inference_id, user_id, error_code, row_count, features, prediction, outcomes
FROM monitoring.inferences
WHERE inference_id >= %(first_id)s AND inference_id <= %(last_id)s AND inference_id = ANY (%(ids)s)
ORDER BY inference_id
"""
Query = Callable[[LiteralString, dict[str, object]], list[tuple[Any, ...]]]
Size = tuple[UUID, int, int]
"""An event's id, the bytes of its payloads, its rows."""


@dataclass(frozen=True, slots=True)
class Payloads:
    """The events of a span, some at a time; `share` of them, chosen uniformly: 1 is all."""

    share: float
    slices: Iterator[Sequence[LiveRow]]


def payloads(query: Query, model: str, version: str, window: Window, *, columns: int) -> Payloads:
    """Choose events by their sizes, and read them when they are asked for.

    No statement is long and no slice large, whatever the payloads. `columns` are those that are wanted of each row.
    """
    share, found = _chosen(query, model, version, window)
    return Payloads(share, _read(query, found, columns))


def on_connection(connection: Connection[DictRow]) -> Query:
    """Query within a transaction."""

    def query(statement: LiteralString, values: dict[str, object]) -> list[tuple[Any, ...]]:
        with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
            return cursor.execute(statement, values).fetchall()

    return query


def on_database(database: Database) -> Query:
    """Query in a transaction each, so that nothing is held up for as long as all of them take."""

    def query(statement: LiteralString, values: dict[str, object]) -> list[tuple[Any, ...]]:
        with database.transaction() as connection:
            return on_connection(connection)(statement, values)

    return query


def _read(query: Query, found: Sequence[Size], columns: int) -> Iterator[Sequence[LiveRow]]:
    for ids in _slices(found, columns):
        bounds = {"first_id": ids[0], "last_id": ids[-1]}  # by which the days that matter are found
        yield [LiveRow(*row) for row in query(_EVENTS, {"ids": ids, **bounds})]


def _chosen(query: Query, model: str, version: str, window: Window) -> tuple[float, list[Size]]:
    """List what is to be read; of too much a share, by a hash of the ids: a half of what a half is a quarter of all."""
    begin, end = first_id(window.from_time), first_id(window.to_time)
    names = {"model": model, "version": version, "first_id": begin, "end_id": end, "limit": _PAGE_EVENTS}
    found: list[Size] = []
    total_bytes, share, after = 0, 1.0, UUID(int=max(begin.int - 1, 0))
    while rows := query(_SIZES, {**names, "after": after}):
        after = rows[-1][0]
        some = _sampled(rows, share)
        found += some
        total_bytes += sum(size for _, size, _ in some)
        while total_bytes > MAX_EVENTS_BYTES or len(found) > MAX_EVENTS:
            share /= 2
            found = _sampled(found, share)
            total_bytes = sum(size for _, size, _ in found)
    return share, found


def _sampled(rows: Sequence[tuple[Any, ...]], share: float) -> list[Size]:
    limit = int(share * 2**32)
    return [(each, size, count) for each, size, count in rows if crc32(each.bytes) < limit]


def _slices(found: Sequence[Size], columns: int) -> Iterator[list[UUID]]:
    ids: list[UUID] = []
    total_bytes = total_rows = 0
    most_rows = SLICE_CELLS // max(columns, 1)
    for inference_id, size, count in found:
        rows = min(count, MAX_EVENT_ROWS)
        if ids and (len(ids) >= SLICE_EVENTS or total_bytes + size > SLICE_BYTES or total_rows + rows > most_rows):
            yield ids
            ids, total_bytes, total_rows = [], 0, 0
        ids.append(inference_id)
        total_bytes += size
        total_rows += rows
    if ids:
        yield ids

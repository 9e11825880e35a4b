"""Samples of what was written of a view: all rows of some entities, chosen by a hash of their keys."""

from __future__ import annotations

from typing import Any, Final

from psycopg import Connection, sql
from psycopg.rows import DictRow, tuple_row

from services.registry.features.models import Column, View
from services.registry.features.store.columns import column_of
from services.registry.features.store.views import column_names, rows_table

SLOTS: Final = 4_096
"""Entities are dealt to so many by hash; a sample is of the first of them."""
_SLOT = f"(hashtextextended(entity_key, 0) & {SLOTS - 1})"
_COUNT = f"""
SELECT {_SLOT} AS slot, count(*) AS count FROM {{rows}}
WHERE event_time >= %(from_time)s AND event_time < %(to_time)s GROUP BY slot
"""  # noqa: S608 - a constant of ours
_ROWS = f"""
SELECT DISTINCT ON (entity_key, event_time) entity_key, event_time{{features}} FROM {{rows}}
WHERE event_time >= %(from_time)s AND event_time < %(to_time)s AND {_SLOT} < %(slots)s
ORDER BY entity_key, event_time, create_time DESC
"""  # noqa: S608 - a constant of ours
Block = tuple[list[str], list[int], list[Column]]
"""Rows: the entities, the event times, a column for each stored feature."""


class SampleTable:
    """What was written of views, inside a transaction that is lent."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def counts(self, view: View, from_time: int, to_time: int) -> list[int]:
        """Count the rows of each slot whose event time lies in a window."""
        found = self._connection.execute(
            sql.SQL(_COUNT).format(rows=rows_table(view)), {"from_time": from_time, "to_time": to_time}
        )
        counts = [0] * SLOTS
        for row in found:
            counts[row["slot"]] = row["count"]
        return counts

    def blocks(self, view: View, from_time: int, to_time: int, slots: int, *, rows: int) -> list[Block]:
        """Give what the first slots have, by entity and event time, `rows` rows at a time."""
        statement = sql.SQL(_ROWS).format(rows=rows_table(view), features=column_names(range(len(view.stored))))
        values = {"from_time": from_time, "to_time": to_time, "slots": slots}
        blocks = []
        with self._connection.cursor(name="sample", row_factory=tuple_row) as cursor:
            cursor.execute(statement, values)
            while found := cursor.fetchmany(rows):
                blocks.append(_block(view, found))
        return blocks


def _block(view: View, rows: list[tuple[Any, ...]]) -> Block:
    keys, times, *values = zip(*rows, strict=True)
    columns = [column_of(feature, each) for feature, each in zip(view.stored, values, strict=True)]
    return list(keys), list(times), columns

"""Writing rows: what is known already is left out, and the rest goes in by COPY.

There is one row of an entity, an event time and a create time, and no row is ever changed. So an older event cannot
overwrite a newer one, and what is said again is found by its event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psycopg import Connection, Cursor, sql
from psycopg.rows import DictRow, tuple_row

from services.registry.features.models import Column, Rows, Times, View, Written
from services.registry.features.store import binary
from services.registry.features.store.bounds import rows_at_once
from services.registry.features.store.columns import column_of
from services.registry.features.store.literals import array_literal
from services.registry.features.store.views import column_names, rows_table

if TYPE_CHECKING:
    import pyarrow

# Most rows are newer than all that is known of their entities, and meet nothing.
_MET = """
SELECT asked.number - 1, met.event_time = asked.event_time
FROM unnest(%(keys)s::text[], %(event_times)s::bigint[]) WITH ORDINALITY AS asked (entity_key, event_time, number)
CROSS JOIN LATERAL (
    SELECT event_time FROM {rows} rows
    WHERE rows.entity_key = asked.entity_key AND rows.event_time >= asked.event_time
    ORDER BY rows.event_time LIMIT 1
) met
"""
# What was known of an event when a row of it became known; and whether more became known of its entity since.
_KNOWN = """
SELECT asked.number - 1, known.create_time = asked.create_time, EXISTS (
    SELECT FROM {rows} later WHERE later.entity_key = asked.entity_key
        AND (later.event_time, later.create_time) > (asked.event_time, asked.create_time)
){features}
FROM unnest(%(keys)s::text[], %(event_times)s::bigint[], %(create_times)s::bigint[]) WITH ORDINALITY
    AS asked (entity_key, event_time, create_time, number)
CROSS JOIN LATERAL (
    SELECT * FROM {rows} rows
    WHERE rows.entity_key = asked.entity_key AND rows.event_time = asked.event_time
        AND rows.create_time <= asked.create_time
    ORDER BY rows.create_time DESC LIMIT 1
) known
"""
_COPY = "COPY {} FROM STDIN (FORMAT binary)"
TupleCursor = Cursor[tuple[Any, ...]]
Places = NDArray[np.int64]
Truths = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to write, in the order of the table's index. `values`: the features' fields, as COPY takes them."""

    keys: pyarrow.StringArray
    event_times: Times
    create_times: Times
    values: pyarrow.BinaryArray

    @classmethod
    def of(cls, view: View, rows: Rows, create_times: Times) -> Batch:
        """Encode rows; of those with the same key, event time and create time the last one counts."""
        import pyarrow

        values = _encoded(view, rows.columns, len(rows.keys))
        batch = cls(pyarrow.array(rows.keys, pyarrow.string()), rows.event_times, create_times, values)
        return batch.take(_last_of_each(batch))

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: Places) -> Batch:
        """Give some of the rows."""
        return Batch(
            self.keys.take(places), self.event_times[places], self.create_times[places], self.values.take(places)
        )

    def literals(self, *names: str) -> dict[str, str]:
        """Give `keys`, `event_times` and `create_times` as a statement takes them."""
        import pyarrow

        arrays = {
            "keys": self.keys,
            "event_times": pyarrow.array(self.event_times),
            "create_times": pyarrow.array(self.create_times),
        }
        return {name: array_literal(arrays[name]) for name in names}

    def copied(self, feature_count: int) -> bytes:
        """Give all of it as COPY takes it."""
        rows = binary.joined(
            [
                binary.field_count(3 + feature_count, len(self)),
                *binary.text_field(self.keys),
                binary.number_field(self.event_times),
                binary.number_field(self.create_times),
                self.values,
            ]
        )
        return b"".join([binary.BEGINNING, rows.buffers()[2], binary.END])


def write(connection: Connection[DictRow], view: View, rows: Rows, create_times: Times) -> Written:
    """Write rows of a view, to which nobody else writes meanwhile."""
    batch = Batch.of(view, rows, create_times)
    with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        late, again = _met(cursor, view, batch)
        known = np.zeros(len(batch), np.bool_)
        step = rows_at_once(view.stored)
        for places in (again[begin : begin + step] for begin in range(0, len(again), step)):
            late[places], known[places] = _known(cursor, view, batch.take(places))
        fresh, newest = batch.take(np.flatnonzero(~known)), batch.keys.take(np.flatnonzero(~known & ~late))
        if len(fresh):
            with cursor.copy(sql.SQL(_COPY).format(rows_table(view))) as copy:
                copy.write(fresh.copied(len(view.stored)))
    return Written(len(fresh), len(fresh) - len(newest.unique()), len(rows.keys) - len(fresh))


# Neither of the two questions is prepared: a plan that was made for a small table would go through all of a large one,
# once for each row.
def _met(cursor: TupleCursor, view: View, batch: Batch) -> tuple[Truths, Places]:
    """Say which rows are not newer than all that is known of their entities; and the places of those whose event is."""
    statement = sql.SQL(_MET).format(rows=rows_table(view))
    met = cursor.execute(statement, batch.literals("keys", "event_times"), prepare=False).fetchall()
    late = np.zeros(len(batch), np.bool_)
    late[np.array([number for number, _ in met], np.int64)] = True
    return late, np.array([number for number, same_event in met if same_event], np.int64)


def _known(cursor: TupleCursor, view: View, batch: Batch) -> tuple[Truths, Truths]:
    """Of rows whose events are known, say which are not their entity's latest, and which were written before."""
    from pyarrow import compute

    statement = sql.SQL(_KNOWN).format(rows=rows_table(view), features=column_names(range(len(view.stored)), "known"))
    times = batch.literals("keys", "event_times", "create_times")
    found = cursor.execute(statement, times, prepare=False).fetchall()
    late, known = np.ones(len(batch), np.bool_), np.zeros(len(batch), np.bool_)
    if found:
        numbers, same_time, is_late, *values = (list(column) for column in zip(*found, strict=True))
        columns = {feature.name: column_of(feature, each) for feature, each in zip(view.stored, values, strict=True)}
        same_values = compute.equal(batch.values.take(np.array(numbers)), _encoded(view, columns, len(found)))
        late[numbers], known[numbers] = is_late, np.array(same_time) | same_values.to_numpy(zero_copy_only=False)
    return late, known


def _encoded(view: View, columns: Mapping[str, Column], row_count: int) -> pyarrow.BinaryArray:
    """Write the features of each row as COPY takes them."""
    fields = [binary.feature_field(feature, columns.get(feature.name), row_count) for feature in view.stored]
    return binary.joined([part for parts in fields for part in parts])


def _last_of_each(batch: Batch) -> Places:
    """Give the places of the rows that count, by key, event time and create time."""
    import pyarrow
    from pyarrow import compute

    names = ["keys", "event_times", "create_times"]
    table = pyarrow.table([batch.keys, batch.event_times, batch.create_times], names)
    order = compute.sort_indices(table, [(name, "ascending") for name in names])  # the sort is stable
    ordered, last = table.take(order), np.ones(len(batch), np.bool_)
    if len(batch) > 1:
        same = [compute.equal(ordered[name][1:], ordered[name][:-1]).to_numpy() for name in names]
        last[:-1] = ~np.logical_and.reduce(same)
    places: Places = order.to_numpy()[last].astype(np.int64)
    return places

"""Reading rows that may be wide: a few at first, and then as many at a time as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from psycopg.rows import DictRow

FIRST_ROWS = 10
MAX_ROWS = 100
# In characters as Python shows a row, which is several times what it takes in a message of 3 MiB.
MAX_CHARS = 16 * 1024 * 1024


def in_batches(ids: Sequence[int], read: Callable[[list[int]], list[DictRow]]) -> list[DictRow]:
    """Read the rows of some ids, in the order of the ids, and no more of them than a page can hold in memory.

    Fewer rows than ids: there was no room for the rest.
    """
    rows: list[DictRow] = []
    used_chars, count = 0, FIRST_ROWS
    while len(rows) < len(ids) and used_chars < MAX_CHARS:
        batch = read(list(ids[len(rows) : len(rows) + count]))
        rows += batch
        used_chars += sum(len(str(row)) for row in batch)
        count = min(MAX_ROWS, (MAX_CHARS - used_chars) * len(rows) // used_chars + 1)
    return rows

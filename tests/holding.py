"""Holds whoever is about to take a step: a row's trigger waits for a lock that the test has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from tests.serving import wait_until

LOCK = 4711
UNTIL_HELD_S = 120.0
_HOLD = """
CREATE OR REPLACE FUNCTION public.held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    RETURN NEW;
END $$;
CREATE TRIGGER held BEFORE {step} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION public.held();
"""
_WAITING = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@contextmanager
def held(database_url: str, step: str, when: str = "true") -> Iterator[Callable[[], None]]:
    """Hold the step, for the block: `INSERT ON schema.table` or an update of columns, where the row is as wished.

    Gives what waits until somebody has come so far: to be killed right there, say. One hold a database at a time.
    """
    table = sql.Identifier(*step.rpartition(" ON ")[2].split("."))
    # What is in a test's own text is no stranger's.
    made = sql.SQL(_HOLD).format(lock=LOCK, step=sql.SQL(step), when=sql.SQL(when))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(made)
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])

        def waits() -> bool:
            return connection.execute(_WAITING, [LOCK]).fetchone() == (1,)

        try:
            yield lambda: wait_until(waits, timeout_s=UNTIL_HELD_S)
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
            connection.execute(sql.SQL("DROP TRIGGER held ON {}").format(table))


def saying(message: str) -> tuple[str, str]:
    """The step at which a run says that it is at something, for `held`."""
    when = f"starts_with(NEW.message, '{message}') AND OLD.message IS DISTINCT FROM NEW.message"
    return "UPDATE ON trainer.training_runs", when

"""A table of jobs for the tests, as a service's migration makes one, with one column of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

import services.common.jobs
from penstock.ids import uuid7
from services.common.jobs import JobRun, JobStore, JobWorkers, NewJob, WorkerLimits
from services.common.postgres import Database

COLUMNS = Path(services.common.jobs.__file__).with_name("columns.sql")
SCHEMA, TABLE = "shop", "orders"


def create_table(url: str, schema: str = SCHEMA, table: str = TABLE, columns: str = "what text NOT NULL,") -> None:
    """Make a table of jobs by the template."""
    text = COLUMNS.read_text()
    for name, value in {"schema": schema, "table": table, "columns": columns}.items():
        text = text.replace(f"{{{name}}}", value)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}".encode())
        connection.execute(text.encode())


@contextmanager
def opened(url: str, **more: Any) -> Iterator[JobStore]:
    """Open the store of the table."""
    with Database(url, pool_size=8, **more) as database:
        yield JobStore(database, SCHEMA, TABLE)


def new_job(what: str = "", **more: Any) -> NewJob:
    """Make a job that says what it is."""
    payload: Mapping[str, Any] = {"what": what}
    return NewJob(**{"job_id": UUID(uuid7()), "created_by": "ada", "payload": payload, **more})


@contextmanager
def working(store: JobStore, work: Callable[[JobRun], Mapping[str, Any] | None], **limits: Any) -> Iterator[JobWorkers]:
    """Run workers."""
    stuck = limits.pop("on_stuck", lambda _: None)
    workers = JobWorkers(store, work, WorkerLimits(**limits), on_stuck=stuck)
    workers.open()
    try:
        yield workers
    finally:
        workers.close()


def execute(url: str, statement: str) -> None:
    """Change the table behind everyone's back: let time pass, say."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())

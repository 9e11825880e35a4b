"""The feature store against the SQL that one would write by hand, on the same tables of the same PostgreSQL.

Online: 100 entities and 20 features in one call of the SDK, against one psycopg query of the same rows (prepared,
on a connection that is open). As of a time: the rows asked for are sent, joined, and come back as columns,
by the SDK, and by COPY in, a lateral join, COPY out and Arrow. Ingest: the SDK's `load`, against COPY of the same rows
as text, once into one table with the same index, and once into it and into a table of the latest by hand.
The sides take turns; registry, PostgreSQL and client share all cores.
Run it by `.venv/bin/python -m benchmarks features`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pyarrow import csv, py_buffer

import penstock
from benchmarks.harness import Ratio, interleave, running, surroundings, wait_until
from penstock.cli.embedded.ports import free_port
from penstock.cli.embedded.postgres import PostgresCluster
from penstock.errors import PenstockError
from services.registry.features.store.columns import write_csv

BEGIN_US, DAY_US = 1_700_000_000_000_000, 86_400_000_000
ONLINE_FEATURES, FEATURES = 20, 10
Connection = psycopg.Connection[Any]


@contextmanager
def suite(folder: Path) -> Iterator[tuple[penstock.Client, Connection]]:
    """Run PostgreSQL and the registry, and connect to both."""
    with ExitStack() as stack:
        cluster, database_port, port = PostgresCluster(folder / "cluster"), free_port(), free_port()
        cluster.create()
        stack.enter_context(running(cluster.command(database_port), cluster.environment, folder / "postgres.log"))
        wait_until(lambda: cluster.is_ready(database_port), "PostgreSQL did not come up")
        environment = {
            **os.environ,
            "PENSTOCK_DATABASE_URL": cluster.url(database_port),
            "PENSTOCK_BLOB_URL": f"file://{folder}/blobs",
            "PENSTOCK_PORT": str(port),
            "PENSTOCK_METRICS_PORT": "0",
        }
        registry = [sys.executable, "-m", "services.registry"]
        stack.enter_context(running(registry, environment, folder / "registry.log"))
        client = stack.enter_context(penstock.Client(registry=f"127.0.0.1:{port}"))
        wait_until(lambda: _answers(client), "the registry did not come up")
        yield client, stack.enter_context(psycopg.connect(cluster.url(database_port), autocommit=True))


def _answers(client: penstock.Client) -> bool:
    try:
        list(client.features.list_views())
    except PenstockError:
        return False
    return True


def make_view(client: penstock.Client, connection: Connection, name: str, features: int) -> int:
    """Make a view of doubles; gives the number that its tables bear."""
    client.features.create_view(
        name, entity="customer", features={f"x{number}": "float64" for number in range(features)}
    )
    row = connection.execute("SELECT max(view_id) FROM features.views").fetchone()
    return int(row[0]) if row else 0


def columns(rows: int, features: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Draw values."""
    random = np.random.default_rng(seed)
    return {f"x{number}": random.normal(size=rows) for number in range(features)}


def percentile(taken: Sequence[float], share: float) -> float:
    return float(np.quantile(taken, share))


def online(client: penstock.Client, connection: Connection, calls: int, rounds: int) -> None:
    """Read 100 entities and 20 features in one call, among 100,000 entities."""
    entities = [f"customer-{number}" for number in range(100_000)]
    view_id = make_view(client, connection, "online", ONLINE_FEATURES)
    times = np.full(len(entities), BEGIN_US)
    client.features.load("online", entities, columns(len(entities), ONLINE_FEATURES, 1), event_times=times)
    connection.execute(f"VACUUM ANALYZE features.latest_{view_id}".encode())
    named = ", ".join(f"f{number}" for number in range(ONLINE_FEATURES))
    query = f"SELECT entity_key, event_time, {named} FROM features.latest_{view_id} WHERE entity_key = ANY(%s)".encode()
    random = np.random.default_rng(2)

    def keys() -> list[str]:
        return [entities[place] for place in random.integers(0, len(entities), 100)]

    sides: dict[str, Callable[[list[str]], object]] = {
        "penstock": lambda asked: client.features.get("online", asked),
        "psycopg": lambda asked: connection.execute(query, [asked], prepare=True, binary=True).fetchall(),
    }
    taken: dict[str, list[list[float]]] = {side: [] for side in sides}
    for call in sides.values():
        for _ in range(50):
            call(keys())
    for _ in range(rounds):
        each: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(calls):
            for side, call in sides.items():
                asked = keys()
                began = time.perf_counter()
                call(asked)
                each[side].append((time.perf_counter() - began) * 1_000)
        for side, times_ms in each.items():
            taken[side].append(times_ms)
    for share in (0.5, 0.99):
        found = {side: [percentile(round_, share) for round_ in of_side] for side, of_side in taken.items()}
        ratio = Ratio.of(found["penstock"], found["psycopg"])
        said = ", ".join(f"{side} {statistics.median(ms):.2f} ms" for side, ms in found.items())
        print(f"online p{share * 100:.0f}: {said}; ratio {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")


def as_of(client: penstock.Client, connection: Connection, rows: int, rounds: int, entities: int) -> None:
    """Join rows with 10 features of entities, of which each has ten events."""
    events = 10
    view_id = make_view(client, connection, "history", FEATURES)
    keys = [f"customer-{number}" for number in range(entities)]
    for event in range(events):
        times = np.full(entities, BEGIN_US + event * DAY_US)
        client.features.load(
            "history", keys, columns(entities, FEATURES, event), event_times=times, create_times=times + 1
        )
    connection.execute(f"VACUUM ANALYZE features.rows_{view_id}".encode())
    random = np.random.default_rng(3)
    asked = [keys[place] for place in random.integers(0, entities, rows)]
    moments = BEGIN_US + random.integers(0, events * DAY_US, rows)

    def by_penstock() -> None:
        found = sum(len(block["history"].keys) for block in client.features.get_as_of("history", asked, moments))
        if found != rows:
            raise SystemExit(f"{found} rows came of {rows}")

    def by_hand() -> None:
        named = ", ".join(f"found.f{number}" for number in range(FEATURES))
        statement = f"""
            COPY (SELECT asked.number, found.event_time, {named} FROM asked LEFT JOIN LATERAL (
                SELECT * FROM features.rows_{view_id} rows WHERE rows.entity_key = asked.entity_key
                    AND rows.event_time <= asked.as_of AND rows.create_time <= asked.as_of
                ORDER BY rows.event_time DESC, rows.create_time DESC LIMIT 1
            ) found ON true) TO STDOUT (FORMAT csv)
        """
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE asked (number bigint, entity_key text, as_of bigint) ON COMMIT DROP")
            with cursor.copy("COPY asked FROM STDIN (FORMAT csv)") as copy:
                copy.write(text_of([np.arange(rows), asked, moments]))
            with cursor.copy(statement.encode()) as copy:
                table = csv.read_csv(py_buffer(b"".join(copy)), csv.ReadOptions(autogenerate_column_names=True))
        if table.num_rows != rows:
            raise SystemExit(f"{table.num_rows} rows came of {rows}")

    compare("as of", {"penstock": by_penstock, "by hand": by_hand}, rows, rounds)


def ingest(client: penstock.Client, connection: Connection, rows: int, rounds: int) -> None:
    """Write rows of 10 features, each of an entity of its own."""
    view_id = make_view(client, connection, "ingest", FEATURES)
    kinds = ", ".join(f"f{number} double precision" for number in range(FEATURES))
    key = "entity_key text NOT NULL, event_time bigint NOT NULL, create_time bigint NOT NULL"
    for table, index in (("bare_rows", "entity_key, event_time, create_time"), ("bare_latest", "entity_key")):
        connection.execute(f"CREATE TABLE {table} ({key}, {kinds}, PRIMARY KEY ({index}))".encode())
    keys = [f"customer-{number}" for number in np.random.default_rng(4).permutation(rows)]
    values, times = columns(rows, FEATURES, 5), np.full(rows, BEGIN_US)

    def empty() -> None:
        for table in (f"features.rows_{view_id}", f"features.latest_{view_id}", "bare_rows", "bare_latest"):
            connection.execute(f"TRUNCATE {table}".encode())
        connection.execute("CHECKPOINT")

    def by_copy(tables: Sequence[str]) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            for table in tables:
                with cursor.copy(f"COPY {table} FROM STDIN (FORMAT csv)".encode()) as copy:
                    copy.write(text_of([keys, times, times, *values.values()]))

    sides: dict[str, Callable[[], object]] = {
        "penstock": lambda: client.features.load("ingest", keys, values, event_times=times),
        "one COPY": lambda: by_copy(["bare_rows"]),
        "a COPY into each table": lambda: by_copy(["bare_rows", "bare_latest"]),
    }
    compare("ingest", sides, rows, rounds, before=empty)


def text_of(held: Sequence[Any]) -> bytes:
    import pyarrow

    return write_csv([pyarrow.array(column) for column in held])


def compare(
    name: str,
    sides: dict[str, Callable[[], object]],
    rows: int,
    rounds: int,
    *,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Let the sides take turns, and say how long each takes beside the first."""

    def take(side: str) -> float:
        before()
        began = time.perf_counter()
        sides[side]()
        return time.perf_counter() - began

    taken = interleave(list(sides), take, rounds)
    first = next(iter(sides))
    for side, seconds in taken.items():
        ratio = Ratio.of(taken[first], seconds)
        print(
            f"{name}: {side:24} {statistics.median(seconds):7.2f} s, {rows / statistics.median(seconds):10,.0f} rows/s;"
            f" {first} takes {ratio.median:.2f} x as long ({ratio.low:.2f} to {ratio.high:.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500, help="online calls a round")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows that are joined as of a time")
    parser.add_argument("--entities", type=int, default=100_000, help="entities that they are joined with")
    parser.add_argument("--written", type=int, default=200_000, help="rows that are written a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["online", "as-of", "ingest"], default=None)
    options = parser.parse_args()
    for name, value in surroundings().items():
        print(f"{name}: {value}")
    with tempfile.TemporaryDirectory(prefix="penstock-features-") as name:
        Path(name).chmod(0o711)
        with suite(Path(name)) as (client, connection):
            if options.only in (None, "online"):
                online(client, connection, options.calls, options.rounds)
            if options.only in (None, "ingest"):
                ingest(client, connection, options.written, options.rounds)
            if options.only in (None, "as-of"):
                as_of(client, connection, options.rows, options.rounds, options.entities)
    print(f"load average at the end: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")


if __name__ == "__main__":
    main()

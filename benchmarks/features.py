"""The feature store against the SQL that one would write by hand, on the same PostgreSQL.

Ingest: the SDK's `load`, against COPY of the same rows as text, in one go, into a table with the same index.
Online: 100 entities and 20 features in one call of the SDK, against one psycopg query of the same rows, in a table of
nothing else (prepared, on a connection that is open). Join: rows are sent, joined as of a time each, and come back as
columns, by the SDK, and by COPY in, a lateral join, COPY out and Arrow.
The sides take turns; registry, PostgreSQL and client share all cores.
Run it by `.venv/bin/python -m benchmarks features`; `--only join --rounds 1` takes the longest, minutes on two cores.
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
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow
from numpy.typing import NDArray
from pyarrow import csv, py_buffer

import penstock
from benchmarks.harness import Ratio, interleave, running, surroundings, wait_until
from penstock.cli.embedded.ports import free_port
from penstock.cli.embedded.postgres import PostgresCluster
from penstock.errors import PenstockError

BEGIN_US, DAY_US = 1_700_000_000_000_000, 86_400_000_000
ONLINE_ENTITIES, ONLINE_FEATURES, FEATURES = 100, 20, 10
KEY = 'entity_key text COLLATE "C" NOT NULL, event_time bigint NOT NULL, create_time bigint NOT NULL'
Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, as a sentence, and what was measured of it: how much, and whether it holds."""

    sentence: str
    found: str
    holds: bool

    @classmethod
    def at_most(cls, sentence: str, most: float, ratio: Ratio) -> Asked:
        """Hold a ratio of times to a bound."""
        found = f"{ratio.median:.2f} x ({ratio.low:.2f} to {ratio.high:.2f})"
        return cls(sentence, found, ratio.median <= most)


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


def load_history(
    client: penstock.Client, connection: Connection, name: str, features: int, entities: int, events: int
) -> tuple[int, list[str]]:
    """Make a view of entities with so many events each; gives its number, and the entities."""
    view_id = make_view(client, connection, name, features)
    keys = [f"customer-{number}" for number in range(entities)]
    for event in range(events):
        times = np.full(entities, BEGIN_US + event * DAY_US)
        client.features.load(name, keys, columns(entities, features, event), event_times=times, create_times=times + 1)
    connection.execute(f"VACUUM ANALYZE features.rows_{view_id}".encode())
    connection.execute("CHECKPOINT")
    return view_id, keys


def online(
    client: penstock.Client, connection: Connection, *, calls: int, rounds: int, entities: int, events: int
) -> list[Asked]:
    """Read 100 entities and 20 features in one call."""
    view_id, keys_there = load_history(client, connection, "online", ONLINE_FEATURES, entities, events)
    connection.execute(
        f"CREATE TABLE bare_latest AS SELECT DISTINCT ON (entity_key) * FROM features.rows_{view_id}"
        " ORDER BY entity_key, event_time DESC".encode()
    )
    connection.execute("ALTER TABLE bare_latest ADD PRIMARY KEY (entity_key)")
    connection.execute("VACUUM ANALYZE bare_latest")
    named = ", ".join(f"f{number}" for number in range(ONLINE_FEATURES))
    query = f"SELECT entity_key, event_time, {named} FROM bare_latest WHERE entity_key = ANY(%s)".encode()
    random = np.random.default_rng(2)

    def keys() -> list[str]:
        return [keys_there[place] for place in random.choice(entities, ONLINE_ENTITIES, replace=False)]

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
                drawn = keys()
                began = time.perf_counter()
                call(drawn)
                each[side].append((time.perf_counter() - began) * 1_000)
        for side, times_ms in each.items():
            taken[side].append(times_ms)
    asked = []
    for share in (0.5, 0.99):
        found = {side: [percentile(round_, share) for round_ in of_side] for side, of_side in taken.items()}
        ratio = Ratio.of(found["penstock"], found["psycopg"])
        said = ", ".join(f"{side} {statistics.median(ms):.2f} ms" for side, ms in found.items())
        print(f"online p{share * 100:.0f}: {said}; ratio {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
        sentence = f"100 entities x 20 features in one call, p{share * 100:.0f}: within 3 x a bare query"
        asked.append(Asked.at_most(sentence, 3, ratio))
    return asked[1:]


def join(
    client: penstock.Client, connection: Connection, *, rows: int, rounds: int, entities: int, events: int
) -> list[Asked]:
    """Join rows with 10 features of entities, as of a time each."""
    view_id, keys = load_history(client, connection, "history", FEATURES, entities, events)
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

    ratio = compare("join", {"penstock": by_penstock, "by hand": by_hand}, rows, rounds)
    sentence = f"point-in-time join of {rows:,} rows x {FEATURES} features: within 2 x the SQL by hand"
    return [Asked.at_most(sentence, 2, ratio)]


def ingest(client: penstock.Client, connection: Connection, *, rows: int, rounds: int) -> list[Asked]:
    """Write rows of 10 features, each of an entity of its own."""
    view_id = make_view(client, connection, "ingest", FEATURES)
    kinds = ", ".join(f"f{number} double precision" for number in range(FEATURES))
    connection.execute(
        f"CREATE TABLE bare_rows ({KEY}, {kinds}, PRIMARY KEY (entity_key, event_time, create_time))".encode()
    )
    keys = [f"customer-{number}" for number in np.random.default_rng(4).permutation(rows)]
    values, times = columns(rows, FEATURES, 5), np.full(rows, BEGIN_US)

    def empty() -> None:
        connection.execute(f"TRUNCATE features.rows_{view_id}, bare_rows".encode())
        connection.execute("CHECKPOINT")

    def by_copy() -> None:
        with connection.cursor() as cursor, cursor.copy("COPY bare_rows FROM STDIN (FORMAT csv)") as copy:
            copy.write(text_of([keys, times, times, *values.values()]))

    sides: dict[str, Callable[[], object]] = {
        "penstock": lambda: client.features.load("ingest", keys, values, event_times=times),
        "by hand": by_copy,
    }
    ratio = compare("ingest", sides, rows, rounds, before=empty)
    reached = f"{100 / ratio.median:.0f} % ({100 / ratio.high:.0f} to {100 / ratio.low:.0f})"
    return [Asked(f"ingest of {rows:,} rows: at least 50 % of bare COPY", reached, ratio.median <= 2)]


def text_of(held: Sequence[Any]) -> bytes:
    """Write columns as CSV."""
    table = pyarrow.Table.from_arrays([pyarrow.array(column) for column in held], [str(n) for n in range(len(held))])
    out = BytesIO()
    csv.write_csv(table, out, csv.WriteOptions(include_header=False))
    return out.getvalue()


def compare(
    name: str,
    sides: dict[str, Callable[[], object]],
    rows: int,
    rounds: int,
    *,
    before: Callable[[], None] = lambda: None,
) -> Ratio:
    """Let the sides take turns, and say how long each takes; gives how the first compares to the last."""

    def take(side: str) -> float:
        before()
        began = time.perf_counter()
        sides[side]()
        return time.perf_counter() - began

    taken = interleave(list(sides), take, rounds)
    for side, seconds in taken.items():
        rate = rows / statistics.median(seconds)
        print(f"{name}: {side:9} {statistics.median(seconds):7.2f} s, {rows:,} rows, {rate:,.0f} a second")
    first, *_, last = taken.values()
    return Ratio.of(first, last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["ingest", "online", "join"], default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows that are joined as of a time")
    parser.add_argument("--written", type=int, default=200_000, help="rows that are written a round")
    parser.add_argument("--calls", type=int, default=500, help="online calls a round")
    parser.add_argument("--entities", type=int, default=100_000, help="entities that are read and joined with")
    parser.add_argument("--events", type=int, default=10, help="events of each of them")
    options = parser.parse_args()
    for name, value in surroundings().items():
        print(f"{name}: {value}")
    rounds, there = options.rounds, {"entities": options.entities, "events": options.events}
    asked: list[Asked] = []
    with tempfile.TemporaryDirectory(prefix="penstock-features-") as name:
        Path(name).chmod(0o711)
        with suite(Path(name)) as (client, connection):
            if options.only in (None, "ingest"):
                asked += ingest(client, connection, rows=options.written, rounds=rounds)
            if options.only in (None, "online"):
                asked += online(client, connection, calls=options.calls, rounds=rounds, **there)
            if options.only in (None, "join"):
                asked += join(client, connection, rows=options.rows, rounds=rounds, **there)
    print(f"load average at the end: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    for each in asked:
        print(f"{'holds' if each.holds else 'FALLS SHORT':11}  {each.sentence}: {each.found}")


if __name__ == "__main__":
    main()

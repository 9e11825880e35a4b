"""Reads as of a time, held to an oracle that looks at everything that was ever written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock
from tests.postgres import PostgresServer
from tests.services import running_registry

THEN = 1_700_000_000_000_000
TIMES = st.integers(0, 6)
_numbers = count()


@dataclass(frozen=True)
class Row:
    """A value that was written."""

    key: str
    event: int
    known: int
    value: float | None


ROWS = st.builds(Row, st.sampled_from("ab"), TIMES, TIMES, st.sampled_from([None, 1.0, 2.0]))
BLOCKS = st.lists(st.lists(ROWS, min_size=1, max_size=5), max_size=6)


@pytest.fixture(scope="module")
def client(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[penstock.Client]:
    folder = tmp_path_factory.mktemp("features")
    with (
        running_registry(postgres_server.clone("registry"), folder) as registry,
        penstock.Client(registry=registry.address) as made,
    ):
        yield made


def written(blocks: list[list[Row]]) -> tuple[list[Row], list[tuple[int, int, int]]]:
    """Say what is kept of all blocks, and of each how many rows are, of them not their entity's latest, and are not.

    Not kept is what was known of an event already, with the same value or from the same time; of one time in a block
    the last counts.
    """
    there: list[Row] = []
    counts = []
    for block in blocks:
        fresh = []
        for row in {(row.key, row.event, row.known): row for row in block}.values():
            before = [
                each for each in there if (each.key, each.event) == (row.key, row.event) and each.known <= row.known
            ]
            said = max(before, key=lambda each: each.known, default=None)
            if said is None or (said.known != row.known and said.value != row.value):
                fresh.append(row)
        newest = {
            row.key
            for row in fresh
            if all((each.event, each.known) < (row.event, row.known) for each in there if each.key == row.key)
        }
        counts.append((len(fresh), len(fresh) - len(newest), len(block) - len(fresh)))
        there += fresh
    return there, counts


def oracle(rows: list[Row], key: str, as_of: int, known: int, ttl: int) -> float | None:
    """Look at all of it."""
    seen = [row for row in rows if row.key == key and row.event <= as_of and row.known <= known]
    if not seen:
        return None
    newest = max(seen, key=lambda row: (row.event, row.known))
    return newest.value if not ttl or newest.event >= as_of - ttl else None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blocks=BLOCKS,
    asked=st.lists(st.tuples(st.sampled_from("abc"), TIMES), min_size=1, max_size=8),
    known=st.none() | TIMES,
    ttl=st.integers(0, 3),
)
def test_a_read_as_of_a_time_sees_what_was_known_then(
    client: penstock.Client, blocks: list[list[Row]], asked: list[tuple[str, int]], known: int | None, ttl: int
) -> None:
    view = f"oracle-{next(_numbers)}"
    client.features.create_view(view, entity="customer", features={"x": "float64"}, ttl_ms=ttl * 1_000)
    second = 1_000_000
    done = []
    for block in blocks:
        response = client.features.load(
            view,
            [row.key for row in block],
            {"x": [row.value for row in block]},
            event_times=[THEN + row.event * second for row in block],
            create_times=[THEN + row.known * second for row in block],
        )
        done.append((response.written_count, response.late_count, response.duplicate_count))
    rows, counts = written(blocks)
    assert done == counts
    answers = client.features.get_as_of(
        view,
        [key for key, _ in asked],
        [THEN + time * second for _, time in asked],
        known_time=None if known is None else THEN + known * second,
    )
    (block_read,) = answers
    expected = [oracle(rows, key, time, time if known is None else known, ttl) for key, time in asked]
    assert [row["x"] for row in block_read[view].rows()] == expected
    client.features.update_view(view, ttl_ms=0)  # THEN is long ago
    latest = client.features.get(view, ["a", "b", "c"])[view]
    newest = [
        max((row for row in rows if row.key == key), key=lambda row: (row.event, row.known), default=None)
        for key in "abc"
    ]
    assert latest.event_times_us.tolist() == [0 if row is None else THEN + row.event * second for row in newest]
    assert [row["x"] for row in latest.rows()] == [None if row is None else row.value for row in newest]


def test_writes_at_once_and_out_of_order_end_with_the_latest(client: penstock.Client) -> None:
    client.features.create_view("racing", entity="customer", features={"x": "int64"})
    keys = [f"k{number}" for number in range(20)]

    def write(worker: int) -> None:
        for number in range(25):
            event = (number * 7 + worker * 13) % 100
            client.features.write("racing", keys, {"x": [event] * 20}, event_times=THEN + event)

    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    events = {(number * 7 + worker * 13) % 100 for worker in range(4) for number in range(25)}
    read = client.features.get("racing", keys)["racing"]
    assert read.columns["x"].tolist() == [max(events)] * 20
    assert [row["x"] for row in client.features.history("racing", "k0")] == sorted(events, reverse=True)
    created = [row["create_time_us"] for row in client.features.history("racing", "k7")]
    assert len(set(created)) == len(created)

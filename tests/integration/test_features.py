"""The feature store, through the SDK, the registry's process and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock
from penstock.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.postgres import PostgresServer
from tests.services import running_registry

DAY = 86_400_000_000
THEN = 1_700_000_000_000_000
KINDS = {
    "amount": "float64",
    "visits": "int64",
    "member": "bool",
    "city": "string",
    "taste": "float64_list",
    "since": "timestamp",
}


@pytest.fixture(scope="module")
def client(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[penstock.Client]:
    folder = tmp_path_factory.mktemp("features")
    with (
        running_registry(postgres_server.clone("registry"), folder) as registry,
        penstock.Client(registry=registry.address) as made,
    ):
        yield made


@pytest.fixture
def view(client: penstock.Client, request: pytest.FixtureRequest) -> str:
    name: str = request.node.name[:100].replace("[", "-").rstrip("]")
    client.features.create_view(name, entity="customer", features={"amount": "float64"})
    return name


def amounts(client: penstock.Client, view: str, keys: list[str]) -> list[Any]:
    return [row["amount"] for row in client.features.get(view, keys)[view].rows()]


def test_what_is_written_is_read_in_every_type(client: penstock.Client) -> None:
    client.features.create_view("types", entity="customer", features=KINDS)
    written: dict[str, Any] = {
        "amount": [1.5, np.nan, np.inf],
        "visits": [2**62, -1, None],
        "member": [True, None, False],
        "city": ["", 'Zürich, "Wiedikon"\n\\.', None],
        "taste": [[0.1, 2.0], None, [-1e300, np.nan]],
        "since": [datetime(2026, 1, 2, tzinfo=UTC), None, 0],
    }
    done = client.features.write("types", ["a", "b", "c"], written, event_times=THEN)
    assert (done.written_count, done.duplicate_count) == (3, 0)
    read = client.features.get("types", ["c", "nobody", "a", "b"])["types"]
    assert read.statuses == ["PRESENT", "ABSENT", "PRESENT", "PRESENT"]
    assert read.event_times_us.tolist() == [THEN, 0, THEN, THEN]
    c, nobody, a, b = read.rows()
    assert a == {
        "amount": 1.5, "visits": 2**62, "member": True, "city": "", "taste": [0.1, 2.0], "since": 1_767_312_000_000_000,
    }  # fmt: skip
    assert np.isnan(b.pop("amount"))
    assert b == {"visits": -1, "member": None, "city": 'Zürich, "Wiedikon"\n\\.', "taste": None, "since": None}
    assert np.isnan(c.pop("taste")[1])
    assert c == {"amount": np.inf, "visits": None, "member": False, "city": None, "since": 0}
    assert set(nobody.values()) == {None}


def test_lists_of_nothing_and_no_lists_at_all_are_written(client: penstock.Client) -> None:
    client.features.create_view("lists", entity="customer", features={"taste": "FLOAT64_LIST"})
    client.features.write("lists", ["ada", "bob"], {"taste": [[], []]}, event_times=THEN)
    client.features.write("lists", ["cy", "dee"], {"taste": [None, None]}, event_times=THEN)
    read = client.features.get("lists", ["ada", "bob", "cy", "dee"])["lists"]
    assert [row["taste"] for row in read.rows()] == [[], [], None, None]


def test_a_value_of_any_type_is_a_correction_where_it_differs_and_else_said_again(client: penstock.Client) -> None:
    client.features.create_view("corrected", entity="customer", features=KINDS)
    row: dict[str, Any] = {
        "amount": None, "visits": 0, "member": False, "city": "", "taste": [0.5], "since": None,
    }  # fmt: skip
    changes = {
        "amount": (0.0, np.nan, None), "visits": (None, 1), "member": (None, True), "city": (None, "ä", "a"),
        "taste": (None, [0.0], [np.nan], [0.0, 0.0]), "since": (0, None),
    }  # fmt: skip

    def write() -> tuple[int, int, int]:
        columns = {name: [value] for name, value in row.items() if value is not None}
        done = client.features.write("corrected", ["ada"], columns, event_times=THEN)
        return done.written_count, done.late_count, done.duplicate_count

    assert [write(), write()] == [(1, 0, 0), (0, 0, 1)]
    for name, values in changes.items():
        for value in values:
            row[name] = value
            assert [write(), write()] == [(1, 0, 0), (0, 0, 1)], f"{name} = {value}"
    for _ in range(2):
        again = client.features.write("corrected", ["bob"], {"taste": np.zeros((1, 0))}, event_times=THEN)
    assert again.duplicate_count == 1
    row["amount"] = 1.0
    client.features.write("corrected", ["ada"], {"amount": [np.nan]}, event_times=THEN + 1)
    other_bits = np.array([np.nan]).view(np.int64) | 1
    again = client.features.write("corrected", ["ada"], {"amount": other_bits.view(np.float64)}, event_times=THEN + 1)
    assert again.duplicate_count == 1
    assert write() == (1, 1, 0)


def test_an_older_event_never_overwrites_a_newer_one(client: penstock.Client, view: str) -> None:
    client.features.write(view, ["a"], {"amount": [2.0]}, event_times=THEN)
    late = client.features.write(view, ["a"], {"amount": [1.0]}, event_times=THEN - 1)
    assert (late.written_count, late.late_count) == (1, 1)
    assert amounts(client, view, ["a"]) == [2.0]
    assert [each["amount"] for each in client.features.history(view, "a")] == [2.0, 1.0]


def test_the_same_written_again_is_written_once_and_a_correction_is_kept_beside(
    client: penstock.Client, view: str
) -> None:
    for _ in range(2):
        done = client.features.write(view, ["a", "b"], {"amount": [1.0, None]}, event_times=THEN)
    assert (done.written_count, done.duplicate_count) == (0, 2)
    client.features.write(view, ["a"], {"amount": [5.0]}, event_times=THEN)
    assert amounts(client, view, ["a", "b"]) == [5.0, None]
    assert [each["amount"] for each in client.features.history(view, "a")] == [5.0, 1.0]


def test_a_correction_that_came_later_does_not_leak_into_the_past(client: penstock.Client, view: str) -> None:
    client.features.load(
        view, ["a", "a"], {"amount": [1.0, 9.0]}, event_times=[THEN, THEN], create_times=[THEN + DAY, THEN + 3 * DAY]
    )
    times = [THEN + DAY - 1, THEN + DAY, THEN + 3 * DAY - 1, THEN + 3 * DAY]
    (block,) = client.features.get_as_of(view, ["a"] * 4, times)
    assert [row["amount"] for row in block[view].rows()] == [None, 1.0, 1.0, 9.0]
    (block,) = client.features.get_as_of(view, ["a"] * 2, [THEN - 1, THEN], known_time=THEN + 2 * DAY)
    assert [row["amount"] for row in block[view].rows()] == [None, 1.0]


def test_what_is_older_than_its_ttl_is_expired_now_and_then(client: penstock.Client) -> None:
    client.features.create_view("fading", entity="customer", features={"amount": "float64"}, ttl_ms=DAY // 1_000)
    client.features.load("fading", ["a"], {"amount": [1.0]}, event_times=[THEN], create_times=[THEN])
    assert client.features.get("fading", ["a"])["fading"].statuses == ["EXPIRED"]
    assert amounts(client, "fading", ["a"]) == [None]
    (block,) = client.features.get_as_of("fading", ["a"] * 2, [THEN + DAY, THEN + DAY + 1])
    assert block["fading"].statuses == ["PRESENT", "EXPIRED"]
    client.features.update_view("fading", ttl_ms=0)
    assert amounts(client, "fading", ["a"]) == [1.0]


def test_other_features_are_another_version_beside_the_first(client: penstock.Client) -> None:
    first = client.features.create_view("versions", entity="customer", features={"amount": "float64"})
    client.features.write("versions", ["a"], {"amount": [1.0]})
    again = client.features.create_view("versions", entity="customer", features={"amount": "float64"})
    second = client.features.create_view("versions", entity="customer", features={"amount": "int64"})
    assert (first.version, again.version, second.version) == (1, 1, 2)
    client.features.write("versions@2", ["a"], {"amount": [2]})
    assert client.features.get(["versions@1"], ["a"])["versions"].columns["amount"].tolist() == [1.0]
    assert client.features.get("versions", ["a"])["versions"].version == 2
    client.features.delete_view("versions", 2)
    assert amounts(client, "versions", ["a"]) == [1.0]
    third = client.features.create_view("versions", entity="customer", features={"amount": "bool"})
    assert third.version == 3
    assert [each.version for each in client.features.list_views(name="versions", page_size=1)] == [3, 1]


def test_who_answers_for_a_view_is_kept_and_can_be_changed(client: penstock.Client) -> None:
    made = client.features.create_view("owned", entity="customer", features={"amount": "float64"}, owner="sales")
    assert (made.owner, client.features.get_view("owned").owner) == ("sales", "sales")
    assert client.features.update_view("owned", description="what was paid").owner == "sales"
    assert client.features.update_view("owned", owner="finance").owner == "finance"
    assert [each.owner for each in client.features.list_views(name="owned")] == ["finance"]


def test_deleted_entities_leave_nothing_behind(client: penstock.Client, view: str) -> None:
    client.features.write(view, ["a", "b"], {"amount": [1.0, 2.0]}, event_times=THEN)
    assert client.features.delete(view, ["a", "nobody"]) == 1
    assert list(client.features.history(view, "a")) == []
    assert amounts(client, view, ["a", "b"]) == [None, 2.0]


def test_what_cannot_be_is_refused_with_its_field(client: penstock.Client, view: str) -> None:
    def reason(call: Any, *given: Any, **more: Any) -> str:
        with pytest.raises((InvalidArgument, NotFound, FailedPrecondition)) as refused:
            call(*given, **more)
        return refused.value.reason

    write, ahead = client.features.write, int(datetime.now(UTC).timestamp() * 1_000_000) + 3_600_000_000
    assert reason(write, view, ["a"], {"income": [1.0]}) == "UNKNOWN_FEATURE"
    assert reason(write, view, ["a", "b"], {"amount": [1.0]}) == "RAGGED"
    assert reason(write, view, ["a"], {"amount": ["x"]}) == "WRONG_TYPE"
    assert reason(write, view, [""], {"amount": [1.0]}) == "INVALID_NAME"
    assert reason(write, view, ["a"], {"amount": [1.0]}, event_times=ahead) == "INVALID_TIME"
    assert reason(write, view, ["a"] * 10_001, {}) == "TOO_MANY"
    assert reason(write, "nothing", ["a"], {}) == "VIEW_NOT_FOUND"
    assert reason(client.features.get, f"{view}@7", ["a"]) == "VIEW_VERSION_NOT_FOUND"
    assert reason(client.features.get, {view: ["income"]}, ["a"]) == "UNKNOWN_FEATURE"
    make = client.features.create_view
    assert reason(make, "a b", entity="customer", features={"x": "bool"}) == "INVALID_NAME"
    assert reason(make, "x", entity="customer", features={}) == "NO_FEATURES"
    assert reason(make, "x", entity="customer", features={"X": "bool"}) == "INVALID_NAME"
    assert reason(make, view, entity="shop", features={"amount": "float64"}) == "ENTITY_CHANGED"


def test_nothing_of_a_write_that_fails_is_kept(client: penstock.Client, view: str, tmp_path: Path) -> None:
    ahead = int(datetime.now(UTC).timestamp() * 1_000_000) + 3_600_000_000
    with pytest.raises(InvalidArgument):
        client.features.write(view, ["a", "b"], {"amount": [1.0, 2.0]}, event_times=[THEN, ahead])
    assert amounts(client, view, ["a", "b"]) == [None, None]

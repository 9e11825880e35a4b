"""Samples of what was written of a view, through the SDK, the registry's process and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import penstock
from penstock.errors import InvalidArgument, NotFound
from penstock.feature_samples import FeatureSample
from tests.postgres import PostgresServer
from tests.services import running_registry

THEN = 1_700_000_000_000_000
HOUR = 3_600_000_000


@pytest.fixture(scope="module")
def client(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[penstock.Client]:
    """A feature store with a view of 1,000 entities, three rows of each, an hour apart."""
    folder = tmp_path_factory.mktemp("samples")
    with (
        running_registry(postgres_server.clone("registry"), folder) as registry,
        penstock.Client(registry=registry.address) as made,
    ):
        kinds = {"amount": "float64", "city": "string", "taste": "float64_list"}
        made.features.create_view("v", entity="customer", features=kinds)
        keys = [f"k{number}" for number in range(1_000)]
        for hour in range(3):
            amounts = (np.arange(1_000.0) + hour).tolist()
            made.features.load(
                "v", keys, {"amount": amounts, "city": ["Bern"] * 1_000}, event_times=[THEN + hour * HOUR] * 1_000
            )
        yield made


def rows_of(samples: list[FeatureSample]) -> dict[tuple[str, int], float]:
    return {
        (key, time): amount
        for sample in samples
        for key, time, amount in zip(
            sample.values.keys,
            sample.values.event_times_us.tolist(),
            sample.values.columns["amount"].tolist(),
            strict=True,
        )
    }


def test_all_rows_of_a_window_come_where_they_fit(client: penstock.Client) -> None:
    found = list(client.features.sample("v", from_time=THEN, to_time=THEN + 2 * HOUR))
    rows = rows_of(found)
    assert rows == {(f"k{number}", THEN + hour * HOUR): number + hour for number in range(1_000) for hour in (0, 1)}
    assert {(each.window_row_count, each.share, each.values.version) for each in found} == {(2_000, 1.0, 1)}
    assert found[0].values.columns["city"][0] == "Bern"
    assert all(each.values.missing["taste"].all() for each in found)
    assert len(found[0].values.keys) == 2_000


def test_a_sample_has_all_rows_of_some_entities_the_same_in_each_window(client: penstock.Client) -> None:
    whole = list(client.features.sample("v", from_time=THEN, to_time=THEN + 3 * HOUR, max_rows=900))
    rows = rows_of(whole)
    keys = {key for key, _ in rows}
    assert 700 < len(rows) <= 900
    assert len(rows) == 3 * len(keys), "an entity has all of its rows, or none"
    assert whole[0].window_row_count == 3_000
    assert abs(whole[0].share - len(rows) / 3_000) < 0.05
    part = rows_of(list(client.features.sample("v", from_time=THEN, to_time=THEN + HOUR, max_rows=300)))
    smaller, larger = sorted(({key for key, _ in part}, keys), key=len)
    assert smaller <= larger


def test_of_each_event_the_latest_correction_counts(client: penstock.Client) -> None:
    client.features.create_view("corrected", entity="customer", features={"amount": "float64"})
    for amount in (1.0, 2.0):
        client.features.write("corrected", ["a"], {"amount": [amount]}, event_times=THEN)
    (sample,) = client.features.sample("corrected", from_time=THEN, to_time=THEN + 1)
    assert sample.values.columns["amount"].tolist() == [2.0]


def test_a_window_without_rows_gives_an_empty_block(client: penstock.Client) -> None:
    (sample,) = client.features.sample("v", from_time=0, to_time=1)
    assert (list(sample.values.keys), sample.window_row_count, sample.values.version) == ([], 0, 1)


def test_what_cannot_be_taken_is_refused(client: penstock.Client) -> None:
    for begin, end, most, reason in (
        (THEN, THEN, 0, "INVALID_TIME"),
        (THEN, THEN + 1, 200_001, "OUT_OF_BOUNDS"),
        (THEN, THEN + 1, -1, "OUT_OF_BOUNDS"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            list(client.features.sample("v", from_time=begin, to_time=end, max_rows=most))
        assert refused.value.reason == reason
    client.features.create_view("one", entity="customer", features={"amount": "float64"})
    client.features.load("one", ["a"] * 3, {"amount": [1.0] * 3}, event_times=[THEN, THEN + 1, THEN + 2])
    with pytest.raises(InvalidArgument) as large:
        list(client.features.sample("one", from_time=THEN, to_time=THEN + 9, max_rows=2))
    assert large.value.reason == "TOO_MANY"
    with pytest.raises(NotFound) as missing:
        list(client.features.sample("nowhere", from_time=THEN, to_time=THEN + 1))
    assert missing.value.reason == "VIEW_NOT_FOUND"

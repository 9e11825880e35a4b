"""Features that are computed, through the SDK, the registry's process and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import penstock
from penstock.errors import InvalidArgument
from tests.postgres import PostgresServer
from tests.services import running_registry

THEN = 1_700_000_000_000_000
DAY = 86_400_000_000


@pytest.fixture(scope="module")
def client(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[penstock.Client]:
    folder = tmp_path_factory.mktemp("features")
    with (
        running_registry(postgres_server.clone("registry"), folder) as registry,
        penstock.Client(registry=registry.address) as made,
    ):
        made.features.create_view(
            "spending",
            entity="customer",
            features={
                "amount": "float64", "share": "float64", "visits": "int64", "per_visit": "float64", "city": "string",
                "place": "string", "age_days": "int64", "taste": "float64_list", "fit": "float64",
            },
            expressions={
                "per_visit": "amount / visits",
                "place": 'upper(coalesce(city, "nowhere"))',
                "share": "coalesce(amount, 0) / basket",
                "age_days": "(read_time() - event_time()) // days(1)",
                "fit": "dot(taste, item)",
            },
            on_read=["share", "age_days", "fit"],
            request_values={"basket": "float64", "item": "float64_list"},
        )  # fmt: skip
        yield made


def test_what_is_computed_on_write_is_kept_and_read_as_others(client: penstock.Client) -> None:
    rows: dict[str, Any] = {"amount": [10.0, 4.0, None], "visits": [4, 0, 1], "city": ["Basel", None, ""]}
    client.features.write("spending", ["ada", "bob", "cyd"], rows, event_times=THEN)
    found = client.features.get({"spending": ["place", "per_visit"]}, ["ada", "bob", "cyd"])["spending"]
    assert list(found.columns) == ["place", "per_visit"]
    assert list(found.rows()) == [
        {"place": "BASEL", "per_visit": 2.5}, {"place": "NOWHERE", "per_visit": np.inf},
        {"place": "", "per_visit": None},
    ]  # fmt: skip
    assert client.features.write("spending", ["ada"], {n: v[:1] for n, v in rows.items()}, event_times=THEN)
    (row,) = client.features.history("spending", "ada")
    assert (row["per_visit"], row["place"]) == (2.5, "BASEL")
    assert not {"share", "age_days", "fit"} & row.keys()


def test_what_is_computed_on_read_takes_the_requests_values(client: penstock.Client) -> None:
    client.features.write("spending", ["dan"], {"amount": [10.0], "taste": [[1.0, 2.0]]}, event_times=THEN)
    brought: dict[str, Any] = {"basket": [40, 5], "item": [[3.0, 4.0], [3.0, 4.0]]}
    before = _age_days()
    found = client.features.get("spending", ["dan", "nobody"], request_values=brought)["spending"]
    dan, nobody = found.rows()
    assert (dan["share"], dan["fit"]) == (0.25, 11.0)
    assert before <= dan["age_days"] <= _age_days()
    assert (nobody["share"], nobody["fit"], nobody["age_days"]) == (0.0, None, None)
    assert list(found.columns)[:2] == ["amount", "share"]
    (without,) = client.features.get({"spending": ["share"]}, ["dan"])["spending"].rows()
    assert without == {"share": None}


def _age_days() -> int:
    return int(datetime.now(UTC).timestamp() * 1_000_000 - THEN) // DAY


def test_a_read_as_of_a_time_computes_with_that_time(client: penstock.Client) -> None:
    client.features.load("spending", ["eve"], {"amount": [8.0]}, event_times=[THEN], create_times=[THEN])
    times = [THEN - 1, THEN, THEN + 3 * DAY]
    (block,) = client.features.get_as_of("spending", ["eve"] * 3, times, request_values={"basket": [2.0, 4.0, None]})
    rows = [(row["amount"], row["share"], row["age_days"]) for row in block["spending"].rows()]
    assert rows == [(None, 0.0, None), (8.0, 2.0, 0), (8.0, None, 3)]


def test_other_expressions_are_another_version(client: penstock.Client) -> None:
    def make(expression: str) -> int:
        features, expressions = {"a": "float64", "b": "float64"}, {"b": expression}
        return client.features.create_view("doubled", entity="x", features=features, expressions=expressions).version

    assert [make("a * 2"), make("a * 2"), make("a * 3")] == [1, 1, 2]
    assert client.features.get_view("doubled", 1).features[1].expression == "a * 2"


@pytest.mark.parametrize(
    ("columns", "reason"),
    [({"per_visit": [1.0]}, "COMPUTED_FEATURE"), ({"share": [1.0]}, "COMPUTED_FEATURE")],
)
def test_what_is_computed_is_not_written(client: penstock.Client, columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        client.features.write("spending", ["ada"], columns)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("brought", "reason"),
    [
        ({"bucket": [1.0]}, "UNKNOWN_REQUEST_VALUE"),
        ({"basket": ["x"]}, "WRONG_TYPE"),
        ({"item": [1.0]}, "WRONG_TYPE"),
        ({"basket": [1.0, 2.0]}, "RAGGED"),
        ({"basket": [1.0, "x"]}, "WRONG_TYPE"),
        ({"item": [[0.0] * 4_097]}, "OUT_OF_BOUNDS"),
    ],
)
def test_request_values_that_do_not_fit_are_refused(
    client: penstock.Client, brought: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        client.features.get("spending", ["ada"], request_values=brought)
    assert refused.value.reason == reason


def test_an_expression_that_cannot_be_is_refused_with_its_feature(client: penstock.Client) -> None:
    with pytest.raises(InvalidArgument) as refused:
        client.features.create_view(
            "wrong", entity="x", features={"a": "float64", "b": "float64"}, expressions={"b": "a +"}
        )
    assert (refused.value.reason, refused.value.violations[0].field) == (
        "INVALID_EXPRESSION", "view.features[1].expression",
    )  # fmt: skip

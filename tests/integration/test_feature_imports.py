"""Features from files and queries that the service reads itself: a real registry, PostgreSQL and S3."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pyarrow
import pytest
from pyarrow import parquet
from pydantic import SecretStr

import penstock
from penstock.api.features.v1 import features_pb2 as pb
from penstock.errors import FailedPrecondition, InvalidArgument, NotFound, PenstockError, ResourceExhausted
from penstock.features import SourceColumns
from services.registry.__main__ import build as build_registry
from services.registry.settings import RegistrySettings
from tests.bigquery_api import Query, Warehouse, bigquery_api
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.s3 import S3Bucket, s3_server
from tests.services import running

pytestmark = pytest.mark.slow
KINDS = {
    "amount": "float64", "visits": "int64", "member": "bool", "city": "string", "taste": "float64_list",
    "since": "timestamp",
}  # fmt: skip
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AT_US = 1_767_323_045_000_000


@dataclass(frozen=True)
class Place:
    """A registry that may read a folder, a bucket, a database of its own and a project of BigQuery."""

    client: penstock.Client
    folder: Path
    outside: Path
    bucket: S3Bucket
    shop: str
    warehouse: Warehouse

    def ran(self, coming: Iterator[pb.ImportFeatureSourceResponse]) -> pb.ImportFeatureSourceResponse:
        """Follow an import to its end."""
        *_, last = coming
        assert last.done
        return last

    def file(self, name: str) -> str:
        return f"file://{self.folder / name}"


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, outside = tmp_path_factory.mktemp("allowed"), tmp_path_factory.mktemp("outside")
    shop, connections = postgres_server.empty(), tmp_path_factory.mktemp("settings") / "connections.json"
    connections.write_text(json.dumps({"shop": shop, "gone": "postgresql://nobody@127.0.0.1:1/none"}))
    with s3_server(tmp_path_factory.mktemp("s3")) as server, bigquery_api() as warehouse:
        bucket = server.make_bucket()
        with (
            running(
                build_registry,
                RegistrySettings(
                    port=0,
                    metrics_port=0,
                    database_url=SecretStr(postgres_server.clone("registry")),
                    feature_roots=frozenset({f"file://{folder}", f"s3://{bucket.name}/in"}),
                    feature_connections_file=connections,
                    feature_bigquery_projects=frozenset({"shop-project"}),
                    feature_bigquery_endpoint=warehouse.address,
                    feature_imports=1,
                    feature_max_import_rows=50_000,
                    feature_max_import_bytes=1_000_000,
                    blob_url=bucket.url,
                    blob_access_key=SecretStr(server.access_key),
                    blob_secret_key=SecretStr(server.secret_key),
                ),
            ) as registry,
            penstock.Client(registry=registry.address) as client,
        ):
            yield Place(client, folder, outside, bucket, shop, warehouse)


@pytest.fixture
def view(place: Place, request: pytest.FixtureRequest) -> str:
    name: str = request.node.name[:60].replace("[", "-").rstrip("]")
    place.client.features.create_view(name, entity="customer", features=KINDS)
    return name


ROWS: list[dict[str, Any]] = [
    {
        "customer": "ada", "event_time": AT, "amount": 12.5, "visits": 3, "member": True, "city": "", "taste": [1, 2.5],
        "since": date(2020, 1, 1),
    },
    {"customer": "bob", "event_time": AT},
]  # fmt: skip
ADA = {
    "amount": 12.5, "visits": 3, "member": True, "city": "", "taste": [1.0, 2.5], "since": 1_577_836_800_000_000,
}  # fmt: skip


def check(place: Place, view: str, done: pb.ImportFeatureSourceResponse) -> None:
    assert (done.row_count, done.written_count) == (2, 2)
    read = place.client.features.get(view, ["ada", "bob"])[view]
    ada, bob = read.rows()
    assert ada == ADA
    assert set(bob.values()) == {None}
    assert read.event_times_us.tolist() == [AT_US, AT_US]


def test_a_parquet_file_is_imported_once_however_often_it_is_asked(place: Place, view: str) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), place.folder / "rows.parquet")
    check(place, view, place.ran(place.client.features.import_file(view, place.file("rows.parquet"))))
    again = place.ran(place.client.features.import_file(view, place.file("rows.parquet")))
    assert (again.row_count, again.written_count, again.duplicate_count) == (2, 0, 2)


def test_a_csv_file_is_imported(place: Place, view: str) -> None:
    (place.folder / "rows.csv").write_text(
        "who,at,amount,visits,member,city,taste,since,note\n"
        'ada,2026-01-02T03:04:05Z,12.5,3,true,"","[1, 2.5]",2020-01-01T00:00:00Z,"x\ny"\n'
        "bob,2026-01-02T03:04:05Z,,,,,,,\n"
    )
    columns = SourceColumns(key="who", event_time="at", ignored=["note"])
    check(place, view, place.ran(place.client.features.import_file(view, place.file("rows.csv"), columns=columns)))


def test_an_object_is_imported(place: Place, view: str, tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    place.bucket.server.client().fput_object(place.bucket.name, "in/rows", str(tmp_path / "rows.parquet"))
    uri = f"s3://{place.bucket.name}/in/rows"
    check(place, view, place.ran(place.client.features.import_file(view, uri, file_format="parquet")))


def test_a_query_is_imported(place: Place, view: str) -> None:
    with psycopg.connect(place.shop) as connection:
        connection.execute("CREATE TABLE spending (customer text, at timestamptz, amount numeric, taste float8[])")
        connection.execute(
            "INSERT INTO spending VALUES ('ada', %s, %s, '{1,2.5}'), ('bob', %s, NULL, NULL)", (AT, Decimal("12.5"), AT)
        )
    query = """
        SELECT customer, at AS event_time, amount, taste, nullif(amount * 0 + 3, NULL)::int AS visits,
            amount > 1 AS member, left(customer, 0) AS city, CASE WHEN amount > 1 THEN date '2020-01-01' END AS since
        FROM spending WHERE customer = 'ada' UNION ALL SELECT 'bob', at, NULL, NULL, NULL, NULL, NULL, NULL
        FROM spending WHERE customer = 'bob' -- that is all;
    """
    check(place, view, place.ran(place.client.features.import_query(view, "shop", query)))


def test_a_query_of_bigquery_is_imported_once(place: Place, view: str) -> None:
    types = {"amount": "NUMERIC", "visits": "INTEGER", "member": "BOOLEAN", "city": "STRING", "taste": "FLOAT[]"}
    columns = {"customer": "STRING", "event_time": "TIMESTAMP", **types, "since": "DATE"}
    rows = [[row.get(name, [] if name == "taste" else None) for name in columns] for row in ROWS]
    place.warehouse.queries["SELECT * FROM sales.spending"] = Query(columns, rows)
    sql = "SELECT * FROM sales.spending;"
    check(place, view, place.ran(place.client.features.import_bigquery(view, "shop-project", sql)))
    again = place.ran(place.client.features.import_bigquery(view, "shop-project", sql))
    assert (again.written_count, again.duplicate_count) == (0, 2)
    error = refusal(lambda: place.client.features.import_bigquery(view, "other-project", sql))
    assert (type(error), error.reason) == (FailedPrecondition, "PROJECT_NOT_ALLOWED")
    for project, text in (("", sql), ("shop-project", " ;")):
        error = refusal(partial(place.client.features.import_bigquery, view, project, text))
        assert (type(error), error.reason) == (InvalidArgument, "OUT_OF_BOUNDS")


def has_room(place: Place, view: str) -> bool | None:
    try:
        return place.ran(place.client.features.import_query(view, "shop", "SELECT 'a' AS customer")).done
    except ResourceExhausted:
        return None


def test_a_query_of_bigquery_that_nobody_waits_for_is_cancelled(place: Place, view: str) -> None:
    place.warehouse.queries["endless"] = Query({"customer": "STRING"}, endless=True)
    coming = place.client.features.import_bigquery(view, "shop-project", "endless")
    assert next(each.row_count for each in coming if place.warehouse.runs("endless")) == 0
    coming.close()
    place.warehouse.wait_cancelled()
    assert wait_until(partial(has_room, place, view))


def test_blocks_are_counted_as_they_come(place: Place, view: str) -> None:
    query = "SELECT number::text AS customer, number::float8 AS amount FROM generate_series(1, 20000) AS number"
    reached = list(place.client.features.import_query(view, "shop", query))
    counts = [each.row_count for each in reached]
    assert counts == sorted(counts)
    assert {8_192, 16_384, 20_000} <= set(counts)
    assert [each.done for each in reached] == [False] * (len(reached) - 1) + [True]
    assert place.client.features.get(view, ["20000"])[view].columns["amount"].tolist() == [20_000.0]


def refusal(call: Callable[[], Any]) -> PenstockError:
    with pytest.raises(PenstockError) as refused:
        list(call())
    return refused.value


@pytest.mark.parametrize(
    ("query", "reason", "words"),
    [
        ("SELECT 1", "UNKNOWN_COLUMN", "there is no column 'customer'"),
        ("SELECT 'a' AS customer, 1 AS income", "UNKNOWN_FEATURE", "no feature 'income'"),
        ("SELECT 'a' AS customer, 'x' AS amount", "WRONG_TYPE", "row 1, column 'amount': str is no number"),
        ("SELECT 'a' AS customer, 1.5 AS visits", "WRONG_TYPE", "Decimal is no whole number"),
        ("SELECT 'a' AS customer, repeat('x', 20000) AS city", "OUT_OF_BOUNDS", "16,384 bytes"),
        ("SELECT NULL::text AS customer", "MISSING_VALUE", "each row needs its entity"),
        ("SELECT repeat('x', 300) AS customer", "INVALID_NAME", "1 to 256 characters"),
        ("SELECT 'a' AS customer, 'infinity'::timestamptz AS event_time", "QUERY_FAILED", "the database says"),
        ("SELECT 'a' AS customer, 1/0 AS visits", "QUERY_FAILED", "division by zero"),
        ("SELECT * FROM nowhere", "QUERY_FAILED", 'relation "nowhere" does not exist'),
        ("CREATE TABLE made (x int)", "QUERY_FAILED", "syntax error"),
        ("SELECT 1) AS x; CREATE TABLE made (x int); SELECT (1", "QUERY_FAILED", "cannot insert multiple commands"),
        ("SELECT 1) AS x; COMMIT; DROP TABLE spending; SELECT (SELECT 1", "QUERY_FAILED", "multiple commands"),
        ("COPY (SELECT 1) TO PROGRAM 'id'", "QUERY_FAILED", "syntax error"),
        ("SELECT nextval('numbers') AS customer", "QUERY_FAILED", "read-only"),
        ("SELECT set_config('transaction_read_only', 'off', false) AS customer", "QUERY_FAILED", "before any query"),
        ("SELECT 'a' AS customer FROM generate_series(1, 60000)", "TOO_LARGE", "49,152 are written"),
        ("", "OUT_OF_BOUNDS", "one SELECT"),
    ],
)
def test_a_query_that_does_not_do_is_refused(place: Place, query: str, reason: str, words: str) -> None:
    place.client.features.create_view("refusing", entity="customer", features=KINDS)
    with psycopg.connect(place.shop) as connection:
        connection.execute("CREATE SEQUENCE IF NOT EXISTS numbers")
    error = refusal(lambda: place.client.features.import_query("refusing", "shop", query))
    assert (error.reason, words in error.message) == (reason, True), error.message
    with psycopg.connect(place.shop) as connection:
        assert connection.execute("SELECT to_regclass('made')").fetchone() == (None,)


def test_databases_are_named_by_the_settings_alone(place: Place, view: str) -> None:
    error = refusal(lambda: place.client.features.import_query(view, place.shop, "SELECT 1"))
    assert (type(error), error.reason) == (InvalidArgument, "UNKNOWN_CONNECTION")
    assert "it names gone, shop" in error.message
    error = refusal(lambda: place.client.features.import_query(view, "gone", "SELECT 1"))
    assert error.reason == "INPUT_UNAVAILABLE"
    assert "127.0.0.1" not in error.message


@pytest.mark.parametrize(
    ("name", "content", "reason", "words"),
    [
        ("no.parquet", b"nothing of the kind", "MALFORMED_FILE", "cannot be read as parquet"),
        ("empty.parquet", b"", "MALFORMED_FILE", "cannot be read as parquet"),
        ("number.csv", b"customer,amount\na,1\nb,x\n", "MALFORMED_FILE", "invalid value 'x'"),
        ("large.csv", b"customer,amount\n" + b"a,1\n" * 250_000, "TOO_LARGE", "1,000,000 bytes"),
        ("binary.csv", bytes(range(256)) * 10, "MALFORMED_FILE", "cannot be read"),
    ],
)
def test_a_file_that_does_not_do_is_refused(place: Place, name: str, content: bytes, reason: str, words: str) -> None:
    place.client.features.create_view("refusing", entity="customer", features=KINDS)
    (place.folder / name).write_bytes(content)
    error = refusal(lambda: place.client.features.import_file("refusing", place.file(name)))
    assert (error.reason, words in error.message) == (reason, True), error.message


def test_nothing_else_is_read(place: Place, view: str) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), place.outside / "rows.parquet")
    (place.folder / "link.parquet").symlink_to(place.outside / "rows.parquet")
    for uri in (
        f"file://{place.outside}/rows.parquet",
        f"file://{place.folder}/../{place.outside.name}/rows.parquet",
        place.file("link.parquet"),
        f"s3://{place.bucket.name}/rows.parquet",
        "https://example.org/rows.parquet",
    ):
        error = refusal(partial(place.client.features.import_file, view, uri))
        assert error.reason == "URI_NOT_ALLOWED", uri
    error = refusal(lambda: place.client.features.import_file(view, place.file("absent.csv")))
    assert (type(error), error.reason) == (NotFound, "INPUT_NOT_FOUND")
    error = refusal(lambda: place.client.features.import_file(view, place.file("rows.txt")))
    assert error.reason == "FORMAT_REQUIRED"


def test_an_import_that_nobody_waits_for_ends_and_makes_room(place: Place, view: str) -> None:
    query = "SELECT number::text AS customer, pg_sleep(600) IS NULL AS member FROM generate_series(1, 9) AS number"
    coming = place.client.features.import_query(view, "shop", query)
    assert next(coming).row_count == 0
    error = refusal(lambda: place.client.features.import_query(view, "shop", "SELECT 'a' AS customer"))
    assert (type(error), error.reason) == (ResourceExhausted, "TOO_MANY_IMPORTS")
    coming.close()

    def quiet() -> bool | None:
        look = "SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%rows_to_import'"
        with psycopg.connect(place.shop) as connection:
            return connection.execute(look).fetchone() is None or None

    wait_until(quiet)
    assert wait_until(partial(has_room, place, view))


def test_a_few_bytes_that_stand_for_gigabytes_hurt_nobody(place: Place, view: str) -> None:
    text = pyarrow.array(["x" * 1_000_000])
    many = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 8_000, pyarrow.int32()), text)
    table = pyarrow.table({"customer": ["a"] * 8_000, "city": many})
    parquet.write_table(table, place.folder / "bomb.parquet", store_schema=False)
    assert (place.folder / "bomb.parquet").stat().st_size < 1_000_000
    error = refusal(lambda: place.client.features.import_file(view, place.file("bomb.parquet")))
    assert error.reason in ("TOO_LARGE", "MALFORMED_FILE")
    assert place.client.features.get(view, ["a"])[view].statuses == ["ABSENT"]

"""Queries of BigQuery: Google's own client before a stand-in for the API."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import SecretStr, ValidationError

from services.common.errors import DomainError, FailedPrecondition, InvalidArgument, Unavailable
from services.registry.features.imports.bigquery_access import BigQueryAccess
from services.registry.features.imports.models import BigQuerySource, Block, SourceColumns
from services.registry.features.models import Feature, FeatureType, View
from services.registry.settings import RegistrySettings
from tests.bigquery_api import TOKEN, Query, Warehouse, bigquery_api
from tests.certificates import Authority

PROJECT = "shop-project"
MOST_BYTES = 1_000_000
KINDS = {
    "amount": FeatureType.FLOAT64, "visits": FeatureType.INT64, "member": FeatureType.BOOL,
    "city": FeatureType.STRING, "taste": FeatureType.FLOAT64_LIST, "since": FeatureType.TIMESTAMP,
}  # fmt: skip
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
VIEW = View(1, "spending", 1, "customer", tuple(Feature(*each) for each in KINDS.items()), 0, "", "", {}, "", AT, AT)
AMOUNTS = {"customer": "STRING", "amount": "FLOAT"}


@pytest.fixture(scope="module")
def api() -> Iterator[Warehouse]:
    with bigquery_api() as made:
        yield made


@pytest.fixture
def warehouse(api: Warehouse) -> Warehouse:
    api.forget()
    return api


def access(address: str | None, credentials_file: Path | None = None) -> BigQueryAccess:
    return BigQueryAccess(frozenset({PROJECT, "open-project"}), credentials_file, address, MOST_BYTES)


def read(given: BigQueryAccess, timeout_ms: int = 60_000) -> list[Block]:
    """Read what `a query` gives."""
    reading = given.reading(BigQuerySource(PROJECT, "a query"), timeout_ms=timeout_ms)
    return list(reading.blocks(VIEW, SourceColumns("customer"), 7))


def test_every_type_becomes_what_the_view_has(warehouse: Warehouse) -> None:
    kinds = ("STRING", "TIMESTAMP", "NUMERIC", "INTEGER", "BOOLEAN", "STRING", "FLOAT[]", "DATE")
    warehouse.queries["a query"] = Query(
        dict(zip(("customer", "event_time", *KINDS), kinds, strict=True)),
        [
            ["ada", AT, Decimal("12.5"), 3, True, "", [1.0, 2.5], date(2020, 1, 1)],
            ["bob", AT, None, None, None, None, [], None],
        ],
    )
    (block,) = read(access(warehouse.address))
    assert block.rows.keys == ["ada", "bob"]
    assert block.rows.event_times.tolist() == [1_767_323_045_000_000] * 2
    columns = block.rows.columns
    assert [columns[name].values.tolist()[0] for name in KINDS if name != "taste"] == [
        12.5, 3, True, "", 1_577_836_800_000_000,
    ]  # fmt: skip
    assert list(columns["taste"].values[0]) == [1.0, 2.5]
    assert {each: column.missing.tolist() for each, column in columns.items()} == {
        each: [False, True] for each in KINDS
    }


def test_what_a_query_may_take_is_said_where_it_runs(warehouse: Warehouse) -> None:
    warehouse.queries["a query"] = Query(AMOUNTS, [["ada", "NaN"]])
    read(access(warehouse.address), timeout_ms=5_000)
    (job,) = warehouse.jobs.values()
    assert job["configuration"]["query"]["maximumBytesBilled"] == str(MOST_BYTES)
    assert job["configuration"]["jobTimeoutMs"] == "5000"
    assert {credentials for *_, credentials in warehouse.asked} == {""}, "over http:// nobody's are sent"


def test_a_result_is_read_page_by_page_and_through_hiccups(warehouse: Warehouse) -> None:
    warehouse.queries["a query"] = Query(AMOUNTS, [[str(number), float(number)] for number in range(10_000)])
    warehouse.page_rows, warehouse.broken = 4_000, 2
    blocks = read(access(warehouse.address))
    assert [len(block.rows.keys) for block in blocks] == [4_000, 4_000, 2_000]
    assert blocks[2].rows.columns["amount"].values[-1] == 9_999.0


@pytest.mark.parametrize(
    ("query", "kind", "reason", "words"),
    [
        (Query(statement="SCRIPT"), InvalidArgument, "QUERY_FAILED", "one SELECT is allowed, and this is SCRIPT"),
        (Query(statement="DELETE"), InvalidArgument, "QUERY_FAILED", "statements that write are never run"),
        (Query(tables=["alien.a.b"]), FailedPrecondition, "PROJECT_NOT_ALLOWED", "'alien'; it allows open-project, sh"),
        (
            Query(size_bytes=MOST_BYTES + 1),
            InvalidArgument,
            "TOO_LARGE",
            "would read 1,000,001 bytes; PENSTOCK_FEATURE",
        ),
        (Query({"income": "FLOAT"}), InvalidArgument, "UNKNOWN_COLUMN", "there is no column 'customer'"),
        (
            Query({"customer": "STRING", "x": "FLOAT"}),
            InvalidArgument,
            "UNKNOWN_FEATURE",
            "the view has no feature 'x'",
        ),
        (Query(refusal=(400, "invalidQuery", "Syntax error")), InvalidArgument, "QUERY_FAILED", "says: Syntax error"),
        (Query(refusal=(403, "accessDenied", "Access Denied")), InvalidArgument, "QUERY_FAILED", "Access Denied"),
        (Query(refusal=(404, "notFound", "Not found: Table x")), InvalidArgument, "QUERY_FAILED", "Not found: Table x"),
        (Query(refusal=(403, "quotaExceeded", "Quota")), Unavailable, "INPUT_UNAVAILABLE", "quotaExceeded"),
        (Query(refusal=(401, "authError", "no")), FailedPrecondition, "CREDENTIALS_UNUSABLE", "operator has to mend"),
    ],
)
def test_what_would_not_do_is_refused_before_it_is_paid_for(
    warehouse: Warehouse, query: Query, kind: type[DomainError], reason: str, words: str
) -> None:
    warehouse.queries["a query"] = query
    with pytest.raises(kind) as refused:
        read(access(warehouse.address))
    assert (refused.value.reason, words in refused.value.message) == (reason, True), refused.value.message
    assert not warehouse.jobs


@pytest.mark.parametrize(
    ("query", "kind", "reason", "words"),
    [
        (Query(AMOUNTS, billed_bytes=MOST_BYTES + 1), InvalidArgument, "TOO_LARGE", "for bytes billed: 1000000"),
        (Query(AMOUNTS, error=("invalidQuery", "Division by 0")), InvalidArgument, "QUERY_FAILED", "Division by 0"),
        (
            Query(AMOUNTS, error=("stopped", "cancelled")),
            InvalidArgument,
            "QUERY_FAILED",
            "took longer than the 60,000",
        ),
        (Query(AMOUNTS, error=("jobBackendError", "sorry")), Unavailable, "INPUT_UNAVAILABLE", "jobBackendError"),
        (Query(AMOUNTS, [["ada", 1.0], [None, 1.0]]), InvalidArgument, "MISSING_VALUE", "row 2, column 'customer'"),
        (Query(AMOUNTS, [["ada", 1.0], ["a\0", 1.0]]), InvalidArgument, "INVALID_NAME", "row 2, column 'customer'"),
        (
            Query({"customer": "STRING", "city": "STRING"}, [["ada", "Bern"], ["bob", "B\0rn"]]),
            InvalidArgument,
            "OUT_OF_BOUNDS",
            "row 2, column 'city'",
        ),
    ],
)
def test_a_query_that_fails_says_why(
    warehouse: Warehouse, query: Query, kind: type[DomainError], reason: str, words: str
) -> None:
    warehouse.queries["a query"] = query
    with pytest.raises(kind) as refused:
        read(access(warehouse.address))
    assert (refused.value.reason, words in refused.value.message) == (reason, True), refused.value.message


def test_a_query_that_takes_too_long_is_cancelled(warehouse: Warehouse) -> None:
    warehouse.queries["a query"] = Query(AMOUNTS, endless=True)
    with pytest.raises(InvalidArgument, match="took longer than the 100 ms"):
        read(access(warehouse.address), timeout_ms=100)
    warehouse.wait_cancelled()


def test_a_warehouse_that_nobody_answers_for_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.registry.features.imports.bigquery_reading.RETRY_S", 0.2)
    with pytest.raises(Unavailable) as refused:
        read(access("http://127.0.0.1:1"))
    assert refused.value.reason == "INPUT_UNAVAILABLE"
    assert "127.0.0.1" not in refused.value.message


def test_a_service_accounts_key_is_used_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.make(tmp_path, "root")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    with bigquery_api(authority.issue("server")) as secured:
        secured.queries["a query"] = Query(AMOUNTS, [["ada", 1.0]])
        (block,) = read(access(secured.address, service_account(tmp_path, f"{secured.address}/token")))
    assert block.rows.keys == ["ada"]
    assert {said for _, path, said in secured.asked if path != "/token"} == {f"Bearer {TOKEN}"}


def service_account(folder: Path, token_uri: str) -> Path:
    key = rsa.generate_private_key(65_537, 2_048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    content = {"type": "service_account", "client_email": "a@b.c", "private_key": key.decode(), "token_uri": token_uri}
    (folder / "key.json").write_text(json.dumps(content))
    return folder / "key.json"


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"private_key": "secret", "client_email": "a@b.c"}'])
def test_credentials_that_are_none_are_not_quoted(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "key.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(FailedPrecondition) as refused:
        read(access("https://localhost:1", file))
    assert refused.value.reason == "CREDENTIALS_UNUSABLE"
    assert "secret" not in refused.value.message
    assert "key.json" not in refused.value.message


def test_without_a_file_the_application_default_credentials_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    with pytest.raises(FailedPrecondition, match="application default credentials") as refused:
        read(access(None))
    assert refused.value.reason == "CREDENTIALS_UNUSABLE"


def test_nothing_is_read_unless_the_settings_say_so() -> None:
    off = BigQueryAccess(frozenset(), None, None, MOST_BYTES)
    with pytest.raises(
        FailedPrecondition, match="an operator names them in PENSTOCK_FEATURE_BIGQUERY_PROJECTS"
    ) as refused:
        off.reading(BigQuerySource(PROJECT, "SELECT 1"), timeout_ms=1)
    assert refused.value.reason == "PROJECT_NOT_ALLOWED"


def test_without_its_extra_the_advice_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "services.registry.features.imports.bigquery_reading", raising=False)
    monkeypatch.setitem(sys.modules, "google.cloud.bigquery", None)
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(FailedPrecondition, match=r"installs the extra penstock\[bigquery\]") as refused:
        read(access(None))
    assert refused.value.reason == "BIGQUERY_NOT_INSTALLED"


@pytest.mark.slow
def test_nobody_else_pays_for_it() -> None:
    script = (
        "import sys, services.registry.__main__; "
        "print([name for name in ('google.cloud', 'google.auth', 'requests') if name in sys.modules])"
    )
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert asked.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("feature_bigquery_endpoint", "https://me:secret@example.org"),
        ("feature_bigquery_endpoint", "file:///etc"),
        ("feature_bigquery_endpoint", "https://example.org/other"),
        ("feature_bigquery_projects", "shop project"),
        ("feature_bigquery_projects", "../alien"),
    ],
)
def test_settings_that_name_no_project_and_no_endpoint_are_refused(name: str, value: str) -> None:
    given: dict[str, Any] = {"database_url": SecretStr("postgresql://x"), "blob_url": "file:///x", name: value}
    with pytest.raises(ValidationError, match=name):
        RegistrySettings(**given)

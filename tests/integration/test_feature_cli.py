"""`penstock feature`, as people type it: a real registry's process and PostgreSQL behind it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from penstock.cli.__main__ import run
from penstock.cli.exits import ExitCode
from tests.postgres import PostgresServer
from tests.services import running_registry

Answer = Callable[..., Any]
DAY = 86_400


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("allowed")


@pytest.fixture(scope="module")
def address(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, allowed: Path) -> Iterator[str]:
    folder, roots = tmp_path_factory.mktemp("features"), frozenset({f"file://{allowed}"})
    with running_registry(postgres_server.clone("registry"), folder, feature_roots=roots) as registry:
        yield registry.address


@pytest.fixture
def feature(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Answer:
    """Run a command; gives its document, or with `said` what it says to people."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_REGISTRY_ADDRESS", address)
    monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)

    def call(*arguments: str, stdin: str = "", exit_code: int = 0, said: bool = False) -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        plain = said or exit_code
        assert run(["feature", *arguments, *([] if plain else ["--json"])]) == exit_code, capsys.readouterr().err
        printed = capsys.readouterr()
        return printed.out + printed.err if plain else json.loads(printed.out)

    return call


@pytest.fixture
def spending(feature: Answer, request: pytest.FixtureRequest) -> str:
    name: str = request.node.name[:60].replace("[", "-").rstrip("]")
    feature(
        "view", "create", name, "--entity", "customer", "--feature", "amount=float64", "--feature", "visits=int64",
        "--feature", "city=string", "--feature", "since=timestamp", "--feature", "taste=float64_list",
        "--feature", "member=bool",
    )  # fmt: skip
    return name


ROW = {
    "customer": "ada", "event_time": "2026-01-02T03:04:05Z", "amount": 12.5, "visits": 3, "city": "Basel",
    "since": "2020-01-01", "taste": [0.5, 1.0], "member": True,
}  # fmt: skip
READ = {
    "amount": 12.5, "visits": 3, "city": "Basel", "since": "2020-01-01T00:00:00Z", "taste": [0.5, 1.0], "member": True,
}  # fmt: skip


def test_a_row_that_is_written_is_read_with_its_age(feature: Answer, spending: str) -> None:
    assert feature("write", spending, json.dumps(ROW))["written_count"] == 1
    ada, bob = feature("get", spending, "ada", "bob")
    assert (ada["status"], ada["event_time"], ada["features"]) == ("present", "2026-01-02T03:04:05Z", READ)
    assert ada["age_s"] > DAY
    assert (bob["status"], bob["event_time"], bob["age_s"]) == ("absent", None, None)
    assert set(bob["features"].values()) == {None}
    table = feature("get", spending, "ada", "bob", said=True)
    assert "PRESENT" in table
    assert "Basel" in table
    assert [each["features"] for each in feature("get", spending, "-", "-c", "city", stdin="ada\n")] == [
        {"city": "Basel"}
    ]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_rows_come_from_files_of_every_format(feature: Answer, spending: str, tmp_path: Path, suffix: str) -> None:
    file, rows = tmp_path / f"rows.{suffix}", [ROW, {"customer": "bob", "event_time": "2026-01-02T03:04:05Z"}]
    if suffix == "csv":
        file.write_text(
            "customer,event_time,amount,visits,city,since,taste,member\n"
            'ada,2026-01-02T03:04:05Z,12.5,3,Basel,2020-01-01,"[0.5, 1.0]",true\n'
            "bob,2026-01-02 03:04:05,,,,,,\n"
        )
    elif suffix == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        file.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    assert feature("write", spending, "--file", str(file))["written_count"] == 2
    assert feature("write", spending, "--file", str(file))["duplicate_count"] == 2
    ada, bob = feature("get", spending, "ada", "bob")
    assert ada["features"] == READ
    assert (bob["status"], bob["event_time"]) == ("present", ada["event_time"])
    assert set(bob["features"].values()) == {None}


def test_corrections_are_in_the_history_and_never_in_the_past(feature: Answer, spending: str) -> None:
    for amount, known in ((1.0, "2026-01-03"), (9.0, "2026-01-05")):
        row = {"customer": "ada", "event_time": "2026-01-02", "known": known, "amount": amount}
        feature("write", spending, json.dumps(row), "--known-time", "known")
    (then,) = feature("get", spending, "ada", "--as-of", "2026-01-04T00:00+00:00")
    assert then["features"]["amount"] == 1.0
    (corrected,) = feature(
        "get", spending, "ada", "--as-of", "2026-01-04T00:00+00:00", "--known", "2026-01-06T00:00+00:00"
    )
    assert corrected["features"]["amount"] == 9.0
    history = feature("history", spending, "ada")
    assert [(each["create_time"][:10], each["amount"]) for each in history] == [("2026-01-05", 9.0), ("2026-01-03", 1)]
    assert feature("delete", spending, "ada", "--yes") == {"deleted_count": 1}
    assert feature("history", spending, "ada") == []


def test_a_file_of_labels_gets_the_features_of_its_times(feature: Answer, spending: str, tmp_path: Path) -> None:
    for day, amount in ((2, 1.0), (4, 2.0)):
        row = {"customer": "ada", "event_time": f"2026-01-0{day}", "known": f"2026-01-0{day}", "amount": amount}
        feature("write", spending, json.dumps(row), "--known-time", "known")
    labels = tmp_path / "labels.csv"
    labels.write_text("customer,bought_at,label\nada,2026-01-03,yes\nada,2026-01-05,no\nbob,2026-01-05,no\n")
    for suffix in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"out.{suffix}"
        arguments = ("join", spending, "--file", str(labels), "--time", "bought_at", "--out", str(out))
        assert feature(*arguments)["row_count"] == 3
        assert feature(*arguments, exit_code=ExitCode.ALREADY_EXISTS)
    assert parquet.read_table(tmp_path / "out.parquet").column("amount").to_pylist() == [1.0, 2.0, None]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["label"], row["amount"]) for row in rows] == [("yes", 1.0), ("no", 2.0), ("no", None)]
    assert "ada,2026-01-03,yes,1.0," in (tmp_path / "out.csv").read_text()
    assert not list(tmp_path.glob("*.partial"))


def test_views_are_made_from_yaml_listed_changed_and_deleted(feature: Answer, tmp_path: Path) -> None:
    file = tmp_path / "view.yaml"
    file.write_text(
        "name: from-yaml\nentity: shop\nttl: 1d\nowner: sales\nlabels: {team: a}\nfeatures:\n"
        "  turnover: float64\n  city: {type: string, description: Where it is}\n"
    )
    made = feature("view", "create", "--file", str(file))
    assert (made["version"], made["ttl_ms"], made["labels"]) == (1, DAY * 1_000, {"team": "a"})
    assert (made["owner"], feature("view", "show", "from-yaml")["owner"]) == ("sales", "sales")
    assert [(each["name"], each["type"], each["description"]) for each in made["features"]] == [
        ("turnover", "float64", ""), ("city", "string", "Where it is"),
    ]  # fmt: skip
    longer = feature("view", "update", "from-yaml", "--ttl", "2d")
    assert (longer["ttl_ms"], longer["owner"]) == (2 * DAY * 1_000, "sales"), "what is not given stays"
    assert feature("view", "update", "from-yaml", "--owner", "finance")["owner"] == "finance"
    (listed,) = feature("view", "list", "--entity", "shop")
    assert (listed["name"], listed["owner"], listed["ttl_ms"]) == ("from-yaml", "finance", 2 * DAY * 1_000)
    by_options = ("--entity", "till", "--feature", "open=bool", "--owner", "the tills")
    assert feature("view", "create", "by-options", *by_options)["owner"] == "the tills"
    assert "Where it is" in feature("view", "show", "from-yaml@1", said=True)
    assert "name the version" in feature("view", "delete", "from-yaml", "--yes", exit_code=2)
    feature("view", "delete", "from-yaml@1", "--yes")
    assert "[VIEW_NOT_FOUND]" in feature("view", "show", "from-yaml", exit_code=ExitCode.NOT_FOUND)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "it is no JSON"),
        ("[1]", "row 1 is no object"),
        ('{"amount": 1}', "there is no column 'customer'"),
        ('{"customer": "a", "amount": "x"}', "row 1, column 'amount': could not convert"),
        ('{"customer": "a", "visits": 1.5}', "1.5 is no whole number"),
        ('{"customer": null, "amount": 1}', "each row needs one"),
        ('{"customer": "a", "income": 1}', "[UNKNOWN_FEATURE]"),
        ('{"customer": "a", "since": "soon"}', "Invalid isoformat string"),
        ('{"customer": "a", "taste": [true]}', "True is no number"),
    ],
)
def test_a_row_that_does_not_fit_is_named(feature: Answer, address: str, row: str, words: str) -> None:
    kinds = [
        f"--feature={name}" for name in ("amount=float64", "visits=int64", "since=timestamp", "taste=float64_list")
    ]
    feature("view", "create", "fitting", "--entity", "customer", *kinds)
    assert words in feature("write", "fitting", row, exit_code=1)
    assert feature("get", "fitting", "a")[0]["status"] == "absent"


def test_a_wrong_view_file_says_every_line_that_is_wrong(feature: Answer, tmp_path: Path) -> None:
    file = tmp_path / "view.yaml"
    file.write_text("name: x\nfeatures:\n  a: number\n  b: {type: bool, computed: later}\nttl: soon\n")
    said = feature("view", "create", "--file", str(file), exit_code=2)
    for words in (":3: features.a: 'number' is not one of", ":4: features.b.computed", ":5: ttl", "needs 'entity'"):
        assert words in said


def test_features_are_computed_with_what_the_reader_brings(feature: Answer, tmp_path: Path) -> None:
    file = tmp_path / "view.yaml"
    file.write_text(
        "name: computed\nentity: customer\nfeatures:\n  amount: float64\n"
        "  doubled: {type: float64, expression: amount * 2}\n"
        "  share: {type: float64, expression: amount / basket, computed: on_read}\nrequest_values: {basket: float64}\n"
    )
    made = feature("view", "create", "--file", str(file))
    assert [each["computation"] for each in made["features"]] == [None, "on_write", "on_read"]
    shown = feature("view", "show", "computed", said=True)
    assert "amount / basket" in shown
    assert "basket (float64)" in shown
    feature("write", "computed", '{"customer": "ada", "amount": 10}')
    (ada,) = feature("get", "computed", "ada", "--value", "basket=40")
    assert ada["features"] == {"amount": 10.0, "doubled": 20.0, "share": 0.25}
    assert "[COMPUTED_FEATURE]" in feature("write", "computed", '{"customer": "a", "doubled": 1}', exit_code=1)
    by_options = ("--entity", "customer", "--feature", "a=float64", "--feature", "b=float64")
    refused = feature("view", "create", "wrong", *by_options, "--expression", "b=a +", exit_code=1)
    assert "[INVALID_EXPRESSION]" in refused


@pytest.mark.slow
def test_a_file_that_the_service_reads_is_imported(feature: Answer, spending: str, allowed: Path) -> None:
    (allowed / "rows.csv").write_text("customer,event_time,amount\nada,2026-01-02T03:04:05Z,12.5\n")
    done = feature("import", spending, "--uri", f"file://{allowed}/rows.csv")
    assert (done["row_count"], done["written_count"], done["done"]) == (1, 1, True)
    again = feature("import", spending, "--uri", f"file://{allowed}/rows.csv", said=True)
    assert "1 row read, 0 written" in again
    assert "[URI_NOT_ALLOWED]" in feature("import", spending, "--uri", "file:///etc/rows.csv", exit_code=1)
    refused = feature("import", spending, "--bigquery", "shop-project", "--query", "SELECT 1", exit_code=1)
    assert "[PROJECT_NOT_ALLOWED]" in refused
    feature("import", spending, "--bigquery", "a", "--connection", "shop", "--query", "SELECT 1", exit_code=2)
    words = feature("import", spending, "--connection", "shop", exit_code=2)
    assert "--connection and --query" in " ".join(words.replace("│", " ").split())

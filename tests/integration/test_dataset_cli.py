"""`penstock dataset`, as people type it: a real trainer's datasets and PostgreSQL behind it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from penstock.cli.__main__ import run
from penstock.cli.exits import ExitCode
from tests.datasets import shelf
from tests.postgres import PostgresServer

Answer = Callable[..., Any]
FLOWERS = "width,label\n" + "".join(f"{number / 4},{'ab'[number % 2]}\n" for number in range(20))


@pytest.fixture(scope="module")
def address(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with shelf(postgres_server.clone("trainer"), tmp_path_factory.mktemp("datasets")) as here:
        here.client.datasets.upload(
            "flowers", [{"width": number / 4, "label": "ab"[number % 2]} for number in range(20)]
        )
        yield here.address


@pytest.fixture
def dataset(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Answer:
    """Run a command; gives its document, or with `said` what it says to people."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_TRAINER_ADDRESS", address)
    Path("flowers.csv").write_text(FLOWERS)

    def call(*arguments: str, exit_code: int = 0, said: bool = False) -> Any:
        capsys.readouterr()
        plain = said or exit_code
        assert run(["dataset", *arguments, *([] if plain else ["--json"])]) == exit_code, capsys.readouterr().err
        printed = capsys.readouterr()
        return printed.out + printed.err if plain else json.loads(printed.out)

    return call


def test_a_file_becomes_a_version_and_the_same_rows_stay_one(dataset: Answer) -> None:
    made = dataset("upload", "typed", "flowers.csv", "--type", "label=string", "--label", "team=green")
    assert (made["version"], made["row_count"], made["existed"]) == (1, 20, False)
    assert made["labels"] == {"team": "green"}
    assert dataset("upload", "typed", "flowers.csv")["existed"] is True
    assert "were there already, as typed/1" in dataset("upload", "typed", "flowers.csv", said=True)
    assert [each["version"] for each in dataset("list", "typed")] == [1]


def test_a_version_is_shown_with_its_columns_and_rows(dataset: Answer) -> None:
    shown = dataset("show", "flowers", "--rows", "2")
    assert shown["rows"] == [{"width": 0.0, "label": "a"}, {"width": 0.25, "label": "b"}]
    assert [column["type"] for column in shown["columns"]] == ["float64", "string"]
    said = dataset("show", "flowers/1", "--rows", "1", said=True)
    for words in ("flowers/1", "READY", "a (10), b (10)", "FLOAT64"):
        assert words.lower() in said.lower()
    assert "flowers" in dataset("list", said=True)


def test_a_version_is_divided_and_its_parts_are_downloaded(dataset: Answer) -> None:
    made = dataset("split", "flowers", "--stratify", "label", "--train", "0.6", "--validation", "0.2")
    assert (made["train_count"], made["validation_count"], made["test_count"]) == (12, 4, 4)
    assert made["id"] in dataset("show", "flowers", said=True)
    assert "12 rows, 60" in dataset(
        "split", "flowers", "--stratify", "label", "--train", "0.6", "--validation", "0.2", said=True
    )
    answer = dataset("download", "flowers", "--split", made["id"][:8], "--part", "test")
    assert pq.read_table(answer["file"]).num_rows == 4
    whole = dataset("download", "flowers", "--out", "all.parquet")
    assert pq.read_table(whole["file"]).num_rows == 20
    assert "--force" in dataset("download", "flowers", "--out", "all.parquet", exit_code=ExitCode.ALREADY_EXISTS)


def test_what_is_wrong_with_a_file_is_said_by_its_row(dataset: Answer) -> None:
    Path("bad.csv").write_text("a,b\n1,2\n3\n")
    said = dataset("upload", "bad", "bad.csv", exit_code=ExitCode.FAILED)
    assert "row 2: it has 1 cells" in said
    assert "MALFORMED_ROWS" in said
    Path("rows.txt").write_text("a\n1\n")
    assert "--format" in dataset("upload", "bad", "rows.txt", exit_code=ExitCode.FAILED)
    assert "upload it first" in dataset("show", "nowhere", exit_code=ExitCode.NOT_FOUND)
    assert "iris/2" in dataset("show", "flowers/x", exit_code=ExitCode.USAGE)
    assert "MONITORING_ADDRESS" in dataset("from-traffic", "flowers", exit_code=ExitCode.FAILED)


def test_a_file_with_semicolons_is_refused_with_the_option_that_reads_it(dataset: Answer) -> None:
    Path("semi.csv").write_text(FLOWERS.replace(",", ";"))
    said = dataset("upload", "semi", "semi.csv", exit_code=ExitCode.FAILED)
    assert "has semicolons and no comma between cells; set --delimiter to ';', or to ','" in said
    made = dataset("upload", "semi", "semi.csv", "--delimiter", ";")
    assert made["digest"] == dataset("show", "flowers")["digest"]
    Path("tabs.csv").write_text(FLOWERS.replace(",", "\t"))
    assert dataset("upload", "semi", "tabs.csv", "--delimiter", "tab")["existed"] is True
    assert "one of ',', ';'" in dataset("upload", "semi", "semi.csv", "--delimiter", ":", exit_code=ExitCode.FAILED)
    Path("rows.json").write_text('{"a": 1}')
    assert "only a CSV" in dataset("upload", "semi", "rows.json", "--delimiter", ";", exit_code=ExitCode.FAILED)


def test_a_version_is_deleted_by_its_number_alone(dataset: Answer) -> None:
    dataset("upload", "gone", "flowers.csv")
    assert "name the version" in dataset("delete", "gone", "--yes", exit_code=ExitCode.USAGE)
    assert dataset("delete", "gone/1", "--yes") == {"name": "gone", "version": 1, "deleted": True}
    dataset("show", "gone", exit_code=ExitCode.NOT_FOUND)

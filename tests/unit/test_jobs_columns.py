"""Tables of jobs are what services/common/jobs/columns.sql says, and its statements take no time from who runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.common.jobs import statements
from tests.jobs import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
TABLES = {
    ("inference", "prediction_jobs"): "services/inference/migrations/0001_prediction_jobs.sql",
    ("fetcher", "fetch_jobs"): "services/fetcher/migrations/0001_fetch_jobs.sql",
    ("trainer", "dataset_builds"): "services/trainer/migrations/0002_datasets.sql",
    ("trainer", "training_runs"): "services/trainer/migrations/0001_training_runs.sql",
    ("trainer", "validations"): "services/trainer/migrations/0004_validations.sql",
}


def lines(text: str) -> list[str]:
    """Each statement's lines, without comments and alignment."""
    plain = (re.sub(r"\s+", " ", line.partition("--")[0]).strip() for line in text.splitlines())
    return [line for line in plain if line]


@pytest.mark.parametrize(("name", "path"), TABLES.items())
def test_a_services_table_has_every_common_column_constraint_and_index(name: tuple[str, str], path: str) -> None:
    schema, table = name
    template = COLUMNS.read_text().replace("{schema}", schema).replace("{table}", table).replace("{columns}", "")
    there = set(lines((ROOT / path).read_text()))
    assert [line for line in lines(template) if line not in there] == []


def test_the_template_has_the_columns_that_are_read_and_written() -> None:
    read = {name.strip() for name in statements.COMMON.replace("\n", " ").split(",")}
    table = COLUMNS.read_text().partition("\n    {columns}")[0]
    declared = set(re.findall(r"^    (\w+) +(?:uuid|bigint|text|integer|timestamptz|jsonb)", table, re.MULTILINE))
    assert declared == read | {"state"}


def test_no_statement_takes_the_time_from_whoever_runs_it() -> None:
    """A worker whose clock is a day off claims, renews and ends as any other: only a job's own due time comes along."""
    texts = {name: text for name, text in vars(statements).items() if isinstance(text, str) and "{" in text}
    given = {match for text in texts.values() for match in re.findall(r"%\((\w*time\w*)\)s", text)}
    assert given == {"due_time"}
    assert not [name for name, text in texts.items() if re.search(r"\bnow\(\)|current_timestamp", text)], (
        "now() is when the transaction began: what waited for a lock would be dated back"
    )

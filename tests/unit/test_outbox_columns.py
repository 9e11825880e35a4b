"""Tables of outboxes are what services/common/outbox/columns.sql says, and no statement takes a time from outside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import services.common.outbox
from services.common.outbox import statements

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = Path(services.common.outbox.__file__).with_name("columns.sql")
TABLES = {
    ("monitoring", "outbox"): "services/monitoring/migrations/0008_outbox.sql",
    ("fetcher", "outbox"): "services/fetcher/migrations/0003_webhooks.sql",
    ("trainer", "outbox"): "services/trainer/migrations/0006_outbox.sql",
}


def lines(text: str) -> list[str]:
    """Each statement's lines, without comments and alignment."""
    plain = (re.sub(r"\s+", " ", line.partition("--")[0]).strip() for line in text.splitlines())
    return [line for line in plain if line]


@pytest.mark.parametrize(("name", "path"), TABLES.items())
def test_a_services_table_has_every_column_constraint_and_index(name: tuple[str, str], path: str) -> None:
    schema, table = name
    template = lines(COLUMNS.read_text().replace("{schema}", schema).replace("{table}", table))
    there = lines((ROOT / path).read_text())
    begin = there.index(template[0])
    assert there[begin : begin + len(template)] == template


def test_no_statement_takes_the_time_from_whoever_runs_it() -> None:
    """A sender whose clock is a day off claims and marks as any other."""
    texts = {name: text for name, text in vars(statements).items() if isinstance(text, str) and "{table}" in text}
    assert len(texts) >= 8
    assert not [name for name, text in texts.items() if re.search(r"%\(\w*time\w*\)s", text)]
    assert not [name for name, text in texts.items() if re.search(r"\bnow\(\)|current_timestamp", text)], (
        "now() is when the transaction began: what waited for a lock would be dated back"
    )

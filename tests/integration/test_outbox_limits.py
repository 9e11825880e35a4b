"""How much an outbox on a real PostgreSQL keeps: of one destination, of what has ended, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from psycopg import sql

from services.common.outbox import store
from services.common.outbox.statements import CLAIM
from tests.monitoring import eventually
from tests.outbox import QUICK, Box, box, delivering, rows, states

__all__ = ["box"]


def test_what_is_old_is_deleted_by_its_state(box: Box) -> None:
    for _ in range(3):
        box.put()
        box.outbox.delivered(box.claimed())
    box.put()
    box.outbox.fail(box.claimed(), reason="GONE", error="gone")
    box.put()
    assert box.outbox.expire(delivered_kept_s=60, failed_kept_s=60) == 0
    assert box.outbox.expire(delivered_kept_s=0, failed_kept_s=60, limit=2) == 2
    assert box.outbox.expire(delivered_kept_s=0, failed_kept_s=60, limit=2) == 1
    assert states(box.url) == ["FAILED", "WAITING"]
    assert box.outbox.expire(delivered_kept_s=0, failed_kept_s=0) == 1
    assert states(box.url) == ["WAITING"]


def test_a_destination_that_is_down_for_long_does_not_fill_the_disk(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_WAITING", 2)
    for _ in range(3):
        box.put("down")
    box.put("up")
    assert states(box.url) == ["WAITING", "WAITING", "FAILED", "WAITING"]
    assert (rows(box.url)[2]["error_reason"], rows(box.url)[2]["body"]) == ("OUTBOX_FULL", b"")


@pytest.mark.parametrize("lost", ["for want of room", "by its worker"])
def test_what_is_given_up_without_an_attempt_is_seen_too(box: Box, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    assert box.outbox.counts().last_failure_time is None
    if lost == "by its worker":
        box.put(give_up_s=-1)
        box.claimed(lease_s=0)
        box.outbox.expire(delivered_kept_s=60, failed_kept_s=60)
    else:
        monkeypatch.setattr(store, "MAX_WAITING", 0)
        box.put()
    (row,) = rows(box.url)
    assert box.outbox.counts().last_failure_time == row["end_time"]


def test_what_has_ended_keeps_no_body(box: Box) -> None:
    for name in ("arrived", "gone", "late", "lost", "dropped"):
        box.put(name, b"a body", give_up_s=-1 if name == "lost" else 60)
    arrived, gone, late = (box.claimed() for _ in range(3))
    box.claimed(lease_s=0)
    box.outbox.delivered(arrived)
    box.outbox.fail(gone, reason="GONE", error="gone")
    box.put_back(late, delay_s=61)
    box.outbox.expire(delivered_kept_s=60, failed_kept_s=60)
    with box.database.transaction() as connection:
        box.outbox.drop(connection, "dropped", reason="DELETED", message="it was deleted")
    assert states(box.url) == ["DELIVERED", "FAILED", "FAILED", "FAILED", "FAILED"]
    assert {row["body"] for row in rows(box.url)} == {b""}


def test_of_a_destination_that_is_down_for_weeks_the_latest_failures_are_kept(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_FAILED", 2)
    for name in ("down", "down", "down", "other"):
        box.put(name)
        box.outbox.fail(box.claimed(), reason="GONE", error="gone")
    latest = [row["message_id"] for row in rows(box.url)][1:]
    assert box.outbox.expire(delivered_kept_s=60, failed_kept_s=60) == 1
    assert [row["message_id"] for row in rows(box.url)] == latest


def test_a_claim_looks_at_the_first_of_each_key_however_many_wait_behind(box: Box) -> None:
    with box.database.transaction() as connection:
        for number in range(200):
            box.outbox.put(connection, "down", b"{}", ordering_key="iris" if number else "wine")
    for _ in range(2):
        box.put_back(box.claimed(), delay_s=60)
    with box.database.transaction() as connection:
        connection.execute("ANALYZE monitoring.outbox")
        connection.execute("SET LOCAL enable_seqscan = off")
        values = {"worker_id": "w", "lease_s": 60, "troubled": True}
        statement = sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) " + CLAIM).format(
            table=sql.Identifier("monitoring", "outbox")
        )
        row = connection.execute(statement, values).fetchone()
    assert row is not None
    read = [node["Actual Rows"] * node["Actual Loops"] for node in nodes_of(row["QUERY PLAN"][0]["Plan"])]
    assert max(read) <= 10


def nodes_of(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes_of(each)


def test_replicas_that_tidy_at_once_wait_for_nobody(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_FAILED", 1)
    for _ in range(3):
        box.put()
        box.outbox.fail(box.claimed(), reason="GONE", error="gone")
    oldest, *_ = rows(box.url)
    with box.database.transaction() as other:
        other.execute("SELECT FROM monitoring.outbox WHERE message_id = %s FOR UPDATE", [oldest["message_id"]])
        assert box.outbox.expire(delivered_kept_s=60, failed_kept_s=60) == 1
    assert box.outbox.expire(delivered_kept_s=60, failed_kept_s=60) == 1


def test_what_is_new_is_sent_while_it_is_tidied(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    tidying = threading.Event()

    def expire(**_: object) -> int:
        tidying.set()
        return 1  # there is always more

    monkeypatch.setattr(box.outbox, "expire", expire)
    with delivering(box.outbox, lambda _: None):
        assert tidying.wait(60)
        box.put()
        eventually(lambda: states(box.url) == ["DELIVERED"])


def test_all_that_is_old_is_deleted_however_much_it_is(box: Box) -> None:
    for _ in range(5):
        box.put()
        box.outbox.fail(box.claimed(), reason="GONE", error="gone")
    with delivering(box.outbox, lambda _: None, replace(QUICK, failed_kept_s=0.0, tidy_count=2)):
        eventually(lambda: not rows(box.url))

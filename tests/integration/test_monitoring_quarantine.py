"""What monitoring refused can be looked at: by whoever runs it, page by page, cut where it is long."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock import Client
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.cli.__main__ import run
from services.common import pages
from services.monitoring import quarantine
from tests.monitoring import TIMEOUT_S, Monitoring, new_event, new_id, reason, serve

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def monitoring(clone_database: Callable[[str], str]) -> Iterator[Monitoring]:
    with serve(clone_database("monitoring")) as running:
        yield running


def refused(monitoring: Monitoring, **fields: Any) -> pb.ListQuarantinedEventsResponse:
    return monitoring.stub.ListQuarantinedEvents(pb.ListQuarantinedEventsRequest(**fields), timeout=TIMEOUT_S)


def test_a_refused_event_is_shown_with_why_and_what_it_said(monitoring: Monitoring) -> None:
    features = pb.Payload()
    features.fields.update({"age": math.nan, "name": "Ada"})
    event = new_event(inference_id=new_id(age_s=31 * 86_400), user_id="u-1", features=features)
    assert monitoring.record(new_event(), event) == ["STORED", "EVENT_TOO_OLD"]
    (shown,) = refused(monitoring).events
    assert (shown.inference_id, shown.model, shown.version) == (event.inference_id, "iris", "1.0.0")
    assert (shown.sent_by, shown.reason) == ("anonymous", "EVENT_TOO_OLD")
    assert "31 days ago" in shown.message
    assert datetime.now(UTC) - shown.received_time.ToDatetime(UTC) < timedelta(minutes=5)
    for said in ('user_id: "u-1"', '"Ada"', "nan"):
        assert said in shown.excerpt


def test_refused_events_come_page_by_page_the_newest_first_and_by_model(
    monitoring: Monitoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "READ_AT_ONCE", 2)
    monkeypatch.setattr(quarantine, "READ_A_PAGE", 4)
    models = ["iris", "churn", "churn", "churn", "churn", "churn", "iris", ""]
    monitoring.record(*(new_event(model=model, latency_ms=-1 - number) for number, model in enumerate(models)))
    with Client(monitoring=monitoring.address) as client:
        found = list(client.monitoring.list_quarantined_events(limit=None))
        assert [each.model for each in found] == models[::-1]
        assert [each.message[16:18] for each in client.monitoring.list_quarantined_events(model="iris")] == ["-7", "-1"]
        assert len(list(client.monitoring.list_quarantined_events(limit=3))) == 3
    first = refused(monitoring, page_size=3)
    second = refused(monitoring, page_size=3, page_token=first.next_page_token)
    assert [each.model for each in (*first.events, *second.events)] == models[:1:-1]
    assert list(refused(monitoring, model="nobody").events) == []


def test_what_is_long_is_cut_and_what_was_too_large_is_named_all_the_same(monitoring: Monitoring) -> None:
    payload = pb.Payload()
    payload.fields.update({"text": "x" * 3_000})
    monitoring.record(
        new_event(model="m" * 100_000),
        new_event(model="n" * 50_000),
        new_event(latency_ms=-1, features=payload),
    )
    small, long, large = refused(monitoring).events
    assert "latency_ms: -1" in small.excerpt
    assert "xxx" not in small.excerpt
    assert (long.model, len(long.excerpt)) == ("n" * 128, 1_000)
    assert (large.model, large.excerpt, large.reason) == ("", "", "INVALID_FIELD")
    assert "100000 characters" in large.message


def test_bad_questions_are_refused(monitoring: Monitoring) -> None:
    positions: list[list[object]] = [["1"], [-1], [1 << 63], [1, 2], []]
    for position in positions:
        forged = partial(refused, monitoring, page_token=pages.encode(position, {"model": ""}))
        assert reason(forged) == (INVALID, "INVALID_PAGE_TOKEN")
    assert reason(lambda: refused(monitoring, model="m" * 129)) == (INVALID, "INVALID_TEXT")
    assert reason(lambda: refused(monitoring, page_size=1_001)) == (INVALID, "INVALID_PAGE_SIZE")
    monitoring.record(new_event(latency_ms=-1), new_event(latency_ms=-1))
    token = refused(monitoring, page_size=1).next_page_token
    assert reason(lambda: refused(monitoring, model="iris", page_token=token)) == (INVALID, "INVALID_PAGE_TOKEN")


def test_what_others_sent_is_for_operators(clone_database: Callable[[str], str], tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    roles = ("viewer", "operator")
    entries = [{"name": role, "role": role, "sha256": sha256(role.encode()).hexdigest()} for role in roles]
    keys.write_text(json.dumps({"keys": entries}))
    with serve(clone_database("monitoring"), keys_file=keys) as monitoring:
        ask = monitoring.stub.ListQuarantinedEvents
        request = pb.ListQuarantinedEventsRequest()
        viewer, operator = ((("authorization", f"Bearer {role}"),) for role in roles)
        assert reason(lambda: ask(request, metadata=viewer)) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_WEAK")
        assert list(ask(request, metadata=operator).events) == []


def test_the_command_shows_what_was_refused(monitoring: Monitoring, capsys: pytest.CaptureFixture[str]) -> None:
    monitoring.record(new_event(latency_ms=-1), new_event(model="churn", row_count=-2))
    assert run(["events", "rejected", "--url", monitoring.address]) == 0
    table = capsys.readouterr().out
    assert table.index("churn") < table.index("iris")
    assert "latency_ms: got -1.0; 0 or more is allowed, finite" in table
    assert run(["events", "rejected", "--model", "churn", "--url", monitoring.address, "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["reason"] == "INVALID_FIELD"
    assert "row_count: -2" in document["excerpt"]

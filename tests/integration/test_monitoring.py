"""Monitoring over its socket and a real PostgreSQL: from an event to a model's metrics."""

from __future__ import annotations

import json
import math
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from penstock import Client
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.errors import NotFound
from penstock.ids import time_of
from penstock.monitoring import make_event
from services.common import pages
from services.monitoring.__main__ import build
from services.monitoring.models import Filters
from services.monitoring.settings import MonitoringSettings
from tests.monitoring import Monitoring, connect, eventually, labels, new_event, new_id, outcome, reason, serve

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def monitoring(clone_database: Callable[[str], str]) -> Iterator[Monitoring]:
    """A monitoring service with nothing in it yet."""
    with serve(clone_database("monitoring")) as running:
        yield running


def ago(**span: float) -> datetime:
    return datetime.now(UTC) - timedelta(**span)


def text_payload(size: int) -> pb.Payload:
    payload = pb.Payload()
    payload.fields.update({"text": "x" * size})
    return payload


def forged_token(*position: object) -> str:
    """A token with the right digest and a position that we never gave."""
    none = Filters()
    return pages.encode(list(position), {name: getattr(none, name) for name in Filters.__dataclass_fields__})


def bearer(key: str) -> tuple[tuple[str, str]]:
    return (("authorization", f"Bearer {key}"),)


def test_an_event_and_its_feedback_become_metrics(monitoring: Monitoring) -> None:
    event = new_event(prediction=labels(2, 0, 1), row_count=3, confidence=0.9, user_id="u", session_id="s")
    event.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert monitoring.record(event) == ["STORED"]
    found = monitoring.get(event.inference_id)
    event.request_id = event.inference_id
    assert found.event == event
    assert [value.number_value for value in found.outcomes] == [2, 0, 1]
    assert monitoring.listed() == [event.inference_id]
    for row, actual in enumerate((2, 0, 2)):
        answer = monitoring.feedback(event.inference_id, row=row, actual=actual)
        assert answer.matched
        assert answer.feedback.correct is (row < 2)
        assert answer.feedback.recorded_by == "anonymous"
    metrics = monitoring.metrics()
    assert (metrics.inference_count, metrics.row_count, metrics.error_count) == (1, 3, 0)
    assert (metrics.feedback_count, metrics.judged_count, metrics.correct_count) == (3, 3, 2)
    assert metrics.accuracy == pytest.approx(2 / 3)
    assert metrics.p99_latency_ms == 1.5
    assert metrics.average_confidence == pytest.approx(0.9)
    assert metrics.throughput_per_s == pytest.approx(1 / 3600)


def test_a_known_event_is_a_duplicate_and_changes_nothing(monitoring: Monitoring) -> None:
    first, second = new_event(model="first"), new_event()
    assert monitoring.record(first) == ["STORED"]
    again = new_event(inference_id=first.inference_id, model="second")
    assert monitoring.record(again, second, second) == ["DUPLICATE", "STORED", "DUPLICATE"]
    assert monitoring.get(first.inference_id).event.model == "first"
    assert monitoring.query("SELECT count(*) FROM monitoring.inferences") == [(2,)]


def test_one_bad_event_among_a_thousand_is_refused_alone(monitoring: Monitoring) -> None:
    events = [new_event() for _ in range(1_000)]
    events[500].inference_id = "not-an-id"
    outcomes = monitoring.record(*events)
    assert outcomes[500] == "INVALID_ID"
    assert outcomes.count("STORED") == 999


def test_the_sdk_records_reads_and_scores(monitoring: Monitoring) -> None:
    with Client(monitoring=monitoring.address) as client:
        events = [
            make_event("iris", version="1.0.0", prediction={"label": np.array([n % 3])}, user_id=f"user-{n}")
            for n in range(250)
        ]
        results = list(client.monitoring.record_events(events, batch_size=100))
        assert [outcome(result) for result in results] == ["STORED"] * 250
        for n, event in enumerate(events[:30]):
            assert client.monitoring.record_feedback(event.inference_id, 1).feedback.correct is (n % 3 == 1)
        listed = [found.event.inference_id for found in client.monitoring.list_inferences(model="iris", limit=None)]
        assert listed == [event.inference_id for event in reversed(events)]
        assert client.monitoring.get_metrics("iris", "1.0.0").accuracy == pytest.approx(1 / 3)
        with pytest.raises(NotFound, match="is not known"):
            client.monitoring.get_inference(new_id())


BAD_EVENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"inference_id": ""}, "INVALID_ID"),
    "a v4 id": ({"inference_id": "8d2c1b54-5f0e-4a53-9d0c-54a1c6a3b7f1"}, "INVALID_ID"),
    "an id of another variant": ({"inference_id": "019aa5c0-1234-7abc-0def-0123456789ab"}, "INVALID_ID"),
    "an id with braces": ({"inference_id": "{019aa5c0-1234-7abc-8def-0123456789ab}"}, "INVALID_ID"),
    "too old": ({"inference_id": new_id(age_s=31 * 86_400)}, "EVENT_TOO_OLD"),
    "the oldest id there is": ({"inference_id": "00000000-0000-7000-8000-000000000000"}, "EVENT_TOO_OLD"),
    # Made when the module is read, long before its test in a long run: a day ahead, not minutes.
    "from the future": ({"inference_id": new_id(age_s=-86_400)}, "EVENT_IN_FUTURE"),
    "the last id there is": ({"inference_id": "ffffffff-ffff-7fff-bfff-ffffffffffff"}, "EVENT_IN_FUTURE"),
    "no model": ({"model": ""}, "INVALID_FIELD"),
    "a long model": ({"model": "m" * 129}, "INVALID_FIELD"),
    "a long user": ({"user_id": "u" * 10_000}, "INVALID_FIELD"),
    "a long error": ({"error_code": "e" * 65}, "INVALID_FIELD"),
    "a trace id that is none": ({"trace_id": "4BF9"}, "INVALID_FIELD"),
    "NUL in a text": ({"session_id": "a\0b"}, "INVALID_FIELD"),
    "a line break in a text": ({"version": "1\n2"}, "INVALID_FIELD"),
    "NaN latency": ({"latency_ms": math.nan}, "INVALID_FIELD"),
    "infinite latency": ({"latency_ms": math.inf}, "INVALID_FIELD"),
    "negative latency": ({"latency_ms": -0.1}, "INVALID_FIELD"),
    "NaN confidence": ({"confidence": math.nan}, "INVALID_FIELD"),
    "confidence above 1": ({"confidence": 1.01}, "INVALID_FIELD"),
    "negative confidence": ({"confidence": -0.01}, "INVALID_FIELD"),
    "negative rows": ({"row_count": -1}, "INVALID_FIELD"),
    "large features": ({"features": text_payload(1_100_000)}, "PAYLOAD_TOO_LARGE"),
    "large prediction": ({"prediction": text_payload(1_100_000)}, "PAYLOAD_TOO_LARGE"),
}


def test_each_bad_event_is_refused_alone_with_its_reason_and_kept_to_look_at(monitoring: Monitoring) -> None:
    good = [new_event(), new_event()]
    bad = [new_event(**fields) for fields, _ in BAD_EVENTS.values()]
    reasons = [reason for _, reason in BAD_EVENTS.values()]
    assert monitoring.record(good[0], *bad, good[1]) == ["STORED", *reasons, "STORED"]
    assert monitoring.query("SELECT reason FROM monitoring.quarantined_events ORDER BY event_number") == [
        (reason,) for reason in reasons
    ]
    ((kept,),) = monitoring.query(
        "SELECT event FROM monitoring.quarantined_events WHERE reason = 'EVENT_TOO_OLD' LIMIT 1"
    )
    assert pb.InferenceEvent.FromString(kept) == bad[list(BAD_EVENTS).index("too old")]
    ((large,),) = monitoring.query("SELECT max(length(event)) FROM monitoring.quarantined_events")
    assert large <= 65_536


def test_a_rejection_says_what_came_and_what_is_allowed(monitoring: Monitoring) -> None:
    request = pb.RecordEventsRequest(events=[new_event(latency_ms=-2)])
    (answer,) = monitoring.stub.RecordEvents(iter([request]), timeout=60)
    assert answer.results[0].message == "latency_ms: got -2.0; 0 or more is allowed, finite"


def test_the_quarantine_is_bounded(clone_database: Callable[[str], str]) -> None:
    with serve(clone_database("monitoring"), quarantine_max_events=5) as monitoring:
        for number in range(3):
            monitoring.record(*(new_event(model="", user_id=f"{number}-{one}") for one in range(4)))
        kept = [
            pb.InferenceEvent.FromString(row[0]).user_id
            for row in monitoring.query("SELECT event FROM monitoring.quarantined_events ORDER BY event_number")
        ]
    assert kept == ["1-3", "2-0", "2-1", "2-2", "2-3"]


def test_nan_in_payloads_and_odd_texts_come_back_as_they_were(monitoring: Monitoring) -> None:
    features = pb.Payload()
    features.fields.update({"x": math.nan, "größe": "中\0文"})
    event = new_event(
        features=features,
        model="a/b:c é",
        user_id="🙂",
        row_count=2,
        confidence=1 + 1e-9,
        request_id="my-own",
        version="",
    )
    assert monitoring.record(event) == ["STORED"]
    found = monitoring.get(event.inference_id).event
    assert found.features.SerializeToString() == features.SerializeToString()
    assert (found.model, found.user_id, found.request_id) == ("a/b:c é", "🙂", "my-own")
    assert found.confidence == 1.0


def test_an_id_in_capitals_is_the_same_id(monitoring: Monitoring) -> None:
    event = new_event()
    shouted = new_event(inference_id=event.inference_id.upper())
    assert monitoring.record(event, shouted) == ["STORED", "DUPLICATE"]
    assert monitoring.get(shouted.inference_id).event.inference_id == event.inference_id


def test_events_of_many_days_out_of_order_land_in_their_days(monitoring: Monitoring) -> None:
    ages = [5, 0, 29, 1, 5, 0.001, 12]
    events = [new_event(age_s=age * 86_400) for age in ages]
    assert monitoring.record(*events) == ["STORED"] * 7
    assert monitoring.record(*reversed(events)) == ["DUPLICATE"] * 7
    days = monitoring.query("SELECT tableoid::regclass::text, event_time::date FROM monitoring.inferences")
    assert all(name == f"monitoring.inferences_{day:%Y%m%d}" for name, day in days)
    newest_first = sorted((event.inference_id for event in events), reverse=True)
    assert monitoring.listed(from_time=ago(days=30)) == newest_first


def test_batches_are_answered_in_order_on_one_stream(monitoring: Monitoring) -> None:
    batches = [pb.RecordEventsRequest(batch_id=9 - n, events=[new_event()] * (n + 1)) for n in range(9)]
    answers = list(monitoring.stub.RecordEvents(iter(batches), timeout=60))
    assert [answer.batch_id for answer in answers] == [9 - n for n in range(9)]
    assert [len(answer.results) for answer in answers] == list(range(1, 10))


@pytest.mark.parametrize("count", [0, 1_001])
def test_a_batch_of_the_wrong_size_ends_the_stream(monitoring: Monitoring, count: int) -> None:
    assert reason(lambda: monitoring.record(*[new_event()] * count)) == (INVALID, "INVALID_BATCH")


def test_a_list_filters_and_pages(monitoring: Monitoring) -> None:
    events = [
        new_event(
            age_s=600 - n,
            model="iris" if n % 2 else "wine",
            version=f"{n % 3}",
            user_id=f"u{n % 4}",
            session_id=f"s{n % 5}",
            error_code="DEADLINE_EXCEEDED" if n % 6 == 0 else "",
            prediction=labels(1),
        )
        for n in range(60)
    ]
    monitoring.record(*events)

    def chosen(keep: Callable[[int], bool]) -> list[str]:
        return [events[n].inference_id for n in reversed(range(60)) if keep(n)]

    assert monitoring.listed() == chosen(lambda _: True)
    assert monitoring.listed(model="iris") == chosen(lambda n: n % 2 == 1)
    assert monitoring.listed(model="iris", version="1") == chosen(lambda n: n % 2 == 1 and n % 3 == 1)
    assert monitoring.listed(user_id="u3", session_id="s2") == chosen(lambda n: n % 4 == 3 and n % 5 == 2)
    assert monitoring.listed(errors_only=True) == chosen(lambda n: n % 6 == 0)
    assert monitoring.listed(model="nobody") == []
    since, until = time_of(events[10].inference_id), time_of(events[20].inference_id)
    assert monitoring.listed(from_time=since, to_time=until) == chosen(lambda n: 10 <= n < 20)
    request = pb.ListInferencesRequest(model="wine", page_size=7)
    paged: list[str] = []
    while True:
        page = monitoring.stub.ListInferences(request, timeout=60)
        paged += [found.event.inference_id for found in page.inferences]
        assert all(not found.event.HasField("prediction") and found.outcomes for found in page.inferences)
        if not page.next_page_token:
            break
        assert len(page.inferences) == 7
        request.page_token = page.next_page_token
        monitoring.record(new_event(model="wine"))  # what comes while one pages moves nothing
    assert paged == chosen(lambda n: n % 2 == 0)


def test_a_list_shows_the_last_hour_by_default_and_a_hundred_a_page(monitoring: Monitoring) -> None:
    monitoring.record(new_event(age_s=3_700))
    recent = [new_event(age_s=3_500) for _ in range(101)]
    monitoring.record(*recent)
    page = monitoring.stub.ListInferences(pb.ListInferencesRequest(), timeout=60)
    assert len(page.inferences) == 100
    page = monitoring.stub.ListInferences(pb.ListInferencesRequest(page_token=page.next_page_token), timeout=60)
    assert (len(page.inferences), page.next_page_token) == (1, "")


def test_bad_questions_are_refused_by_field(monitoring: Monitoring) -> None:
    monitoring.record(new_event(), new_event())
    page = monitoring.stub.ListInferences(pb.ListInferencesRequest(page_size=1), timeout=60)
    for token in (
        "x",
        "!!!",
        page.next_page_token[:-9],
        pages.encode(["a", "b", "c"], {}),
        forged_token("today", "now", 1),
    ):
        assert reason(partial(monitoring.listed, page_token=token)) == (INVALID, "INVALID_PAGE_TOKEN")
    other = {"page_token": page.next_page_token, "model": "iris"}
    assert reason(lambda: monitoring.listed(**other)) == (INVALID, "INVALID_PAGE_TOKEN")
    assert reason(lambda: monitoring.listed(page_size=-1)) == (INVALID, "INVALID_PAGE_SIZE")
    assert reason(lambda: monitoring.listed(page_size=1_001)) == (INVALID, "INVALID_PAGE_SIZE")
    same = ago(days=1)
    for call in (monitoring.listed, monitoring.metrics):
        assert reason(partial(call, from_time=same, to_time=same)) == (INVALID, "INVALID_WINDOW")
        assert reason(partial(call, from_time=ago(days=-1))) == (INVALID, "INVALID_WINDOW")
        assert reason(partial(call, to_time=Timestamp(seconds=1 << 60))) == (INVALID, "INVALID_TIME")
    assert reason(lambda: monitoring.metrics(model="")) == (INVALID, "MODEL_REQUIRED")
    for odd in ("a\0", "x" * 10_000):
        for call in (monitoring.listed, monitoring.metrics):
            assert reason(partial(call, model=odd)) == (INVALID, "INVALID_TEXT")
            assert reason(partial(call, model="iris", version=odd)) == (INVALID, "INVALID_TEXT")
    assert reason(lambda: monitoring.get("no id")) == (INVALID, "INVALID_ID")
    assert reason(lambda: monitoring.get(new_id())) == (grpc.StatusCode.NOT_FOUND, "INFERENCE_NOT_FOUND")


def test_metrics_count_exactly_and_leave_unset_what_cannot_be_told(monitoring: Monitoring) -> None:
    nothing = monitoring.metrics()
    assert (nothing.inference_count, nothing.throughput_per_s) == (0, 0)
    latencies = ("average_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms")
    unset = ("error_rate", *latencies, "average_confidence", "accuracy")
    assert not [name for name in unset if nothing.HasField(name)]  # type: ignore[arg-type] # names of the message
    good = [new_event(latency_ms=n, confidence=n / 100 if n % 2 else None, row_count=2) for n in range(1, 101)]
    failed = [new_event(latency_ms=9_999, error_code="INTERNAL", version="") for _ in range(25)]
    monitoring.record(*good, *failed, new_event(model="other"), new_event(age_s=7_200))
    metrics = monitoring.metrics()
    assert (metrics.inference_count, metrics.error_count, metrics.row_count) == (125, 25, 225)
    assert metrics.error_rate == 0.2
    assert metrics.average_latency_ms == 50.5
    assert (metrics.p50_latency_ms, metrics.p95_latency_ms, metrics.p99_latency_ms) == (50, 95, 99)
    assert metrics.average_confidence == pytest.approx(0.5)
    assert not metrics.HasField("accuracy")
    assert metrics.to_time.ToDatetime() - metrics.from_time.ToDatetime() == timedelta(hours=1)
    assert monitoring.metrics(version="1.0.0").error_count == 0
    assert monitoring.metrics(from_time=ago(hours=3)).inference_count == 126


def test_a_window_beyond_the_retention_says_what_it_covers(monitoring: Monitoring) -> None:
    metrics = monitoring.metrics(from_time=ago(days=400))
    covered = datetime.now(UTC) - metrics.from_time.ToDatetime(UTC)
    assert timedelta(days=30) <= covered < timedelta(days=31)


def test_roles_are_kept(clone_database: Callable[[str], str], tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    roles = ("viewer", "operator")
    entries = [{"name": role, "role": role, "sha256": sha256(role.encode()).hexdigest()} for role in roles]
    keys.write_text(json.dumps({"keys": entries}))
    event = new_event()
    feedback = pb.RecordFeedbackRequest(inference_id=event.inference_id, correct=True)
    batch = pb.RecordEventsRequest(events=[event])
    with serve(clone_database("monitoring"), keys_file=keys) as monitoring:
        stub = monitoring.stub
        denied = (grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_WEAK")
        assert reason(lambda: list(stub.RecordEvents(iter([batch]), metadata=bearer("viewer")))) == denied
        assert reason(lambda: stub.RecordFeedback(feedback, metadata=bearer("viewer"))) == denied
        assert reason(monitoring.listed) == (grpc.StatusCode.UNAUTHENTICATED, "MISSING_KEY")
        assert reason(lambda: monitoring.record(event)) == (grpc.StatusCode.UNAUTHENTICATED, "MISSING_KEY")
        assert len(list(stub.RecordEvents(iter([batch]), metadata=bearer("operator")))) == 1
        answer = stub.RecordFeedback(feedback, metadata=bearer("operator"))
        assert answer.feedback.recorded_by == "operator"
        assert stub.GetMetrics(pb.GetMetricsRequest(model="iris"), metadata=bearer("viewer")).accuracy == 1


def test_prometheus_reads_what_became_of_events(clone_database: Callable[[str], str]) -> None:
    settings = MonitoringSettings(
        port=0,
        metrics_port=0,
        database_url=SecretStr(clone_database("monitoring")),
        registry_address="127.0.0.1:1",
        access_log_share=0,
    )
    with ExitStack() as stack:
        server = build(settings, stack)
        port = server.open()
        stack.callback(server.close)
        monitoring = stack.enter_context(connect("", port))
        event = new_event()
        monitoring.record(event, event, new_event(model=""), new_event(latency_ms=-1), new_event(inference_id=""))
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
    for line in (
        'penstock_monitoring_events_total{outcome="stored"} 1.0',
        'penstock_monitoring_events_total{outcome="duplicate"} 1.0',
        'penstock_monitoring_events_total{outcome="rejected"} 3.0',
        'penstock_monitoring_events_rejected_total{reason="INVALID_FIELD"} 2.0',
        "penstock_monitoring_ingest_batch_seconds_count 1.0",
    ):
        assert line in lines


def test_a_refused_stream_leaves_no_thread_behind_though_its_client_stays_silent(monitoring: Monitoring) -> None:
    done = threading.Event()

    def requests() -> Iterator[pb.RecordEventsRequest]:
        yield pb.RecordEventsRequest(events=[new_event()])
        yield pb.RecordEventsRequest()
        done.wait(60)

    answers = monitoring.stub.RecordEvents(requests(), timeout=60)
    assert outcome(next(answers).results[0]) == "STORED"
    assert reason(lambda: next(answers)) == (INVALID, "INVALID_BATCH")
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("decode")])
    done.set()

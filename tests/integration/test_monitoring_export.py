"""Exports over the socket: what was recorded comes back as files that others' readers take."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.monitoring.v1 import export_pb2 as pb
from penstock.api.monitoring.v1 import metrics_pb2, monitoring_pb2
from penstock.api.monitoring.v1.export_pb2_grpc import ExportServiceStub
from penstock.api.tensors.v1.tensors_pb2 import TensorList
from penstock.ids import time_of
from penstock.tensors import to_tensor
from services.monitoring.export.store import SLICE_BYTES, SLICE_EVENTS
from tests.monitoring import TIMEOUT_S, Monitoring, labels, new_event, reason, serve

pytestmark = pytest.mark.slow
INVALID = grpc.StatusCode.INVALID_ARGUMENT
MEBIBYTE = 1024 * 1024


@pytest.fixture
def monitoring(clone_database: Callable[[str], str]) -> Iterator[Monitoring]:
    with serve(clone_database("monitoring")) as running:
        yield running


@pytest.fixture
def exports(monitoring: Monitoring) -> Iterator[ExportServiceStub]:
    with grpc.insecure_channel(monitoring.address) as channel:
        yield ExportServiceStub(channel)


def at(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def events_file(exports: ExportServiceStub, **fields: Any) -> bytes:
    request = pb.ExportEventsRequest(**{"model": "iris", "format": pb.EXPORT_FORMAT_PARQUET, **fields})
    chunks = [answer.chunk for answer in exports.ExportEvents(request, timeout=TIMEOUT_S)]
    assert all(0 < len(chunk) <= MEBIBYTE for chunk in chunks)
    return b"".join(chunks)


def rows_of(data: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(data)).to_pylist()
    return rows


def features(**values: float) -> monitoring_pb2.Payload:
    payload = monitoring_pb2.Payload()
    payload.fields.update(values)
    return payload


def test_events_come_back_with_their_payloads_and_latest_feedback(
    monitoring: Monitoring, exports: ExportServiceStub
) -> None:
    scores = to_tensor("scores", np.array([[0.1, math.nan]], np.float32))
    full = new_event(
        age_s=60,
        features=features(length=5.1, width=math.inf),
        prediction=monitoring_pb2.Payload(tensors=TensorList(tensors=[*labels(2, 0).tensors.tensors, scores])),
        row_count=2,
        confidence=0.75,
        user_id="ada",
        session_id="s",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    )
    bare = new_event(age_s=30, error_code="INTERNAL", latency_ms=0.0, version="")
    monitoring.record(bare, full)
    monitoring.feedback(full.inference_id, row=1, actual=7)
    monitoring.feedback(full.inference_id, row=1, actual=0)
    monitoring.feedback(full.inference_id, row=0, actual="three")
    monitoring.feedback(bare.inference_id, correct=False)
    first, second = rows_of(events_file(exports, payloads=True))
    assert first == {
        "inference_id": full.inference_id,
        "time": time_of(full.inference_id),
        "model": "iris",
        "version": "1.0.0",
        "framework": "onnx",
        "request_id": full.inference_id,
        "user_id": "ada",
        "session_id": "s",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "row_count": 2,
        "latency_ms": 1.5,
        "confidence": 0.75,
        "error_code": "",
        "outcomes": "[2,0]",
        "feedback": first["feedback"],
        "judged_count": 2,
        "correct_count": 1,
        "features": '{"length":5.1,"width":"Infinity"}',
        "prediction": '{"label":[2,0],"scores":[[0.1,"NaN"]]}',
    }
    said = [(one["row"], one["actual_outcome"], one["correct"]) for one in json.loads(first["feedback"])]
    assert said == [(0, "three", False), (1, 0, True)]
    assert second["outcomes"] is second["features"] is second["prediction"] is None
    assert (second["version"], second["error_code"], second["judged_count"], second["correct_count"]) == (
        "",
        "INTERNAL",
        1,
        0,
    )


def test_both_formats_say_the_same(monitoring: Monitoring, exports: ExportServiceStub) -> None:
    monitoring.record(*[new_event(age_s=n, features=features(a=n), prediction=labels(n % 3)) for n in range(50)])
    parquet = rows_of(events_file(exports, payloads=True))
    text = events_file(exports, payloads=True, format=pb.EXPORT_FORMAT_CSV).decode()
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(lines) == len(parquet) == 50
    assert list(lines[0]) == list(parquet[0])
    for line, row in zip(lines, parquet, strict=True):
        assert {name: cell for name, cell in line.items() if name != "time"} == {
            name: "" if value is None else str(value) for name, value in row.items() if name != "time"
        }
        assert datetime.fromisoformat(line["time"]) == row["time"]


def test_an_export_has_what_was_asked_for_and_nothing_else(monitoring: Monitoring, exports: ExportServiceStub) -> None:
    sent = [new_event(age_s=age_s) for age_s in (20 * 86_400, 3 * 86_400, 86_300, 60, 30)]
    monitoring.record(*sent, new_event(model="other"), new_event(age_s=10, version="2.0.0"))
    ids = [event.inference_id for event in sent]

    def exported(**fields: Any) -> list[str]:
        return [row["inference_id"] for row in rows_of(events_file(exports, version="1.0.0", **fields))]

    assert exported() == ids[2:]
    assert exported(from_time=at(datetime(2000, 1, 1, tzinfo=UTC))) == ids
    assert exported(from_time=at(time_of(ids[0])), to_time=at(time_of(ids[4]))) == ids[:4]
    assert exported(to_time=at(time_of(ids[1]) + timedelta(seconds=1))) == ids[1:2]
    assert exported(to_time=at(datetime(1, 1, 2, tzinfo=UTC))) == []
    assert exported(to_time=at(datetime(1, 1, 1, 1, tzinfo=UTC))) == [], "its day before would be in no year"
    assert exported(from_time=at(time_of(ids[4])), to_time=at(datetime(9999, 12, 31, tzinfo=UTC))) == ids[4:]
    assert "features" not in rows_of(events_file(exports))[0]
    assert rows_of(events_file(exports, model="unknown")) == []


def test_more_events_than_a_slice_all_come_once_and_in_order(
    monitoring: Monitoring, exports: ExportServiceStub
) -> None:
    count = 2 * SLICE_EVENTS + 7
    sent = [new_event(age_s=n * 4) for n in range(count)]
    for start in range(0, count, 1_000):
        monitoring.record(*sent[start : start + 1_000])
    ids = [row["inference_id"] for row in rows_of(events_file(exports))]
    assert ids == [event.inference_id for event in reversed(sent)]


def test_large_payloads_come_whole_however_many_a_slice_has_room_for(
    monitoring: Monitoring, exports: ExportServiceStub
) -> None:
    text = monitoring_pb2.Payload()
    text.fields.update({"text": "x" * (MEBIBYTE - 64)})
    count = SLICE_BYTES // MEBIBYTE + 2
    for age_s in range(count):
        monitoring.record(new_event(age_s=age_s, features=text))
    rows = rows_of(events_file(exports, payloads=True))
    assert len({row["inference_id"] for row in rows}) == len(rows) == count
    assert {len(row["features"]) for row in rows} == {MEBIBYTE - 64 + len('{"text":""}')}


def test_metrics_are_a_row_a_step_and_version(monitoring: Monitoring, exports: ExportServiceStub) -> None:
    old, other = new_event(age_s=7_200, prediction=labels(1)), new_event(age_s=60, version="2.0.0", error_code="OOPS")
    monitoring.record(old, other)
    monitoring.feedback(old.inference_id, actual=1)
    request = pb.ExportMetricsRequest(
        model="iris", granularity=metrics_pb2.GRANULARITY_HOUR, format=pb.EXPORT_FORMAT_PARQUET
    )
    one, two = rows_of(b"".join(answer.chunk for answer in exports.ExportMetrics(request, timeout=TIMEOUT_S)))
    assert (one["version"], one["granularity"], one["inference_count"], one["accuracy"]) == ("1.0.0", "1h", 1, 1.0)
    assert one["p99_latency_ms"] == pytest.approx(1.5, rel=0.01)
    assert one["to_time"] - one["from_time"] == timedelta(hours=1)
    assert one["from_time"] <= time_of(old.inference_id) < one["to_time"]
    assert (two["version"], two["error_rate"], two["errors"], two["accuracy"]) == ("2.0.0", 1.0, '{"OOPS":1}', None)
    assert two["p99_latency_ms"] is None


def test_what_is_asked_wrongly_is_refused_saying_why(exports: ExportServiceStub) -> None:
    now = datetime.now(UTC)
    backwards = {"from_time": at(now), "to_time": at(now - timedelta(hours=1))}
    for kind, call in (
        (pb.ExportEventsRequest, exports.ExportEvents),
        (pb.ExportMetricsRequest, exports.ExportMetrics),
    ):
        for fields, expected in (
            ({"format": pb.EXPORT_FORMAT_CSV}, "MODEL_REQUIRED"),
            ({"model": "iris"}, "FORMAT_REQUIRED"),
            ({"model": "iris", "format": 9}, "FORMAT_REQUIRED"),
            ({"model": "a\0", "format": 1}, "INVALID_TEXT"),
            ({"model": "iris", "format": 1, **backwards}, "INVALID_WINDOW"),
            ({"model": "iris", "format": 1, "to_time": Timestamp(nanos=-1)}, "INVALID_TIME"),
            ({"model": "iris", "format": 1, "to_time": at(datetime(1, 1, 1, tzinfo=UTC))}, "INVALID_WINDOW"),
        ):
            request: Any = kind(**fields)
            assert reason(lambda request=request, call=call: list(call(request, timeout=TIMEOUT_S))) == (  # type: ignore[misc]
                INVALID,
                expected,
            )
    many = pb.ExportMetricsRequest(
        model="iris",
        format=pb.EXPORT_FORMAT_CSV,
        granularity=metrics_pb2.GRANULARITY_FIVE_MINUTES,
        from_time=at(now - timedelta(days=200)),
        to_time=at(now - timedelta(days=100)),
    )
    assert reason(lambda: list(exports.ExportMetrics(many, timeout=TIMEOUT_S))) == (INVALID, "TOO_MANY_POINTS")


def test_a_client_that_reads_slowly_holds_up_the_export_and_no_connection(
    clone_database: Callable[[str], str],
) -> None:
    """The database has one connection for all: were it held while the client waits, nobody else would get it."""
    with serve(clone_database("monitoring"), database_pool_size=1) as monitoring:
        text = monitoring_pb2.Payload()
        noise = np.random.default_rng(1)
        for age_s in range(40):
            text.fields.update({"text": noise.bytes(MEBIBYTE // 3).hex()})
            monitoring.record(new_event(age_s=age_s, features=text))
        with grpc.insecure_channel(monitoring.address) as channel:
            request = pb.ExportEventsRequest(model="iris", format=pb.EXPORT_FORMAT_CSV, payloads=True)
            stream = ExportServiceStub(channel).ExportEvents(request, timeout=60)
            first = next(stream)
            assert monitoring.metrics().inference_count == 40
            rest = b"".join(answer.chunk for answer in stream)
        csv.field_size_limit(MEBIBYTE)
        rows = list(csv.DictReader(io.StringIO((first.chunk + rest).decode(), newline="")))
        assert len(rows) == 40

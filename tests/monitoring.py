"""A monitoring service for the tests: the real one, on a database and ports of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import grpc
import psycopg
import pytest
from pydantic import SecretStr

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.api.monitoring.v1.monitoring_pb2_grpc import MonitoringServiceStub
from penstock.api.status.v1.status_pb2 import ErrorInfo, Status
from penstock.api.tensors.v1.tensors_pb2 import DataType, Tensor, TensorList
from penstock.ids import uuid7
from services.monitoring.__main__ import build
from services.monitoring.settings import MonitoringSettings
from tests.postgres import LOCK_TIMEOUT_MS
from tests.waiting import looks

TIMEOUT_S = 60


def new_id(*, age_s: float = 0) -> str:
    """Make an inference id of some seconds ago."""
    return uuid7(datetime.now(UTC) - timedelta(seconds=age_s))


def labels(*values: int) -> pb.Payload:
    """A prediction that is an INT64 label a row."""
    raw = b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    tensor = Tensor(name="label", datatype=DataType.DATA_TYPE_INT64, shape=[len(values)], raw=raw)
    return pb.Payload(tensors=TensorList(tensors=[tensor]))


def new_event(*, age_s: float = 0, **fields: Any) -> pb.InferenceEvent:
    """A good event, but for what is given."""
    given: dict[str, Any] = {
        "inference_id": new_id(age_s=age_s),
        "model": "iris",
        "version": "1.0.0",
        "framework": "onnx",
        "latency_ms": 1.5,
        "row_count": 1,
    }
    return pb.InferenceEvent(**{**given, **fields})


def outcome(result: pb.EventResult) -> str:
    """STORED, DUPLICATE, or the reason of the rejection."""
    return result.reason or pb.EventOutcome.Name(result.outcome).removeprefix("EVENT_OUTCOME_")


def reason(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Call what must fail, and give its code and reason."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = cast("grpc.Call", caught.value)
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if details is None:
        return error.code(), ""
    return error.code(), ErrorInfo.FromString(Status.FromString(cast("bytes", details)).details[0].value).reason


def answered(call: Callable[[], object]) -> bool:
    """Say whether a call is answered by now."""
    try:
        call()
    except grpc.RpcError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Monitoring:
    """A running service, as its clients see it."""

    stub: MonitoringServiceStub
    database_url: str
    address: str

    def record(self, *events: pb.InferenceEvent) -> list[str]:
        """Send one batch and give its outcomes."""
        answers = self.stub.RecordEvents(iter([pb.RecordEventsRequest(batch_id=7, events=events)]), timeout=TIMEOUT_S)
        (answer,) = answers
        assert answer.batch_id == 7
        return [outcome(result) for result in answer.results]

    def feedback(self, inference_id: str, **fields: Any) -> pb.RecordFeedbackResponse:
        """Say what really happened."""
        actual = fields.pop("actual", None)
        request = pb.RecordFeedbackRequest(inference_id=inference_id, **fields)
        match actual:
            case bool():
                request.actual_outcome.bool_value = actual
            case int() | float():
                request.actual_outcome.number_value = actual
            case str():
                request.actual_outcome.string_value = actual
        return self.stub.RecordFeedback(request, timeout=TIMEOUT_S)

    def get(self, inference_id: str) -> pb.Inference:
        """Give one inference."""
        return self.stub.GetInference(pb.GetInferenceRequest(inference_id=inference_id), timeout=TIMEOUT_S).inference

    def listed(self, **fields: Any) -> list[str]:
        """Give the ids of a list's first page."""
        page = self.stub.ListInferences(pb.ListInferencesRequest(**fields), timeout=TIMEOUT_S)
        return [inference.event.inference_id for inference in page.inferences]

    def metrics(self, model: str = "iris", **fields: Any) -> pb.GetMetricsResponse:
        """Give a model's metrics."""
        return self.stub.GetMetrics(pb.GetMetricsRequest(model=model, **fields), timeout=TIMEOUT_S)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Look into the database."""
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(statement.encode()).fetchall()


@contextmanager
def serve(database_url: str, **settings: Any) -> Iterator[Monitoring]:
    """Serve on free ports, and connect."""
    # No registry, also where somebody's own suite runs on the usual port.
    own = {"_env_file": None, "port": 0, "metrics_port": 0, "health_interval_ms": 50, "registry_address": "127.0.0.1:1"}
    given: dict[str, Any] = {**own, "database_lock_timeout_ms": LOCK_TIMEOUT_MS, **settings}
    with ExitStack() as stack:
        server = build(MonitoringSettings(database_url=SecretStr(database_url), **given), stack)
        port = server.open()
        stack.callback(server.close)
        yield stack.enter_context(connect(database_url, port))


@contextmanager
def connect(database_url: str, port: int) -> Iterator[Monitoring]:
    """Connect to a service on this port of the loopback."""
    address = f"127.0.0.1:{port}"
    with grpc.insecure_channel(address) as channel:
        yield Monitoring(MonitoringServiceStub(channel), database_url, address)


def eventually(met: Callable[[], bool], *, within_s: float = 60) -> None:
    """Wait until something is so."""
    for _ in looks(within_s):
        if met():
            return
    pytest.fail("it did not come to pass")

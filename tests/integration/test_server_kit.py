"""The server kit, over a real socket: what every service promises whatever it serves.

The servicer behind it is scripted (the contract is monitoring's); the server, its pools and its wire are real.
"""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.api.status.v1.status_pb2 import BadRequest, RetryInfo
from services.common import errors
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.server import CONTROL_THREADS, Server
from services.common.settings import ServerSettings
from services.inference.caching import servicer as caching
from services.inference.control import servicer as control
from services.inference.oip import servicer as oip
from tests.kit import NAME, Kit, details, eventually, failure


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with Kit(tmp_path).running() as running:
        yield running


def test_a_call_is_answered(kit: Kit) -> None:
    assert kit.stub.GetMetrics(pb.GetMetricsRequest(model="iris"), timeout=60).inference_count == 4


ERRORS = [
    (errors.InvalidArgument("m"), grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NotFound("m"), grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExists("m"), grpc.StatusCode.ALREADY_EXISTS),
    (errors.FailedPrecondition("m"), grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Aborted("m"), grpc.StatusCode.ABORTED),
    (errors.OutOfRange("m"), grpc.StatusCode.OUT_OF_RANGE),
    (errors.ResourceExhausted("m"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.PermissionDenied("m"), grpc.StatusCode.PERMISSION_DENIED),
    (errors.Unavailable("m"), grpc.StatusCode.UNAVAILABLE),
    (errors.DeadlineExceeded("m"), grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.Cancelled("m"), grpc.StatusCode.CANCELLED),
    (errors.DataLoss("m"), grpc.StatusCode.DATA_LOSS),
    (errors.Unimplemented("m"), grpc.StatusCode.UNIMPLEMENTED),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_each_domain_error_has_its_code_and_reason(kit: Kit, error: errors.DomainError, code: grpc.StatusCode) -> None:
    def fail() -> None:
        raise error

    kit.servicer.get_metrics = fail
    refused = failure(lambda: kit.stub.GetMetrics(pb.GetMetricsRequest(), timeout=60))
    assert refused.code() is code
    status, info = details(refused)
    assert (status.code, status.message) == (code.value[0], "m")
    assert (info.reason, info.domain) == (error.reason, "penstock")
    assert info.metadata["retryable"] == str(error.retryable).lower()


def test_a_more_specific_error_takes_the_code_of_its_kind(kit: Kit) -> None:
    class Sold(errors.FailedPrecondition):
        default_reason = "SOLD"

    def fail() -> None:
        raise Sold("gone")

    kit.servicer.get_metrics = fail
    refused = failure(lambda: kit.stub.GetMetrics(pb.GetMetricsRequest(), timeout=60))
    assert refused.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details(refused)[1].reason == "SOLD"


def test_a_violation_names_the_field_and_a_wait_is_said(kit: Kit) -> None:
    raised: list[errors.DomainError] = [errors.InvalidArgument.field("page_size", "got -1; 1 to 10 are allowed")]

    def fail() -> None:
        raise raised[0]

    kit.servicer.get_metrics = fail
    status, _ = details(failure(lambda: kit.stub.GetMetrics(pb.GetMetricsRequest(), timeout=60)))
    assert status.details[1].type_url == "type.googleapis.com/google.rpc.BadRequest"
    assert BadRequest.FromString(status.details[1].value).field_violations[0].field == "page_size"
    raised[0] = errors.Unavailable("later", retry_after_s=1.5)
    status, _ = details(failure(lambda: kit.stub.GetMetrics(pb.GetMetricsRequest(), timeout=60)))
    assert RetryInfo.FromString(status.details[1].value).retry_delay.ToMilliseconds() == 1_500


def test_a_defect_tells_the_client_an_id_and_nothing_else(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise KeyError("the password")

    kit.servicer.get_metrics = fail
    refused = failure(lambda: kit.stub.GetMetrics(pb.GetMetricsRequest(), timeout=60))
    assert refused.code() is grpc.StatusCode.INTERNAL
    assert "password" not in str(refused.details())
    assert details(refused)[1].metadata["error_id"] in str(refused.details())


def test_a_quote_of_ten_thousand_characters_still_reaches_the_client(kit: Kit) -> None:
    def fail() -> None:
        raise errors.InvalidArgument.field("name", "x" * 10_000)

    kit.servicer.get_metrics = fail
    refused = failure(lambda: kit.stub.GetMetrics(pb.GetMetricsRequest(), timeout=60))
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(str(refused.details())) <= 2_000


def test_an_error_in_mid_stream_is_mapped_too(kit: Kit) -> None:
    answers = kit.stub.RecordEvents(iter([pb.RecordEventsRequest(batch_id=1), pb.RecordEventsRequest(batch_id=-1)]))
    assert next(answers).batch_id == 1
    refused = failure(lambda: next(answers))
    assert refused.code() is grpc.StatusCode.ABORTED
    assert details(refused)[1].reason == "SCRIPTED"


def test_a_message_over_the_limit_is_refused(tmp_path: Path) -> None:
    with Kit(tmp_path, max_message_bytes=4_096).running() as kit:
        refused = failure(lambda: kit.stub.GetMetrics(pb.GetMetricsRequest(model="x" * 5_000), timeout=60))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert kit.stub.GetMetrics(pb.GetMetricsRequest(model="x"), timeout=60).inference_count == 1


def test_health_answers_while_every_request_thread_is_taken(tmp_path: Path) -> None:
    release = threading.Event()
    with Kit(tmp_path, request_threads=2, request_backlog=2).running() as kit, ThreadPoolExecutor() as clients:
        kit.servicer.get_metrics = lambda: release.wait(120)
        calls = [kit.stub.GetMetrics.future(pb.GetMetricsRequest(model="iris"), timeout=120) for _ in range(10)]
        eventually(lambda: sum(call.done() for call in calls) == 6)
        assert clients.submit(kit.status).result(60) == health_pb2.HealthCheckResponse.SERVING
        refused = [call for call in calls if call.done()]
        raised = [error_of(call) for call in refused]
        assert {error.code() for error in raised} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert details(raised[0])[1].reason == "SERVER_BUSY"
        release.set()
        answered = [call for call in calls if call not in refused]
        assert [call.result().inference_count for call in answered] == [4, 4, 4, 4]


def test_health_answers_while_every_thread_of_the_control_calls_is_taken(tmp_path: Path) -> None:
    entered, release = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        entered.release()
        release.wait(120)

    kit = Kit(tmp_path)
    first, *others = kit.server._services
    kit.server._services = [replace(first, control=frozenset({"GetMetrics"})), *others]
    with kit.running():
        kit.servicer.get_metrics = hold
        calls = [kit.stub.GetMetrics.future(pb.GetMetricsRequest(), timeout=120) for _ in range(CONTROL_THREADS + 1)]
        assert all(entered.acquire(timeout=120) for _ in range(CONTROL_THREADS))
        assert kit.status() == health_pb2.HealthCheckResponse.SERVING
        release.set()
        assert [call.result().inference_count for call in calls] == [0] * len(calls)


@pytest.mark.parametrize("servicer", [caching, control, oip], ids=lambda module: module.NAME)
def test_what_asks_every_worker_or_redis_is_not_among_the_control_calls(servicer: Any) -> None:
    asking = {"GetCacheStats", "ResetCacheStats", "PurgeCache", "LoadModel", "UnloadModel", "ListSessions"}
    asking |= {"RepositoryModelLoad", "RepositoryModelUnload", "ModelStatistics", "TraceSetting", "LogSettings"}
    asking |= {"SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"}
    service = servicer.service(object())
    assert asking & set(service.roles)
    assert not asking & (service.control | service.brief)


def error_of(call: Any) -> grpc.Call:
    return cast("grpc.Call", call.exception())


def test_streams_are_bounded_and_free_their_place(tmp_path: Path) -> None:
    with Kit(tmp_path, max_streams=1).running() as kit:
        hold = threading.Event()
        first = kit.stub.RecordEvents(requests_until(hold), timeout=120)
        assert next(first).batch_id == 1
        refused = failure(lambda: next(kit.stub.RecordEvents(iter([pb.RecordEventsRequest()]), timeout=60)))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        hold.set()
        assert list(first) == []
        eventually(lambda: stream_opens(kit))


def stream_opens(kit: Kit) -> bool:
    try:
        return next(kit.stub.RecordEvents(iter([pb.RecordEventsRequest(batch_id=3)]), timeout=60)).batch_id == 3
    except grpc.RpcError:
        return False


def requests_until(hold: threading.Event) -> Iterator[pb.RecordEventsRequest]:
    yield pb.RecordEventsRequest(batch_id=1)
    hold.wait(120)


def test_draining_ends_an_idle_stream_with_unavailable_at_once(tmp_path: Path) -> None:
    hold = threading.Event()
    kit = Kit(tmp_path, drain_grace_ms=20_000)
    with kit.running():
        answers = kit.stub.RecordEvents(requests_until(hold), timeout=120)
        assert next(answers).batch_id == 1
        closing = threading.Thread(target=kit.server.close)
        closing.start()
        refused = failure(lambda: next(answers))
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        assert details(refused)[1].reason == "DRAINING"
        hold.set()
        closing.join(60)
        assert not closing.is_alive()


def test_draining_finishes_what_is_in_flight(tmp_path: Path) -> None:
    entered, release = threading.Event(), threading.Event()
    kit = Kit(tmp_path)
    with kit.running():

        def hold() -> None:
            entered.set()
            release.wait(120)

        kit.servicer.get_metrics = hold
        call = kit.stub.GetMetrics.future(pb.GetMetricsRequest(model="iris"), timeout=120)
        assert entered.wait(60)
        closing = threading.Thread(target=kit.server.close)
        closing.start()
        eventually(lambda: kit.server.draining)
        release.set()
        assert call.result().inference_count == 4
        closing.join(60)
        assert not closing.is_alive()


def test_closing_ends_with_its_grace_though_a_call_hangs(tmp_path: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        release.wait(120)

    kit = Kit(tmp_path, drain_grace_ms=100)
    with kit.running():
        kit.servicer.get_metrics = hang
        call = kit.stub.GetMetrics.future(pb.GetMetricsRequest(), timeout=120)
        assert entered.wait(60)
        closing = threading.Thread(target=kit.server.close)
        closing.start()
        closing.join(60)
        ended = not closing.is_alive()
        release.set()
        closing.join(60)
        assert ended
        assert error_of(call) is not None


def test_a_client_that_leaves_reaches_the_use_case(kit: Kit) -> None:
    hold = threading.Event()
    answers = kit.stub.RecordEvents(requests_until(hold), timeout=120)
    assert next(answers).batch_id == 1
    answers.cancel()
    assert kit.servicer.ended.wait(60)
    # grpc may show a client's leaving as a clean end of its requests; an error of grpc's own never comes through.
    assert all(isinstance(error, errors.Cancelled) for error in kit.servicer.saw_end)
    hold.set()


def test_health_follows_the_dependencies(kit: Kit) -> None:
    assert kit.status(NAME) == health_pb2.HealthCheckResponse.SERVING
    kit.down = errors.Unavailable("the database is gone")
    eventually(lambda: kit.status(NAME) == health_pb2.HealthCheckResponse.NOT_SERVING)
    kit.down = None
    eventually(lambda: kit.status(NAME) == health_pb2.HealthCheckResponse.SERVING)


def test_reflection_names_the_services(kit: Kit) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(kit.channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(stub.ServerReflectionInfo(iter([ask]), timeout=60))
    assert NAME in {service.name for service in answer.list_services_response.service}


def test_the_metrics_port_counts_calls_by_code(tmp_path: Path) -> None:
    with metered(Kit(tmp_path)) as (kit, url):
        for _ in range(2):
            kit.stub.GetMetrics(pb.GetMetricsRequest(), timeout=60)

        def fail() -> None:
            raise errors.NotFound("nothing")

        kit.servicer.get_metrics = fail
        failure(lambda: kit.stub.GetMetrics(pb.GetMetricsRequest(), timeout=60))
        page = urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode()
    labels = f'grpc_method="GetMetrics",grpc_service="{NAME}",grpc_type="unary"'
    assert f"grpc_server_started_total{{{labels}}} 3.0" in page
    assert f'grpc_server_handled_total{{grpc_code="OK",{labels}}} 2.0' in page
    assert f'grpc_server_handled_total{{grpc_code="NOT_FOUND",{labels}}} 1.0' in page
    assert f"grpc_server_handling_seconds_count{{{labels}}} 3.0" in page


def test_the_metrics_port_answers_probes_as_health_does(tmp_path: Path) -> None:
    with metered(Kit(tmp_path)) as (kit, url):

        def status(path: str) -> int:
            try:
                return int(urllib.request.urlopen(f"{url}{path}", timeout=60).status)
            except HTTPError as refused:
                return refused.code

        assert status("/readyz") == status("/livez") == 200
        kit.down = errors.Unavailable("the database is gone")
        eventually(lambda: status("/readyz") == 503)
        assert status("/livez") == 200


@contextmanager
def metered(kit: Kit) -> Iterator[tuple[Kit, str]]:
    """Run a kit, and give the address of its metrics port too."""
    ports: list[int] = []
    opened = kit.metrics.open
    kit.metrics.open = lambda: ports.append(opened()) or ports[0]  # type: ignore[method-assign,func-returns-value] # to learn the port
    with kit.running():
        yield kit, f"http://127.0.0.1:{ports[0]}"


def test_an_open_address_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        Kit(tmp_path, host="0.0.0.0").server.open()
    assert caught.value.reason == "INSECURE_ADDRESS"
    with Kit(tmp_path, host="0.0.0.0", insecure=True).running() as kit:
        assert kit.status() == health_pb2.HealthCheckResponse.SERVING


def test_a_second_server_on_the_same_port_fails(kit: Kit, tmp_path: Path) -> None:
    second = Kit(tmp_path)
    second.server = Server(
        ServerSettings(port=kit.port, metrics_port=0), [], keys=KeyRing(None), metrics=MetricsServer("127.0.0.1", 0)
    )
    with pytest.raises(errors.FailedPrecondition) as caught:
        second.server.open()
    assert caught.value.reason == "ADDRESS_IN_USE"

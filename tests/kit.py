"""A server of the kit with a scripted servicer behind it, over a real socket: what its tests share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Never, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.api.monitoring.v1 import monitoring_pb2_grpc as pb_grpc
from penstock.api.registry.v1 import registry_pb2 as files
from penstock.api.registry.v1 import registry_pb2_grpc as files_grpc
from penstock.api.status.v1.status_pb2 import ErrorInfo, Status
from services.common import errors, keys
from services.common.keys import KeyRing, Role
from services.common.metrics import MetricsServer
from services.common.server import Server, Service
from services.common.settings import ServerSettings

FILES_DESCRIPTOR = files.DESCRIPTOR.services_by_name["RegistryService"]
FILES_NAME = FILES_DESCRIPTOR.full_name
NAME = "penstock.api.monitoring.v1.MonitoringService"
ROLES = {
    "RecordEvents": Role.OPERATOR,
    "RecordFeedback": Role.OPERATOR,
    "GetInference": Role.VIEWER,
    "ListInferences": Role.VIEWER,
    "GetMetrics": Role.VIEWER,
    "ListQuarantinedEvents": Role.OPERATOR,
}


class Scripted(pb_grpc.MonitoringServiceServicer):
    """Does what the test says."""

    def __init__(self) -> None:
        self.get_metrics: Callable[[], object] = lambda: None
        self.answer_bytes = 0
        self.peer: Mapping[str, Any] = {}
        self.saw_end: list[BaseException] = []
        self.ended = threading.Event()

    def GetMetrics(self, request: pb.GetMetricsRequest, context: grpc.ServicerContext) -> pb.GetMetricsResponse:
        self.get_metrics()
        self.peer = context.auth_context()
        return pb.GetMetricsResponse(inference_count=len(request.model))

    def GetInference(self, request: pb.GetInferenceRequest, context: grpc.ServicerContext) -> pb.GetInferenceResponse:
        event = pb.InferenceEvent(inference_id=keys.caller().name, model="x" * self.answer_bytes)
        return pb.GetInferenceResponse(inference=pb.Inference(event=event))

    def RecordFeedback(self, request: pb.RecordFeedbackRequest, context: grpc.ServicerContext) -> Never:
        raise NotImplementedError

    def ListInferences(self, request: pb.ListInferencesRequest, context: grpc.ServicerContext) -> Never:
        raise NotImplementedError

    def ListQuarantinedEvents(self, request: pb.ListQuarantinedEventsRequest, context: grpc.ServicerContext) -> Never:
        raise NotImplementedError

    def RecordEvents(
        self, request_iterator: Iterator[pb.RecordEventsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.RecordEventsResponse]:
        try:
            for request in request_iterator:
                if request.batch_id < 0:
                    raise errors.Aborted("negative", reason="SCRIPTED")
                yield pb.RecordEventsResponse(batch_id=request.batch_id)
        except BaseException as error:
            self.saw_end.append(error)
            raise
        finally:
            self.ended.set()


class ScriptedFiles(files_grpc.RegistryServiceServicer):
    """Takes uploads, gives downloads and lets itself be watched, without any registry behind it."""

    def __init__(self) -> None:
        self.chunks: list[int] = []
        self.broken: list[BaseException] = []
        self.stored = 0
        self.reached, self.ended, self.storing = threading.Event(), threading.Event(), threading.Event()
        self.may_store = threading.Event()
        self.may_store.set()

    def RegisterVersion(
        self, request_iterator: Iterator[files.RegisterVersionRequest], context: grpc.ServicerContext
    ) -> files.RegisterVersionResponse:
        try:
            for request in request_iterator:
                self.chunks.append(len(request.chunk))
                self.reached.set()
            self.storing.set()
            self.may_store.wait(120)
            self.stored += 1
        except BaseException as error:
            self.broken.append(error)
            raise
        finally:
            self.ended.set()
        return files.RegisterVersionResponse(version=files.ModelVersion(version=keys.caller().name))

    def DownloadFile(
        self, request: files.DownloadFileRequest, context: grpc.ServicerContext
    ) -> Iterator[files.DownloadFileResponse]:
        try:
            for _ in range(1_000):
                yield files.DownloadFileResponse(chunk=bytes(64 * 1024))
                self.reached.set()
        finally:
            self.ended.set()

    def WatchModels(
        self, request: files.WatchModelsRequest, context: grpc.ServicerContext
    ) -> Iterator[files.WatchModelsResponse]:
        gone = threading.Event()
        assert context.add_callback(gone.set)
        yield files.WatchModelsResponse(revision=1)
        gone.wait(120)
        self.ended.set()


class Kit:
    """A server under test and a channel to it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.servicer = Scripted()
        self.down: errors.DomainError | None = None
        self.settings = ServerSettings(port=0, metrics_port=0, health_interval_ms=50, **settings)
        keyring = KeyRing(self.settings.keys_file)
        keyring.open()
        self.metrics = MetricsServer("127.0.0.1", 0)
        service = Service(
            name=NAME,
            register=partial(pb_grpc.add_MonitoringServiceServicer_to_server, self.servicer),
            roles=ROLES,
            endless=frozenset({"RecordEvents"}),
        )
        self.files = ScriptedFiles()  # type: ignore[abstract] # what is not scripted answers UNIMPLEMENTED
        registry = Service(
            name=FILES_NAME,
            register=partial(files_grpc.add_RegistryServiceServicer_to_server, self.files),
            roles=dict.fromkeys(FILES_DESCRIPTOR.methods_by_name, Role.OPERATOR),
            endless=frozenset({"WatchModels"}),
        )
        self.server = Server(
            self.settings, [service, registry], keys=keyring, metrics=self.metrics, checks=(self._check,)
        )

    def _check(self) -> None:
        if self.down is not None:
            raise self.down

    @contextmanager
    def running(self) -> Iterator[Kit]:
        self.port = self.server.open()
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as self.channel:
            self.stub = pb_grpc.MonitoringServiceStub(self.channel)
            self.uploads = files_grpc.RegistryServiceStub(self.channel)
            self.health = health_pb2_grpc.HealthStub(self.channel)
            try:
                yield self
            finally:
                self.server.close()

    def status(self, service: str = "") -> health_pb2.HealthCheckResponse.ServingStatus:
        return self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status


def failure(call: Callable[[], object]) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return cast("grpc.Call", caught.value)


def details(error: grpc.Call) -> tuple[Status, ErrorInfo]:
    trailing = dict(error.trailing_metadata() or ())
    value = trailing["grpc-status-details-bin"]
    assert isinstance(value, bytes)
    status = Status.FromString(value)
    return status, ErrorInfo.FromString(status.details[0].value)


def eventually(met: Callable[[], bool], *, within_s: float = 60) -> None:
    deadline = threading.Event()
    for _ in range(int(within_s / 0.01)):
        if met():
            return
        deadline.wait(0.01)
    pytest.fail("it did not come to pass")


def write_keys(path: Path, limits: dict[str, dict[str, object]] | None = None, **roles: str) -> None:
    """Replace the keys file; each key's token is its name. `limits` adds fields to the entry of that name."""
    entries = [
        {
            "id": name,
            "name": name,
            "role": role,
            "sha256": sha256(name.encode()).hexdigest(),
            **(limits or {}).get(name, {}),
        }
        for name, role in roles.items()
    ]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": entries}))
    fresh.replace(path)


def bearing(name: str) -> tuple[tuple[str, str]]:
    """Give the metadata of a caller."""
    return (("authorization", f"Bearer {name}"),)

"""What one worker is told holds on all: regions of shared memory and the log, also with a worker that comes later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from services.inference.oip import open_inference_pb2 as oip
from services.inference.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.inference import DEADLINE_S, fp32, until_known, wait_until
from tests.postgres import PostgresServer
from tests.services import Running
from tests.testdata import models
from tests.workers import WorkersService, running_backends, running_workers

pytestmark = pytest.mark.slow
CONNECTIONS = 16
ROW = fp32([[1, 2, 3, 4]])
KEY = f"penstock_told_{os.getpid()}"


@pytest.fixture(scope="module")
def backends(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Running]]:
    with running_backends(postgres_server, tmp_path_factory.mktemp("backends")) as running:
        yield running


@pytest.fixture(scope="module")
def service(backends: tuple[Running, Running], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkersService]:
    with running_workers(tmp_path_factory.mktemp("service"), *backends, PENSTOCK_SHARED_MEMORY="true") as running:
        running.client.registry.register_version("linear", "1", models.linear(), framework="onnx")
        with running.stubs(CONNECTIONS) as stubs:
            for stub in stubs:
                until_known(stub, "linear")
        yield running


@contextmanager
def shared_object() -> Iterator[Path]:
    """An object of shared memory that holds a row."""
    path = Path("/dev/shm") / KEY
    path.touch(0o600)
    path.write_bytes(ROW.tobytes())
    try:
        yield path
    finally:
        path.unlink()


def from_memory() -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="linear")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    tensor.parameters["shared_memory_region"].string_param = "row"
    tensor.parameters["shared_memory_byte_size"].int64_param = ROW.nbytes
    return request


def codes(stubs: list[GRPCInferenceServiceStub]) -> set[str]:
    """Ask over each connection, and give the codes."""
    found = set()
    for stub in stubs:
        try:
            stub.ModelInfer(from_memory(), timeout=DEADLINE_S)
            found.add("OK")
        except grpc.RpcError as error:
            found.add(error.code().name)
    return found


def log_info(stub: GRPCInferenceServiceStub) -> bool:
    return stub.LogSettings(oip.LogSettingsRequest(), timeout=DEADLINE_S).settings["log_info"].bool_param


def test_a_region_is_there_on_every_connection_and_gone_from_every_one(service: WorkersService) -> None:
    with shared_object(), service.stubs(CONNECTIONS) as stubs:
        assert codes(stubs) == {"NOT_FOUND"}
        region = oip.SystemSharedMemoryRegisterRequest(name="row", key=KEY, byte_size=ROW.nbytes)
        stubs[0].SystemSharedMemoryRegister(region, timeout=DEADLINE_S)
        assert codes(stubs) == {"OK"}
        for stub in stubs:
            listed = stub.SystemSharedMemoryStatus(oip.SystemSharedMemoryStatusRequest(), timeout=DEADLINE_S)
            assert list(listed.regions) == ["row"]
        stubs[-1].SystemSharedMemoryUnregister(oip.SystemSharedMemoryUnregisterRequest(), timeout=DEADLINE_S)
        assert codes(stubs) == {"NOT_FOUND"}


def test_a_worker_that_comes_later_knows_the_regions_and_the_log(service: WorkersService) -> None:
    with shared_object():
        with service.stubs(1) as (stub,):
            region = oip.SystemSharedMemoryRegisterRequest(name="row", key=KEY, byte_size=ROW.nbytes)
            stub.SystemSharedMemoryRegister(region, timeout=DEADLINE_S)
            quiet = oip.LogSettingsRequest()
            quiet.settings["log_info"].bool_param = False
            stub.LogSettings(quiet, timeout=DEADLINE_S)
        before = {child.pid for child in service.children()}
        service.children()[0].kill()
        wait_until(lambda: len({child.pid for child in service.children()} - before) == 1 or None)
        service.until_serving(2)
        with service.stubs(CONNECTIONS) as stubs:
            assert codes(stubs) == {"OK"}
            assert {log_info(stub) for stub in stubs} == {False}

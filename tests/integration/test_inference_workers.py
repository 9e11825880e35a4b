"""Several workers on one port: to those who call, they are one service."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.api.inference.v1 import sessions_pb2 as pb
from services.inference.oip import open_inference_pb2 as oip
from services.inference.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.inference import event_of, fp32, infer_request, wait_until
from tests.postgres import PostgresServer
from tests.services import Running
from tests.testdata import models
from tests.workers import FOLLOWER, WorkersService, command_of, running_backends, running_workers

pytestmark = pytest.mark.slow
ROW = {"x": fp32([[1, 2, 3, 4]])}
QUICK = {**ROW, "turns": np.array([1])}
SLOW = {**ROW, "turns": np.array([1_000_000])}
"""Takes the model `slow` about a second."""
MANY = 16
"""Connections, so many that none of two workers is left out (once in 32,768 runs)."""


@pytest.fixture(scope="module")
def backends(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Running]]:
    """A registry and monitoring."""
    with running_backends(postgres_server, tmp_path_factory.mktemp("backends")) as running:
        yield running


@pytest.fixture(scope="module")
def service(backends: tuple[Running, Running], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkersService]:
    """Two workers that serve the model `linear`."""
    with running_workers(tmp_path_factory.mktemp("service"), *backends) as running:
        running.client.registry.register_version("linear", "1", models.linear(), framework="onnx")
        with running.stubs(MANY) as stubs:
            for stub in stubs:
                until_known(stub, "linear")
        yield running


def until_known(stub: GRPCInferenceServiceStub, model: str, *, known: bool = True) -> None:
    request = oip.ModelReadyRequest(name=model)
    wait_until(lambda: stub.ModelReady(request, timeout=60).ready is known or None)


def predict_on(stubs: list[GRPCInferenceServiceStub], each: int) -> None:
    """Predict on every connection at once."""

    def work(stub: GRPCInferenceServiceStub) -> None:
        for _ in range(each):
            assert len(stub.ModelInfer(infer_request("linear", ROW), timeout=60).outputs) == 1

    with ThreadPoolExecutor(len(stubs)) as pool:
        list(pool.map(work, stubs))


def connections(service: WorkersService) -> list[int]:
    """Count each worker's open connections on the port."""
    port = int(service.address.rpartition(":")[2])
    return [
        sum(each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in worker.net_connections())
        for worker in service.children()
    ]


def test_connections_reach_both_workers_and_the_counts_are_those_of_both(service: WorkersService) -> None:
    before = service.metrics().get("nv_inference_request_success", 0)
    with service.stubs(MANY) as stubs:
        predict_on(stubs, 25)
        assert min(connections(service)) > 0
        assert service.metrics()["nv_inference_request_success"] - before == MANY * 25
        for stub in stubs:  # whichever worker answers
            counts = stub.ModelStatistics(oip.ModelStatisticsRequest(name="linear"), timeout=60).model_stats[0]
            assert counts.inference_stats.success.count - before == MANY * 25
            assert sum(each.compute_infer.count for each in counts.batch_stats) <= MANY * 25 + before


def test_the_supervisor_has_no_grpc_and_no_runtime_in_it(service: WorkersService) -> None:
    loaded = {Path(each.path).name for each in psutil.Process(service.process.pid).memory_maps()}
    assert not [name for name in loaded if "grpc" in name or "onnxruntime" in name]
    names = "grpc", "onnxruntime", "numpy", "penstock"
    script = f"import sys, services.inference.workers.supervisor; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    (follower,) = service.children(FOLLOWER)
    assert not [each for each in follower.memory_maps() if "onnxruntime" in each.path]


def test_what_the_registry_says_reaches_both(service: WorkersService) -> None:
    service.client.registry.register_version("later", "1", models.linear(), framework="onnx")
    with service.stubs(MANY) as stubs:
        for stub in stubs:
            until_known(stub, "later")
        service.client.registry.delete_version("later", "1")
        for stub in stubs:
            until_known(stub, "later", known=False)


def test_load_and_unload_reach_both(service: WorkersService) -> None:
    def loaded() -> list[int]:
        with service.session_stub() as stub:
            answer = stub.ListSessions(pb.ListSessionsRequest(model="linear"), timeout=60)
        return sorted(each.worker for each in answer.sessions)

    with service.session_stub() as stub:
        stub.LoadModel(pb.LoadModelRequest(model="linear"), timeout=60)
        assert loaded() == [0, 1]
        stub.UnloadModel(pb.UnloadModelRequest(model="linear"), timeout=60)
        assert loaded() == []


def test_health_is_the_services_on_either_port(service: WorkersService) -> None:
    assert service.probe("/livez") == service.probe("/readyz") == 200
    for _ in range(MANY):
        with service.channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            status = stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status
            assert status == health_pb2.HealthCheckResponse.SERVING


def test_each_worker_has_its_share_of_the_memory_and_its_own_spool(service: WorkersService) -> None:
    environments = [each.environ() for each in service.children()]
    assert all('"count": 2' in each["PENSTOCK_WORKER"] for each in environments)
    page = service.metrics()
    assert page["penstock_workers"] == page["penstock_workers_heard"] == 2
    with service.connect() as client:
        answer = client.inference.predict("linear", tensors={"x": ROW["x"]})
    assert event_of(service.client, answer.inference_id).event.model == "linear"


def test_a_second_server_on_the_port_is_refused(service: WorkersService, tmp_path: Path) -> None:
    port = service.address.rpartition(":")[2]
    for workers in ("1", "2"):
        command, environment = command_of(
            tmp_path, "127.0.0.1:1", "127.0.0.1:1", PENSTOCK_PORT=port, PENSTOCK_INFERENCE_WORKERS=workers
        )
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 1
        assert '"reason": "ADDRESS_IN_USE"' in done.stderr
    assert len(service.children()) == 2


def test_connections_move_on_with_age_and_no_call_is_lost(backends: tuple[Running, Running], tmp_path: Path) -> None:
    with (
        running_workers(tmp_path, *backends, PENSTOCK_MAX_CONNECTION_AGE_MS="300") as service,
        service.stubs(1) as stubs,
    ):
        until_known(stubs[0], "linear")
        seen: set[int] = set()

        def look() -> bool:
            predict_on(stubs, 5)
            port = int(service.address.rpartition(":")[2])
            for worker in service.children():
                open_ones = [each for each in worker.net_connections() if each.laddr.port == port and each.raddr]
                seen.update(each.raddr.port for each in open_ones)
            return len(seen) >= 4

        wait_until(lambda: look() or None)


def test_our_own_client_opens_connections_for_both_workers(service: WorkersService) -> None:
    port = int(service.address.rpartition(":")[2])

    def callers() -> set[int]:
        found = [each for worker in service.children() for each in worker.net_connections()]
        return {each.raddr.port for each in found if each.laddr.port == port and each.raddr}

    before = callers()  # some may be just closing
    with service.connect() as client:

        def enough() -> bool:
            client.inference.predict("linear", tensors=ROW)
            return len(callers() - before) >= 8

        wait_until(lambda: enough() or None)


def test_a_drain_answers_what_is_in_flight(backends: tuple[Running, Running], tmp_path: Path) -> None:
    # What takes a second takes many where others want the processors as well.
    with running_workers(tmp_path, *backends, PENSTOCK_DRAIN_GRACE_MS="200000") as service:
        service.client.registry.register_version("slow", "1", models.patient(), framework="onnx")
        with service.stubs(4) as stubs:
            for stub in stubs:
                until_known(stub, "slow")
                stub.ModelInfer(infer_request("slow", QUICK), timeout=60)
            calls = [stub.ModelInfer.future(infer_request("slow", SLOW), timeout=200) for stub in stubs]
            wait_until(lambda: service.metrics().get("nv_inference_pending_request_count") == 4 or None)
            service.process.send_signal(signal.SIGTERM)
            for call in calls:
                assert call.result().outputs
            assert service.process.wait(200) == 0

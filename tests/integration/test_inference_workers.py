"""Several workers on one port: to those who call, they are one service."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from services.inference.oip.open_inference_pb2 import ModelReadyRequest, ModelStatisticsRequest, ServerReadyRequest
from services.inference.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.inference import event_of, fp32, infer_request, wait_until
from tests.postgres import PostgresServer
from tests.services import Running
from tests.testdata import models
from tests.workers import FOLLOWER, WORKER, WorkersService, command_of, running_backends, running_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
ROW = {"x": fp32([[1, 2, 3, 4]])}


@pytest.fixture(scope="module")
def backends(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Running]]:
    """A registry with one model, and monitoring."""
    with running_backends(postgres_server, tmp_path_factory.mktemp("backends")) as running:
        yield running


@pytest.fixture(scope="module")
def service(backends: tuple[Running, Running], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkersService]:
    """Two workers that serve the model `linear`."""
    with running_workers(tmp_path_factory.mktemp("service"), *backends) as running:
        running.client.registry.register_version("linear", "1", models.linear(), framework="onnx")
        with running.stubs(8) as stubs:
            for stub in stubs:
                until_known(stub, "linear")
        yield running


def until_known(stub: GRPCInferenceServiceStub, model: str) -> None:
    wait_until(lambda: stub.ModelReady(ModelReadyRequest(name=model), timeout=10).ready or None)


def predict_on(stubs: list[GRPCInferenceServiceStub], each: int) -> int:
    """Predict on every connection at once; gives the number of answers."""

    def work(stub: GRPCInferenceServiceStub) -> int:
        return sum(len(stub.ModelInfer(infer_request("linear", ROW), timeout=30).outputs) for _ in range(each))

    with ThreadPoolExecutor(len(stubs)) as pool:
        return sum(pool.map(work, stubs))


def test_connections_reach_both_workers_and_the_counts_are_those_of_both(service: WorkersService) -> None:
    before = service.metrics().get("nv_inference_request_success", 0)
    cpu_before = {each.pid: each.cpu_times().user for each in service.children()}
    with service.stubs(16) as stubs:
        assert predict_on(stubs, 50) == 16 * 50
        assert service.metrics()["nv_inference_request_success"] - before == 16 * 50
        for stub in stubs:  # whichever worker answers
            counts = stub.ModelStatistics(ModelStatisticsRequest(name="linear"), timeout=10).model_stats[0]
            assert counts.inference_stats.success.count - before == 16 * 50
    busier = [each.cpu_times().user > cpu_before[each.pid] for each in service.children()]
    assert busier == [True, True]

"""The response cache of a service that runs several workers: each keeps answers of its own, and they are run as one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.inference.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.inference import DEADLINE_S, fp32, infer_request, until_known, wait_until
from tests.postgres import PostgresServer
from tests.testdata import models
from tests.workers import WorkersService, running_backends, running_workers

pytestmark = pytest.mark.slow
CONNECTIONS = 16
ROW = {"x": fp32([[1, 2, 3, 4]])}


@pytest.fixture(scope="module")
def service(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkersService]:
    with (
        running_backends(postgres_server, tmp_path_factory.mktemp("backends")) as backends,
        running_workers(
            tmp_path_factory.mktemp("service"), *backends, PENSTOCK_RESPONSE_CACHE_BYTES=str(2**21)
        ) as running,
    ):
        running.client.registry.register_version("linear", "1", models.linear(), framework="onnx")
        with running.stubs(CONNECTIONS) as stubs:
            for stub in stubs:
                until_known(stub, "linear")
            settings = {"response_cache": {"enabled": True}}
            running.client.registry.update_version("linear", "1", serving_settings=settings)
            for stub in stubs:
                wait_until(lambda: said(stub) == "HIT" or None)  # noqa: B023 - called at once
        yield running


def said(stub: GRPCInferenceServiceStub) -> str:
    _, call = stub.ModelInfer.with_call(infer_request("linear", ROW), timeout=DEADLINE_S)
    return str(dict(call.trailing_metadata()).get("penstock-cache", ""))


def test_the_counts_are_of_all_workers_and_a_purge_and_a_reset_reach_each(service: WorkersService) -> None:
    with service.stubs(CONNECTIONS) as stubs, service.connect() as client:
        held = client.inference.cache_stats()
        assert (held.entry_count, held.max_bytes) == (2, 2**21), "each worker has half of the room, and its own answer"
        client.inference.reset_cache_stats()
        assert not client.inference.cache_stats().versions
        assert {said(stub) for stub in stubs} == {"HIT"}
        assert client.inference.cache_stats().versions[0].hit_count == CONNECTIONS
        assert client.inference.purge_cache("linear") == 2
        answers = [said(stub) for stub in stubs]
        assert (answers.count("MISS"), answers.count("HIT")) == (2, CONNECTIONS - 2)
        (counts,) = client.inference.cache_stats("linear").versions
        assert (counts.hit_count, counts.miss_count, counts.stored_count) == (2 * CONNECTIONS - 2, 2, 2)
        metrics = service.metrics()
        assert metrics["penstock_response_cache_stored_total"] == 2, "told once, not once a worker"
        assert metrics["penstock_response_cache_answers"] == 2

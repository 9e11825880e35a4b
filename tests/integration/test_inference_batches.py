"""Batches, warm-ups and preloading on a real suite with real models: what a client sees of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

import penstock
from penstock.api.registry.v1.registry_pb2 import ServingSettings, WarmUpRequest
from penstock.api.tensors.v1.tensors_pb2 import DATA_TYPE_FP32, DATA_TYPE_INT64, Tensor
from services.inference.oip import open_inference_pb2 as oip
from tests import inference
from tests.inference import Suite, fp32, infer_request
from tests.postgres import PostgresServer
from tests.registry import refusal
from tests.testdata import models

pytestmark = pytest.mark.slow
CALLERS = 32


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One suite for all: each test has a model of its own."""
    with inference.running_suite(postgres_server, tmp_path_factory.mktemp("suite"), preload="named") as suite:
        yield suite


def statistics(suite: Suite, model: str) -> oip.ModelStatistics:
    """Read a model's counts."""
    (counts,) = suite.oip.ModelStatistics(oip.ModelStatisticsRequest(name=model)).model_stats
    return counts


def test_many_callers_are_answered_by_fewer_runs_and_each_with_its_own_rows(suite: Suite) -> None:
    inference.serve(suite, "wide", models.linear())
    rng = np.random.default_rng(7)
    inputs = [rng.normal(size=(1 + number % 3, 4)).astype(np.float32) for number in range(CALLERS)]

    def ask(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        answer = suite.oip.ModelInfer(infer_request("wide", {"x": rows}), timeout=inference.DEADLINE_S)
        return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(len(rows), -1)

    alone = [ask(rows) for rows in inputs]
    with ThreadPoolExecutor(CALLERS) as pool:
        for _ in range(20):
            together = list(pool.map(ask, inputs))
            for expected, found in zip(alone, together, strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-5)
    counts = statistics(suite, "wide")
    assert counts.inference_stats.success.count == CALLERS * 21
    assert counts.inference_count == sum(map(len, inputs)) * 21
    assert counts.execution_count < counts.inference_stats.success.count, "some ran together"


def test_one_poisonous_request_among_31_good_ones_fails_alone(suite: Suite) -> None:
    inference.serve(suite, "words", models.embedding())

    def ask(index: int) -> str:
        request = infer_request("words", {"ids": np.array([[index]])})
        try:
            suite.oip.ModelInfer(request, timeout=inference.DEADLINE_S)
        except grpc.RpcError as error:
            return refusal(error)[1]
        return ""

    with ThreadPoolExecutor(CALLERS) as pool:
        for _ in range(20):
            said = list(pool.map(ask, [99, *[1] * (CALLERS - 1)]))
            assert said == ["INPUT_REFUSED", *[""] * (CALLERS - 1)]


def test_a_version_that_is_to_be_preloaded_is_loaded_and_warm_before_anybody_asks(suite: Suite) -> None:
    tensor = Tensor(name="x", datatype=DATA_TYPE_FP32, shape=[2, 4], raw=fp32([[1] * 4] * 2).tobytes())
    settings = ServingSettings(preload=True, warm_up=[WarmUpRequest(tensors=[tensor]), WarmUpRequest(row_count=3)])
    inference.register(suite.client, "early", models.linear(), serving_settings=settings)
    page = 'penstock_session_bytes{model="early",version="1.0.0"}'
    inference.wait_until(lambda: inference.metrics_page(suite.inference).get(page))
    assert suite.oip.ModelReady(oip.ModelReadyRequest(name="early")).ready
    assert statistics(suite, "early").inference_count == 0, "a warm-up is nobody's inference"


def test_a_model_that_the_server_was_told_to_load_is_loaded_as_soon_as_it_is_there(suite: Suite) -> None:
    inference.register(suite.client, "named", models.linear())
    page = 'penstock_session_bytes{model="named",version="1.0.0"}'
    inference.wait_until(lambda: inference.metrics_page(suite.inference).get(page))


def test_a_warm_up_that_fails_says_why_and_the_model_is_not_ready(suite: Suite) -> None:
    tensor = Tensor(name="ids", datatype=DATA_TYPE_INT64, shape=[1, 1], raw=np.array([[99]]).tobytes())
    settings = ServingSettings(warm_up=[WarmUpRequest(tensors=[tensor])])
    inference.register(suite.client, "cold", models.embedding(), serving_settings=settings)
    inference.wait_until(
        lambda: "cold" in {each.name for each in suite.oip.RepositoryIndex(oip.RepositoryIndexRequest()).models} or None
    )
    with pytest.raises(penstock.FailedPrecondition, match="warm-up request 1 of 1 failed: the model refuses") as caught:
        suite.client.inference.predict("cold", {"ids": np.array([[1]])})
    assert caught.value.reason == "WARM_UP_FAILED"
    assert not suite.oip.ModelReady(oip.ModelReadyRequest(name="cold")).ready

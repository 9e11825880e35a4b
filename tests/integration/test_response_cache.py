"""The response cache as callers and operators meet it, through both front doors of a whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from pydantic import SecretStr

import penstock
from penstock.api.inference.v1.inference_pb2 import PredictRequest
from penstock.api.tensors.v1.tensors_pb2 import Tensor
from penstock.tensors import to_tensor
from services.inference.oip import open_inference_pb2 as oip
from tests import inference
from tests.inference import Suite, fp32, infer_request
from tests.postgres import PostgresServer
from tests.redis_server import running_redis
from tests.testdata import models

ROW = fp32([[1, 2, 3, 4]])
ON = {"response_cache": {"enabled": True}}


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One suite for all: each test has a model of its own."""
    with inference.running_suite(postgres_server, tmp_path_factory.mktemp("suite")) as suite:
        yield suite


def predict(suite: Suite, model: str, x: Tensor | None = None, **more: object) -> tuple[str, str]:
    """Predict, and give the inference id and what the trailing metadata say of the cache."""
    request = PredictRequest(model=model, tensors=[to_tensor("x", ROW) if x is None else x], **more)  # type: ignore[arg-type]
    answer, call = suite.predict.Predict.with_call(request, timeout=inference.DEADLINE_S)
    return answer.inference_id, str(dict(call.trailing_metadata()).get("penstock-cache", ""))


def serve_kept(suite: Suite, model: str) -> None:
    """Serve a model whose answers are kept, and wait until that holds."""
    inference.serve(suite, model, models.linear())
    suite.client.registry.update_version(model, "1.0.0", serving_settings=ON)
    zeros = to_tensor("x", np.zeros((1, 4), np.float32))
    inference.wait_until(lambda: predict(suite, model, zeros)[1] or None)
    suite.client.inference.purge_cache(model)
    suite.client.inference.reset_cache_stats()


def test_an_answer_says_whether_it_was_kept_as_soon_as_the_registry_says_that_they_are(suite: Suite) -> None:
    inference.serve(suite, "switched", models.linear())
    assert [predict(suite, "switched")[1] for _ in range(2)] == ["", ""]
    suite.client.registry.update_version("switched", "1.0.0", serving_settings=ON)
    inference.wait_until(lambda: predict(suite, "switched")[1] == "HIT" or None)
    assert predict(suite, "switched", skip_cache=True)[1] == ""
    suite.client.registry.update_version("switched", "1.0.0", serving_settings={"response_cache": {"enabled": False}})
    inference.wait_until(lambda: predict(suite, "switched")[1] == "" or None)


def test_both_front_doors_share_the_answers_and_each_is_an_inference_of_its_own(suite: Suite) -> None:
    serve_kept(suite, "doors")
    first, cache = predict(suite, "doors")
    assert cache == "MISS"
    request = infer_request("doors", {"x": ROW})
    _, call = suite.oip.ModelInfer.with_call(request, timeout=inference.DEADLINE_S)
    assert dict(call.trailing_metadata())["penstock-cache"] == "HIT"
    second, cache = predict(suite, "doors")
    assert (cache, first != second) == ("HIT", True)
    events = [inference.event_of(suite.client, each).event for each in (first, second)]
    assert events[0].prediction == events[1].prediction
    assert events[1].features.tensors.tensors[0].shape == [1, 4]
    request.parameters["skip_cache"].bool_param = True
    _, call = suite.oip.ModelInfer.with_call(request, timeout=inference.DEADLINE_S)
    assert "penstock-cache" not in dict(call.trailing_metadata())


def test_hits_and_misses_are_counted_for_operators_triton_and_prometheus(suite: Suite) -> None:
    serve_kept(suite, "counted")
    request = oip.ModelStatisticsRequest(name="counted")
    before = suite.oip.ModelStatistics(request).model_stats[0]
    for _ in range(4):
        predict(suite, "counted")
    stats = suite.client.inference.cache_stats("counted")
    (version,) = stats.versions
    assert (stats.backend, stats.reachable, version.hit_count, version.miss_count, version.stored_count) == (
        "memory", True, 3, 1, 1,
    )  # fmt: skip
    assert 0 < stats.size_bytes <= stats.max_bytes
    after = suite.oip.ModelStatistics(request).model_stats[0]
    hits, misses = after.inference_stats.cache_hit, after.inference_stats.cache_miss
    assert hits.count - before.inference_stats.cache_hit.count == 3
    assert misses.count - before.inference_stats.cache_miss.count == 1
    assert hits.ns > 0
    assert after.execution_count - before.execution_count == 1
    assert after.inference_stats.success.count - before.inference_stats.success.count == 4
    page = inference.metrics_page(suite.inference)
    label = '{model="counted",version="1.0.0"}'
    assert page[f"nv_cache_num_hits_per_model{label}"] == hits.count
    assert page[f"nv_cache_num_misses_per_model{label}"] == misses.count
    assert page[f"penstock_response_cache_stored_total{label}"] == 1
    assert page["penstock_response_cache_bytes"] > 0


def test_a_purge_is_of_one_model_and_a_reset_leaves_the_answers(suite: Suite) -> None:
    for model in ("purged", "spared"):
        serve_kept(suite, model)
        predict(suite, model)
    assert suite.client.inference.purge_cache("purged") == 1
    assert (predict(suite, "purged")[1], predict(suite, "spared")[1]) == ("MISS", "HIT")
    suite.client.inference.reset_cache_stats()
    assert not suite.client.inference.cache_stats().versions
    assert predict(suite, "spared")[1] == "HIT"


def test_a_refused_request_is_refused_again(suite: Suite) -> None:
    serve_kept(suite, "refusing")
    for _ in range(2):
        with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
            predict(suite, "refusing", to_tensor("x", fp32([[1, 2, 3]])))
    (counts,) = suite.client.inference.cache_stats("refusing").versions
    assert (counts.miss_count, counts.stored_count, counts.hit_count) == (2, 0, 0)


def test_each_version_has_answers_of_its_own(suite: Suite) -> None:
    for seed, version in enumerate(("1.0.0", "2.0.0")):
        inference.serve(suite, "two", models.linear(seed=seed), version=version)
        suite.client.registry.update_version("two", version, serving_settings=ON)
        inference.wait_until(lambda: predict(suite, "two", version=version)[1] == "HIT" or None)  # noqa: B023 - called at once
    answers = [suite.client.inference.predict("two", ROW, version=each) for each in ("1.0.0", "2.0.0")]
    assert not np.array_equal(answers[0].outputs["y"], answers[1].outputs["y"])


def test_an_answer_lives_as_long_as_its_version_says(suite: Suite) -> None:
    inference.serve(suite, "short", models.linear())
    brief = {"response_cache": {"enabled": True, "ttl_ms": 1}}
    suite.client.registry.update_version("short", "1.0.0", serving_settings=brief)

    def too_old() -> bool:
        predict(suite, "short")
        return any(each.evicted_count for each in suite.client.inference.cache_stats("short").versions)

    inference.wait_until(lambda: too_old() or None)


def test_a_stream_says_it_with_each_answer(suite: Suite) -> None:
    serve_kept(suite, "streamed")
    requests = [infer_request("streamed", {"x": ROW}) for _ in range(2)]
    # One after the other: the second is sent when the first was answered.
    answers = [next(suite.oip.ModelStreamInfer(iter([each]), timeout=inference.DEADLINE_S)) for each in requests]
    assert [each.infer_response.parameters["penstock_cache"].string_param for each in answers] == ["MISS", "HIT"]


def test_our_own_answers_say_it_too_in_calls_and_streams(suite: Suite) -> None:
    serve_kept(suite, "told")
    predict_ = suite.client.inference.predict
    assert [predict_("told", ROW).cache for _ in range(2)] == ["MISS", "HIT"]
    assert predict_("told", ROW, skip_cache=True).cache == ""
    requests = [penstock.make_request("told", ROW), penstock.make_request("told", ROW, skip_cache=True)]
    streamed = list(suite.client.inference.predict_stream(requests))
    assert [each.cache for each in streamed if isinstance(each, penstock.Prediction)] == ["HIT", ""]


@pytest.mark.slow
def test_a_suite_answers_on_while_its_shared_cache_comes_and_goes(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with (
        running_redis(tmp_path) as server,
        inference.running_suite(postgres_server, tmp_path, response_cache_url=SecretStr(server.url)) as suite,
    ):
        serve_kept(suite, "shared")
        predict(suite, "shared")
        inference.wait_until(lambda: predict(suite, "shared")[1] == "HIT" or None)
        stats = suite.client.inference.cache_stats("shared")
        assert (stats.backend, stats.reachable, stats.entry_count) == ("redis", True, 0)
        server.stop()
        assert [predict(suite, "shared")[1] for _ in range(10)] == ["MISS"] * 10
        stats = suite.client.inference.cache_stats("shared")
        assert (stats.reachable, stats.versions[0].error_count >= 10) == (False, True)
        with pytest.raises(penstock.Unavailable) as caught:
            suite.client.inference.purge_cache("shared")
        assert caught.value.reason == "CACHE_UNREACHABLE"
        server.start()
        inference.wait_until(lambda: predict(suite, "shared")[1] == "HIT" or None)

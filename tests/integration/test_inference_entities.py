"""Predictions by entity: what a request leaves out comes from the feature view that its version names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from onnx import TensorProto

import penstock
from penstock.cli.__main__ import run
from penstock.predictions import make_request
from services.inference.oip import open_inference_pb2 as oip
from tests import inference
from tests.inference import Suite, fp32
from tests.postgres import PostgresServer
from tests.testdata import models

COLUMNS = ("amount", "visits", "member", "score")
KINDS = {"amount": "float64", "times": "int64", "member": "bool", "score": "float64"}
SPENDING: dict[str, Any] = {"view": "spending", "names": {"visits": "times"}}
THEN = 1_700_000_000_000_000


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """Versions that echo their four columns, one for each way to treat what is missing, and views for them."""
    folder = tmp_path_factory.mktemp("suite")
    with inference.running_suite(postgres_server, folder, feature_timeout_ms=60_000) as suite:
        features = suite.client.features
        features.create_view("spending", entity="customer", features=KINDS)
        rows: dict[str, list[Any]] = {
            "amount": [1.5, 2.5, 3.5],
            "times": [3, 4, None],
            "member": [True, False, True],
            "score": [9.0] * 3,
        }
        features.write("spending", ["ada", "bob", "cyd"], rows, event_times=THEN)
        features.create_view("fleeting", entity="customer", features=KINDS, ttl_ms=1_000)
        features.write("fleeting", ["ada"], {name: values[:1] for name, values in rows.items()}, event_times=THEN)
        echo = models.identity(TensorProto.FLOAT)
        for name, view in (
            ("strict", SPENDING),
            ("kind", {**SPENDING, "missing_action": "use_default", "defaults": {"visits": 0, "amount": -1}}),
            ("vague", {**SPENDING, "missing_action": "use_nan", "defaults": {"amount": -1}}),
            ("stale", {**SPENDING, "view": "fleeting@1"}),
            ("lost", {"view": "nowhere"}),
            ("wrong", {"view": "spending"}),
            ("plain", {"view": None}),
        ):
            inference.register(suite.client, name, echo, columns=COLUMNS)
            suite.client.registry.update_version(name, "1.0.0", serving_settings={"feature_view": view})
        features.create_view("shapes", entity="customer", features={"colour": "string", "taste": "float64_list"})
        features.write("shapes", ["ada", "bob"], {"colour": ["red", "green"], "taste": [[1.0] * 4, None]})
        inference.register(suite.client, "strings", models.strings())
        inference.register(suite.client, "tastes", echo)
        for name, view in (
            ("strings", {"view": "shapes"}),
            ("tastes", {"view": "shapes", "names": {"x": "taste"}, "missing_action": "use_nan"}),
        ):
            suite.client.registry.update_version(name, "1.0.0", serving_settings={"feature_view": view})
        inference.wait_until(lambda: reason(suite, "tastes", ["ada"]) is None or None)  # changes come in their order
        yield suite


def reason(suite: Suite, model: str, ids: list[str], features: dict[str, Any] | None = None) -> tuple[str, str] | None:
    try:
        suite.client.inference.predict(model, features, entity_ids=ids)
    except penstock.PenstockError as error:
        return type(error).__name__, error.reason
    return None


def echoed(suite: Suite, model: str, ids: list[str], features: dict[str, Any] | None = None) -> list[list[float]]:
    answer = suite.client.inference.predict(model, features, entity_ids=ids)
    rows: list[list[float]] = answer.outputs["y"].tolist()
    return rows


def test_what_is_left_out_is_read_and_what_is_given_wins(suite: Suite) -> None:
    assert echoed(suite, "strict", ["ada"]) == [[1.5, 3, 1, 9]]
    assert echoed(suite, "strict", ["bob", "ada", "bob"]) == [[2.5, 4, 0, 9], [1.5, 3, 1, 9], [2.5, 4, 0, 9]]
    assert echoed(suite, "strict", ["cyd", "ada"], {"visits": [7, 8]}) == [[3.5, 7, 1, 9], [1.5, 8, 1, 9]]
    assert echoed(suite, "strict", ["cyd", "ada"], {"visits": 7, "score": None})[1][:3] == [1.5, 7, 1]
    given = {"amount": 0, "visits": 0, "member": 0, "score": 1}
    assert echoed(suite, "strict", ["nobody", "none"], given) == [[0, 0, 0, 1]] * 2
    assert echoed(suite, "lost", ["ada"], {"x": [1, 2, 3, 4]}) == [[1, 2, 3, 4]]


def test_the_answer_and_the_event_say_what_was_read(suite: Suite) -> None:
    answer = suite.client.inference.predict("strict", {"member": [1, 0]}, entity_ids=["bob", "ada"])
    assert answer.lookup is not None
    assert (answer.lookup.view, answer.lookup.version, list(answer.lookup.keys)) == ("spending", 1, [])
    assert list(answer.lookup.names) == ["amount", "visits", "score"]
    assert list(answer.lookup.event_times_us) == [THEN, THEN]
    features = inference.event_of(suite.client, answer.inference_id).event.features
    assert (features.lookup.view, features.lookup.version) == ("spending", 1)
    assert list(features.lookup.keys) == ["bob", "ada"]
    assert list(features.lookup.event_times_us) == [THEN, THEN]
    (tensor,) = features.tensors.tensors
    assert_array_equal(np.frombuffer(tensor.raw, "<f4").reshape(2, 4), fp32([[2.5, 4, 1, 9], [1.5, 3, 0, 9]]))
    whole = suite.client.inference.predict("strict", {"x": [1, 2, 3, 4]}, entity_ids=["ada"])
    assert whole.lookup is None
    assert not inference.event_of(suite.client, whole.inference_id).event.features.HasField("lookup")


def test_the_metrics_count_look_ups_and_those_in_vain(suite: Suite) -> None:
    names = ("penstock_feature_lookups_total", "penstock_feature_lookup_failures_total")
    before = inference.metrics_page(suite.inference)
    echoed(suite, "strict", ["ada"])
    assert reason(suite, "lost", ["ada"]) is not None
    echoed(suite, "strict", ["ada"], {"x": [1, 2, 3, 4]})
    after = inference.metrics_page(suite.inference)
    assert [after[name] - before[name] for name in names] == [2, 1]
    assert after["penstock_feature_lookup_duration_us_total"] > before["penstock_feature_lookup_duration_us_total"]


def test_what_is_not_known_is_refused_filled_or_nan_as_the_version_says(suite: Suite) -> None:
    assert reason(suite, "strict", ["ada", "nobody"]) == ("FailedPrecondition", "ENTITY_NOT_FOUND")
    assert reason(suite, "strict", ["cyd"]) == ("FailedPrecondition", "FEATURE_MISSING")
    assert reason(suite, "stale", ["ada"]) == ("FailedPrecondition", "FEATURE_STALE")
    (failed,) = (each for each in inference.failures_of(suite.client, "stale") if each.error_code)
    assert failed.error_code == "FEATURE_STALE"
    assert echoed(suite, "kind", ["cyd"]) == [[3.5, 0, 1, 9]]
    assert reason(suite, "kind", ["nobody"]) == ("FailedPrecondition", "ENTITY_NOT_FOUND")  # not all have a default
    answer = suite.client.inference.predict("vague", entity_ids=["nobody", "cyd", "ada"])
    assert_array_equal(answer.outputs["y"], fp32([[-1, np.nan, np.nan, np.nan], [3.5, np.nan, 1, 9], [1.5, 3, 1, 9]]))
    assert answer.lookup is not None
    assert answer.lookup.substituted_count == 5
    assert list(answer.lookup.event_times_us) == [0, THEN, THEN]


def test_what_does_not_fit_is_refused_and_said_why(suite: Suite) -> None:
    assert reason(suite, "plain", ["ada"]) == ("FailedPrecondition", "NO_FEATURE_VIEW")
    assert reason(suite, "lost", ["ada"]) == ("FailedPrecondition", "VIEW_NOT_FOUND")
    assert reason(suite, "wrong", ["ada"]) == ("FailedPrecondition", "UNKNOWN_FEATURE")
    assert reason(suite, "strict", ["ada"], {"visits": [1, 2]}) == ("InvalidArgument", "ENTITY_COUNT_MISMATCH")
    assert reason(suite, "strict", ["ada", "bob"], {"x": [1, 2, 3, 4]}) == ("InvalidArgument", "ENTITY_COUNT_MISMATCH")
    assert reason(suite, "strict", ["ada"], {"other": 1}) == ("InvalidArgument", "UNKNOWN_INPUT")
    assert reason(suite, "strict", ["ada"], {"x": [1] * 4, "visits": 1}) == ("InvalidArgument", "DUPLICATE_INPUT")
    assert reason(suite, "strict", [""]) == ("InvalidArgument", "INVALID_FIELD")
    assert reason(suite, "strict", ["a" * 257]) == ("InvalidArgument", "INVALID_FIELD")
    assert reason(suite, "strict", ["a"] * 10_001) == ("InvalidArgument", "TOO_MANY")


def test_texts_and_lists_fill_whole_inputs(suite: Suite) -> None:
    answer = suite.client.inference.predict("strings", entity_ids=["bob", "ada"])
    assert answer.outputs["number"].tolist() == [[8], [7]]
    answer = suite.client.inference.predict("tastes", entity_ids=["bob", "ada"])
    assert_array_equal(answer.outputs["y"], fp32([[np.nan] * 4, [1.0] * 4]))


def test_a_stream_looks_up_each_request_by_itself(suite: Suite) -> None:
    requests = [make_request("strict", entity_ids=[each]) for each in ("ada", "nobody", "bob")]
    found = list(suite.client.inference.predict_stream(requests))
    assert [getattr(each, "reason", None) for each in found] == [None, "ENTITY_NOT_FOUND", None]
    assert isinstance(found[2], penstock.Prediction)
    assert found[2].outputs["y"].tolist() == [[2.5, 4, 0, 9]]


def test_the_open_inference_protocol_takes_entities_as_a_parameter(suite: Suite) -> None:
    request = oip.ModelInferRequest(model_name="strict")
    request.parameters["entity_ids"].string_param = json.dumps(["bob", "ada"])
    response = suite.oip.ModelInfer(request, timeout=inference.DEADLINE_S)
    assert np.frombuffer(response.raw_output_contents[0], "<f4").tolist() == [2.5, 4, 0, 9, 1.5, 3, 1, 9]
    assert response.parameters["feature_view"].string_param == "spending@1"
    for wrong in ("ada", "[]", "[1]", '{"a": 1}'):
        request.parameters["entity_ids"].string_param = wrong
        with pytest.raises(grpc.RpcError, match="send a JSON list of texts") as refused:
            suite.oip.ModelInfer(request, timeout=inference.DEADLINE_S)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_newest_version_of_a_view_is_read_where_none_is_named(suite: Suite) -> None:
    features = suite.client.features
    features.create_view("changing", entity="customer", features=dict.fromkeys(COLUMNS, "float64"))
    features.write("changing", ["ada"], {each: [1.0] for each in COLUMNS})
    inference.register(suite.client, "following", models.identity(TensorProto.FLOAT), columns=COLUMNS)
    settings = {"feature_view": {"view": "changing"}}
    suite.client.registry.update_version("following", "1.0.0", serving_settings=settings)
    inference.wait_until(lambda: reason(suite, "following", ["ada"]) is None or None)
    features.create_view("changing", entity="customer", features={**dict.fromkeys(COLUMNS, "float64"), "more": "bool"})
    assert reason(suite, "following", ["ada"]) == ("FailedPrecondition", "ENTITY_NOT_FOUND")
    features.write("changing@2", ["ada"], {each: [2.0] for each in COLUMNS})
    answer = suite.client.inference.predict("following", entity_ids=["ada"])
    assert answer.outputs["y"].tolist() == [[2.0] * 4]
    assert answer.lookup is not None
    assert answer.lookup.version == 2


def test_the_command_line_names_the_view_and_asks_by_entity(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_REGISTRY_ADDRESS", suite.registry.address)
    monkeypatch.setenv("PENSTOCK_INFERENCE_ADDRESS", suite.inference.address)
    said = ["view=spending@1", "names=visits=times,score=score", "missing_action=use_nan", 'defaults={"amount": 7}']
    serving = [word for each in said for word in ("--serving", f"feature_view.{each}")]
    assert run(["model", "set", "plain", "1.0.0", *serving]) == 0
    assert "inputs filled from spending@1" in capsys.readouterr().out
    inference.wait_until(lambda: reason(suite, "plain", ["ada"]) is None or None)
    assert run(["predict", "plain", "--entity", "nobody", "--entity", "ada", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["outputs"]["y"] == [[7, "NaN", "NaN", "NaN"], [1.5, 3, 1, 9]]
    assert (document["lookup"]["view"], document["lookup"]["substituted_count"]) == ("spending", 4)
    assert run(["predict", "plain", '{"member": 0.5}', "--entity", "bob"]) == 0
    shown = capsys.readouterr()
    assert "[2.5, 4, 0.5, 9]" in shown.out
    assert "from spending@1: amount, visits, score, the oldest of 2023-11-1" in shown.err
    assert run(["model", "set", "plain", "1.0.0", "--serving", "feature_view.view="]) == 0
    inference.wait_until(lambda: reason(suite, "plain", ["ada"]) or None)

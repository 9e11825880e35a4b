"""Predict, as a user of the SDK meets it: real models, real services, real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import penstock
from examples.iris import COLUMNS, IrisModel, train
from tests import inference
from tests.inference import APPROVED, Suite, fp32
from tests.postgres import PostgresServer
from tests.testdata import models


@pytest.fixture(scope="module")
def iris() -> IrisModel:
    """A logistic regression on the iris data, and the rows it has not seen."""
    return train(regularisation=1)


@pytest.fixture(scope="module")
def suite(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, iris: IrisModel
) -> Iterator[Suite]:
    """A suite that serves iris (1.0.0 in PRODUCTION, 1.1.0 in CANDIDATE), linear and strings."""
    with inference.running_suite(postgres_server, tmp_path_factory.mktemp("suite")) as suite:
        client = suite.client
        inference.register(client, "iris", iris.onnx, columns=COLUMNS)
        inference.register(client, "iris", iris.onnx, version="1.1.0", columns=COLUMNS, stage="candidate")
        inference.go_live(client, "iris", "1.0.0")
        inference.serve(suite, "linear", models.linear())
        inference.serve(suite, "strings", models.strings())
        inference.serve(suite, "narrow", models.linear(width=1))
        inference.wait_until(lambda: client.inference.predict("iris", iris.rows).version == "1.0.0" or None)
        yield suite


@pytest.fixture(scope="module")
def client(suite: Suite) -> penstock.Client:
    """The suite's client."""
    return suite.client


def test_every_held_out_row_is_answered_as_scikit_learn_answers_it(client: penstock.Client, iris: IrisModel) -> None:
    answer = client.inference.predict("iris", tensors={"X": iris.rows})
    assert list(answer.outputs) == ["label", "probabilities"]
    assert_array_equal(answer.outputs["label"], iris.classifier.predict(iris.rows))
    probabilities = iris.classifier.predict_proba(iris.rows)
    assert_allclose(answer.outputs["probabilities"], probabilities, atol=1e-5)
    assert_allclose(answer.confidences, probabilities.max(axis=1), atol=1e-5)


def test_the_answer_says_who_answered_and_under_which_id(client: penstock.Client, iris: IrisModel) -> None:
    answer = client.inference.predict("iris", {"X": iris.rows[0].tolist()})
    assert UUID(answer.inference_id).version == 7
    assert (answer.model, answer.version, answer.framework) == ("iris", "1.0.0", "onnx")
    assert answer.latency_ms > 0
    assert len(answer.confidences) == 1


def test_columns_by_name_are_the_same_row_as_the_list(client: penstock.Client, iris: IrisModel) -> None:
    row = iris.rows[3].tolist()
    # Another order than the signature's: names decide.
    named = dict(reversed(list(zip(COLUMNS, row, strict=True))))
    by_column = client.inference.predict("iris", named).outputs["probabilities"]
    by_input = client.inference.predict("iris", {"X": row}).outputs["probabilities"]
    assert by_column.shape == (1, 3)
    assert_array_equal(by_column, by_input)


def test_columns_take_a_value_a_row(client: penstock.Client, iris: IrisModel) -> None:
    rows = iris.rows[:5]
    columns = {name: rows[:, index].tolist() for index, name in enumerate(COLUMNS)}
    answer = client.inference.predict("iris", columns)
    assert_array_equal(answer.outputs["label"], iris.classifier.predict(rows))


def test_a_flat_list_is_one_row_and_nested_lists_are_many(client: penstock.Client) -> None:
    one = client.inference.predict("linear", {"x": [1, 2, 3, 4]}).outputs["y"]
    two = client.inference.predict("linear", {"x": [[1, 2, 3, 4], [4, 3, 2, 1]]}).outputs["y"]
    assert (one.shape, two.shape) == ((1, 3), (2, 3))
    assert_allclose(two[:1], one, rtol=1e-6)


def test_where_a_row_has_one_value_a_flat_list_is_a_value_a_row(client: penstock.Client) -> None:
    assert client.inference.predict("narrow", {"x": [1, 2, 3]}).outputs["y"].shape == (3, 3)
    assert client.inference.predict("narrow", {"x": 1}).outputs["y"].shape == (1, 3)


def test_a_models_only_input_needs_no_name(client: penstock.Client) -> None:
    rows = fp32([[1, 2, 3, 4]])
    unnamed = client.inference.predict("linear", rows).outputs["y"]
    assert_array_equal(unnamed, client.inference.predict("linear", tensors={"x": rows}).outputs["y"])


def test_text_goes_in_and_numbers_come_out(client: penstock.Client) -> None:
    by_name = client.inference.predict("strings", {"colour": [["red"], ["green"]]})
    by_tensor = client.inference.predict("strings", tensors={"colour": np.array([["red"], ["green"]], dtype=object)})
    assert by_name.outputs["number"].dtype == np.int64
    assert_array_equal(by_name.outputs["number"], by_tensor.outputs["number"])


def test_nothing_known_is_nan_and_nan_is_answered(client: penstock.Client) -> None:
    assert np.isnan(client.inference.predict("linear", {"x": [1, None, 3, 4]}).outputs["y"]).all()
    assert np.isnan(client.inference.predict("linear", fp32([[np.nan] * 4])).outputs["y"]).all()


def test_only_the_outputs_asked_for_come_in_the_order_asked_for(client: penstock.Client, iris: IrisModel) -> None:
    row = iris.rows[:1]
    assert list(client.inference.predict("iris", row, outputs=["label"]).outputs) == ["label"]
    both = client.inference.predict("iris", row, outputs=["probabilities", "label"])
    assert list(both.outputs) == ["probabilities", "label"]


@pytest.mark.parametrize(
    ("selector", "version"),
    [
        ("", "1.0.0"),
        ("production", "1.0.0"),
        ("PRODUCTION", "1.0.0"),
        ("candidate", "1.1.0"),
        ("latest", "1.1.0"),
        ("1.0.0", "1.0.0"),
        ("1.1.0", "1.1.0"),
    ],
)
def test_a_selector_means_what_the_registry_says_it_means(
    client: penstock.Client, iris: IrisModel, selector: str, version: str
) -> None:
    assert client.inference.predict("iris", iris.rows[:1], version=selector).version == version
    assert client.registry.resolve("iris", selector).version == version


def test_a_model_without_a_live_version_answers_with_its_latest(client: penstock.Client) -> None:
    assert client.inference.predict("linear", {"x": [1, 2, 3, 4]}).version == "1.0.0"


def test_the_event_is_in_monitoring_with_all_that_is_known(client: penstock.Client, iris: IrisModel) -> None:
    rows = iris.rows[:2]
    answer = client.inference.predict("iris", tensors={"X": rows}, user_id="u-1", session_id="s-1", request_id="r-1")
    kept = inference.event_of(client, answer.inference_id)
    event = kept.event
    assert (event.model, event.version, event.framework) == ("iris", "1.0.0", "onnx")
    assert (event.user_id, event.session_id, event.request_id) == ("u-1", "s-1", "r-1")
    assert (event.row_count, event.error_code) == (2, "")
    assert event.confidence == pytest.approx(np.mean(answer.confidences))
    assert event.latency_ms == answer.latency_ms
    (features,) = event.features.tensors.tensors
    assert features.name == "X"
    assert_array_equal(penstock.tensors.from_tensor(features), rows)
    predicted = {tensor.name: penstock.tensors.from_tensor(tensor) for tensor in event.prediction.tensors.tensors}
    assert_array_equal(predicted["probabilities"], answer.outputs["probabilities"])
    assert [outcome.number_value for outcome in kept.outcomes] == answer.outputs["label"].tolist()


def test_without_a_request_id_the_inference_id_stands_for_it(client: penstock.Client, iris: IrisModel) -> None:
    answer = client.inference.predict("iris", iris.rows[:1])
    assert inference.event_of(client, answer.inference_id).event.request_id == answer.inference_id


def test_feedback_finds_the_prediction_and_makes_accuracy(suite: Suite, iris: IrisModel) -> None:
    inference.serve(suite, "scored", iris.onnx)
    truths = iris.classifier.predict(iris.rows)
    for index in range(4):
        answer = suite.client.inference.predict("scored", iris.rows[index : index + 1])
        wrong = int(index == 0)
        suite.client.monitoring.record_feedback(answer.inference_id, int(truths[index]) + wrong)
    metrics = inference.wait_until(
        lambda: found if (found := suite.client.monitoring.get_metrics("scored")).judged_count == 4 else None
    )
    assert metrics.accuracy == 0.75
    assert (metrics.inference_count, metrics.error_count) == (4, 0)


@pytest.mark.parametrize(
    ("model", "version", "reason"), [("linear", "1.0.0", "DIMENSION_MISMATCH"), ("nowhere", "", "MODEL_NOT_FOUND")]
)
def test_failed_predictions_are_events_too(client: penstock.Client, model: str, version: str, reason: str) -> None:
    with pytest.raises(penstock.PenstockError):
        client.inference.predict(model, fp32([[1, 2, 3]]), user_id="unlucky")
    (failure,) = inference.failures_of(client, model)
    event = client.monitoring.get_inference(failure.inference_id).event
    assert event.user_id == "unlucky"
    assert (event.error_code, event.version) == (reason, version)
    assert not event.HasField("prediction")
    assert event.HasField("features") is (model == "linear")
    metrics = client.monitoring.get_metrics(model)
    assert metrics.error_count >= 1
    assert not metrics.HasField("accuracy")


def test_approval_is_what_promotes(client: penstock.Client, iris: IrisModel) -> None:
    inference.register(client, "careful", iris.onnx, stage="production", **APPROVED)
    answer = inference.wait_until(lambda: _answered(client, iris))
    assert answer.version == "1.0.0"


def _answered(client: penstock.Client, iris: IrisModel) -> penstock.Prediction | None:
    try:
        return client.inference.predict("careful", iris.rows[:1], version="production")
    except penstock.NotFound:
        return None


def test_calls_without_a_deadline_wait_for_their_turn(suite: Suite) -> None:
    """gRPC gives them a deadline in centuries, which no lock can wait for: they failed where the model was busy."""
    request = inference.infer_request("linear", {"x": fp32([[1, 2, 3, 4]])})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: suite.oip.ModelInfer(request), range(400)))
    assert {answer.raw_output_contents[0] for answer in answers} == {answers[0].raw_output_contents[0]}

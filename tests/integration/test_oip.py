"""The Open Inference Protocol on the wire: what its clients may send, and what must come back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import penstock
from services.inference.oip import open_inference_pb2 as oip
from services.inference.tensors import from_raw
from tests import inference
from tests.inference import DEADLINE_S, Suite, fp32, infer_request
from tests.postgres import PostgresServer
from tests.testdata import models

ROWS = fp32([[1, 2, 3, 4], [4, 3, 2, 1]])


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with inference.running_suite(postgres_server, tmp_path_factory.mktemp("suite")) as suite:
        inference.serve(suite, "classifier", models.classifier())
        inference.serve(suite, "classifier", models.classifier(seed=1), version="2.0.0")
        inference.serve(suite, "strings", models.strings())
        yield suite


def typed(**parameters: bool) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(
        model_name="classifier",
        inputs=[
            oip.ModelInferRequest.InferInputTensor(
                name="X",
                datatype="FP32",
                shape=ROWS.shape,
                contents=oip.InferTensorContents(fp32_contents=ROWS.ravel().tolist()),
            )
        ],
    )
    for name, value in parameters.items():
        request.parameters[name].bool_param = value
    return request


def infer(suite: Suite, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
    return suite.oip.ModelInfer(request, timeout=DEADLINE_S)


def test_raw_in_is_raw_out_an_entry_an_output_in_their_order(suite: Suite) -> None:
    answer = infer(suite, infer_request("classifier", {"X": ROWS}, outputs=["probabilities", "label"]))
    assert [(output.name, output.datatype, list(output.shape)) for output in answer.outputs] == [
        ("probabilities", "FP32", [2, 3]),
        ("label", "INT64", [2]),
    ]
    assert len(answer.raw_output_contents) == 2
    assert not any(output.HasField("contents") for output in answer.outputs)
    probabilities = from_raw("probabilities", "FP32", (2, 3), answer.raw_output_contents[0])
    assert np.allclose(probabilities.sum(axis=1), 1)


def test_typed_in_is_raw_out_and_the_same_answer(suite: Suite) -> None:
    raw, of_typed = infer(suite, infer_request("classifier", {"X": ROWS})), infer(suite, typed())
    assert of_typed.raw_output_contents == raw.raw_output_contents
    assert infer(suite, typed(mirror_contents=False)).raw_output_contents == raw.raw_output_contents


def test_typed_in_and_told_to_mirror_is_typed_out(suite: Suite) -> None:
    answer = infer(suite, typed(mirror_contents=True))
    raw = infer(suite, infer_request("classifier", {"X": ROWS}))
    assert not answer.raw_output_contents
    label, probabilities = answer.outputs
    assert len(label.contents.int64_contents) == 2
    expected = from_raw("probabilities", "FP32", (2, 3), raw.raw_output_contents[1])
    assert np.array_equal(fp32(probabilities.contents.fp32_contents).reshape(2, 3), expected)


def test_raw_in_stays_raw_whatever_it_says_of_mirrors(suite: Suite) -> None:
    request = infer_request("classifier", {"X": ROWS})
    request.parameters["mirror_contents"].bool_param = True
    assert infer(suite, request).raw_output_contents


def test_typed_text_is_taken(suite: Suite) -> None:
    request = oip.ModelInferRequest(
        model_name="strings",
        inputs=[
            oip.ModelInferRequest.InferInputTensor(
                name="colour",
                datatype="BYTES",
                shape=[1, 1],
                contents=oip.InferTensorContents(bytes_contents=[b"green"]),
            )
        ],
    )
    ours = suite.client.inference.predict("strings", {"colour": [["green"]]}).outputs["number"]
    answer = infer(suite, request)
    assert from_raw("number", "INT64", (1, 1), answer.raw_output_contents[0]).tolist() == ours.tolist()


def test_the_request_and_the_caller_are_in_the_event(suite: Suite) -> None:
    request = infer_request("classifier", {"X": ROWS}, version="1.0.0", id="r-9")
    request.parameters["user_id"].string_param = "u-9"
    request.parameters["session_id"].string_param = "s-9"
    answer = infer(suite, request)
    assert (answer.model_name, answer.model_version, answer.id) == ("classifier", "1.0.0", "r-9")
    event = inference.event_of(suite.client, answer.parameters["inference_id"].string_param).event
    assert (event.request_id, event.user_id, event.session_id) == ("r-9", "u-9", "s-9")
    assert (event.model, event.version, event.row_count) == ("classifier", "1.0.0", 2)


def test_an_empty_version_is_the_default_one_and_the_answer_says_which(suite: Suite) -> None:
    assert infer(suite, infer_request("classifier", {"X": ROWS})).model_version == "2.0.0"
    assert infer(suite, infer_request("classifier", {"X": ROWS}, version="1.0.0")).model_version == "1.0.0"


def test_a_call_without_a_deadline_is_answered(suite: Suite) -> None:
    assert suite.oip.ModelInfer(infer_request("classifier", {"X": ROWS})).outputs


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_a_timeout_that_is_long_enough_changes_nothing(suite: Suite, kind: str) -> None:
    request = infer_request("classifier", {"X": ROWS})
    setattr(request.parameters["timeout"], kind, 30_000_000)
    assert infer(suite, request).outputs


def test_metadata_lists_the_versions_that_can_be_asked(suite: Suite) -> None:
    metadata = suite.oip.ModelMetadata(oip.ModelMetadataRequest(name="classifier"), timeout=DEADLINE_S)
    assert list(metadata.versions) == ["1.0.0", "2.0.0"]
    assert not metadata.properties
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [("X", "FP32", [-1, 4])]


def test_statistics_without_a_name_are_those_of_all_that_was_asked(suite: Suite) -> None:
    infer(suite, infer_request("strings", {"colour": np.array([[b"red"]], dtype=object)}))
    found = suite.oip.ModelStatistics(oip.ModelStatisticsRequest(), timeout=DEADLINE_S).model_stats
    assert "strings" in {each.name for each in found}


def test_a_known_model_that_nobody_asked_has_counts_of_nothing(suite: Suite) -> None:
    inference.serve(suite, "unasked", models.linear())
    request = oip.ModelStatisticsRequest(name="unasked")
    (found,) = suite.oip.ModelStatistics(request, timeout=DEADLINE_S).model_stats
    assert (found.name, found.version, found.inference_count, found.last_inference) == ("unasked", "1.0.0", 0, 0)


def test_rows_without_end_do_not_make_statistics_without_end(suite: Suite) -> None:
    inference.serve(suite, "sized", models.linear())
    for rows in (1, 64, 65, 100, 128, 129):
        infer(suite, infer_request("sized", {"x": np.ones((rows, 4), np.float32)}))
    request = oip.ModelStatisticsRequest(name="sized")
    (found,) = suite.oip.ModelStatistics(request, timeout=DEADLINE_S).model_stats
    sizes = [(each.batch_size, each.compute_infer.count) for each in found.batch_stats]
    assert sizes == [(1, 1), (64, 1), (128, 3), (256, 1)]
    assert found.inference_count == 1 + 64 + 65 + 100 + 128 + 129


def test_only_ready_versions_are_listed_to_those_who_ask_for_them(suite: Suite) -> None:
    with pytest.raises(penstock.ValidationFailed):
        inference.register(suite.client, "broken", models.dangling())

    def listed(*, ready: bool) -> dict[str, tuple[str, str]]:
        models = suite.oip.RepositoryIndex(oip.RepositoryIndexRequest(ready=ready), timeout=DEADLINE_S).models
        return {f"{each.name} {each.version}": (each.state, each.reason) for each in models}

    inference.wait_until(lambda: listed(ready=False).get("broken 1.0.0") == ("UNAVAILABLE", "FAILED") or None)
    assert "broken 1.0.0" not in listed(ready=True)
    assert listed(ready=True)["classifier 1.0.0"] == ("READY", "")

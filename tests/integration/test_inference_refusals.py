"""Everything that a caller can get wrong, at both front doors: the code, the reason, and the field at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value

import penstock
from penstock.api.inference.v1.inference_pb2 import PredictRequest
from penstock.api.tensors.v1.tensors_pb2 import DATA_TYPE_BYTES, DATA_TYPE_FP32, Tensor
from services.inference.oip import open_inference_pb2 as oip
from tests import inference
from tests.inference import DEADLINE_S, Suite, fp32, infer_request
from tests.postgres import PostgresServer
from tests.registry import refusal
from tests.testdata import models

ROW = fp32([[1, 2, 3, 4]])
FOREVER = np.array([2**62])
LIMIT_BYTES = 64 * 1024
RUN_LIMIT_MS = 1_500


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite that takes 64 KiB a message and one request a model at once, and ends runs after 1.5 s."""
    with inference.running_suite(
        postgres_server,
        tmp_path_factory.mktemp("suite"),
        max_message_bytes=LIMIT_BYTES,
        max_in_flight=1,
        run_limit_ms=RUN_LIMIT_MS,
    ) as suite:
        inference.serve(suite, "linear", models.linear())
        inference.serve(suite, "strings", models.strings())
        inference.serve(suite, "two", models.unrunnable())
        inference.serve(suite, "slow", models.patient())
        with pytest.raises(penstock.PenstockError):
            inference.register(suite.client, "broken", models.dangling())
        yield suite


@pytest.fixture(autouse=True)
def still_answers(suite: Suite) -> Iterator[None]:
    """Whatever was refused: the next request is answered."""
    yield
    assert suite.oip.ModelInfer(infer_request("linear", {"x": ROW}), timeout=DEADLINE_S).model_version == "1.0.0"


def refused(call: Callable[..., Any], request: Any) -> tuple[str, str, list[str]]:
    """Call, and give the code, the reason and the fields at fault."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=DEADLINE_S)
    code, reason, fields = refusal(caught.value)
    return code.name, reason, fields


def by_predict(model: str, version: str = "", /, **tensors: Any) -> PredictRequest:
    return PredictRequest(
        model=model, version=version, tensors=[penstock.tensors.to_tensor(name, each) for name, each in tensors.items()]
    )


def raw_tensor(name: str, datatype: str, shape: list[int], raw: bytes) -> oip.ModelInferRequest:
    return oip.ModelInferRequest(
        model_name="strings" if datatype == "BYTES" else "linear",
        inputs=[oip.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)],
        raw_input_contents=[raw],
    )


@pytest.mark.parametrize(
    ("model", "version", "code", "reason"),
    [
        ("nowhere", "", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("linear\u00e9", "", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("linear", "9.9.9", "NOT_FOUND", "VERSION_NOT_FOUND"),
        ("linear", "v" * 10_000, "NOT_FOUND", "VERSION_NOT_FOUND"),
        ("linear", "production", "NOT_FOUND", "VERSION_NOT_FOUND"),
        ("broken", "", "NOT_FOUND", "NO_VERSION_READY"),
        ("broken", "1.0.0", "FAILED_PRECONDITION", "VERSION_NOT_READY"),
        ("", "", "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("m" * 129, "", "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("lin\x00ear", "", "INVALID_ARGUMENT", "INVALID_FIELD"),
    ],
)
def test_a_name_that_means_nothing_is_refused_alike_at_both_doors(
    suite: Suite, model: str, version: str, code: str, reason: str
) -> None:
    ours = refused(suite.predict.Predict, by_predict(model, version, x=ROW))
    theirs = refused(suite.oip.ModelInfer, infer_request(model, {"x": ROW}, version=version))
    assert ours == theirs == (code, reason, ["model"] if reason == "INVALID_FIELD" else [])


@pytest.mark.parametrize(
    ("inputs", "reason", "field"),
    [
        ({"x": np.ones((1, 4), np.float64)}, "DATATYPE_MISMATCH", "x"),
        ({"x": np.ones((1, 4), np.int64)}, "DATATYPE_MISMATCH", "x"),
        ({"x": np.array([[b"a"] * 4], dtype=object)}, "DATATYPE_MISMATCH", "x"),
        ({"x": np.ones(4, np.float32)}, "RANK_MISMATCH", "x"),
        ({"x": np.ones((1, 1, 4), np.float32)}, "RANK_MISMATCH", "x"),
        ({"x": np.ones((1, 5), np.float32)}, "DIMENSION_MISMATCH", "x"),
        ({}, "MISSING_INPUT", "x"),
        ({"z": ROW}, "MISSING_INPUT", "x"),
        ({"x": ROW, "z": ROW}, "UNKNOWN_INPUT", "z"),
    ],
)
def test_an_input_that_the_model_does_not_take_is_named_at_both_doors(
    suite: Suite, inputs: dict[str, Any], reason: str, field: str
) -> None:
    expected = ("INVALID_ARGUMENT", reason, [field])
    assert refused(suite.oip.ModelInfer, infer_request("linear", inputs)) == expected
    if inputs:
        assert refused(suite.predict.Predict, by_predict("linear", **inputs)) == expected


def test_an_output_that_the_model_does_not_give_is_named_at_both_doors(suite: Suite) -> None:
    expected = ("INVALID_ARGUMENT", "UNKNOWN_OUTPUT", ["nope"])
    assert refused(suite.oip.ModelInfer, infer_request("linear", {"x": ROW}, outputs=["nope"])) == expected
    request = by_predict("linear", x=ROW)
    request.outputs.append("nope")
    assert refused(suite.predict.Predict, request) == expected


@pytest.mark.parametrize("name", ["n" * 25_000, "é" * 12_000, "\U0001f9ea" * 6_000], ids=["n", "é", "tube"])
def test_names_without_end_are_refused_with_a_reason_that_arrives(suite: Suite, name: str) -> None:
    as_datatype = infer_request("linear", {name: ROW})
    as_datatype.inputs[0].datatype = name
    for request, reason in (
        (infer_request("linear", {"x": ROW, name: ROW}), "UNKNOWN_INPUT"),
        (infer_request("linear", {"x": ROW}, outputs=[name]), "UNKNOWN_OUTPUT"),
        (as_datatype, "UNSUPPORTED_DATATYPE"),
    ):
        code, came, (field,) = refused(suite.oip.ModelInfer, request)
        assert (code, came) == ("INVALID_ARGUMENT", reason)
        assert name.startswith(field)
        assert field


def test_the_sentence_says_what_came_and_what_is_expected(suite: Suite) -> None:
    with pytest.raises(penstock.InvalidArgument) as caught:
        suite.client.inference.predict("linear", tensors={"x": np.ones((2, 5), np.float32)})
    (violation,) = caught.value.violations
    assert violation.field == "x"
    assert "[2, 5]" in violation.description
    assert "[-1, 4]" in violation.description


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "reason"),
    [
        ("FP32", [1, 4], bytes(15), "SHAPE_MISMATCH"),
        ("FP32", [1, 4], bytes(17), "SHAPE_MISMATCH"),
        ("FP32", [1, 4], b"", "SHAPE_MISMATCH"),
        ("FP32", [-1, 4], bytes(16), "INVALID_SHAPE"),
        ("FP32", [2**62, 2**62], bytes(16), "INVALID_SHAPE"),
        ("FP32", [2**31, 4], bytes(16), "INVALID_SHAPE"),
        ("FP32", [0, 2**62], b"", "INVALID_SHAPE"),
        ("FP32", [1] * 33, bytes(4), "INVALID_SHAPE"),
        ("FP33", [1, 4], bytes(16), "UNSUPPORTED_DATATYPE"),
        ("FP8", [1, 4], bytes(4), "UNSUPPORTED_DATATYPE"),
        ("", [1, 4], bytes(16), "UNSUPPORTED_DATATYPE"),
        ("BYTES", [1, 1], b"\5\0\0\0abc", "BYTES_TRUNCATED"),
        ("BYTES", [1, 1], b"\5\0", "BYTES_TRUNCATED"),
        ("BYTES", [1, 1], b"\xff\xff\xff\xffabc", "BYTES_TRUNCATED"),
        ("BYTES", [2, 1], b"\1\0\0\0a", "BYTES_TRUNCATED"),
        ("BYTES", [1, 1], b"\1\0\0\0abc", "SHAPE_MISMATCH"),
    ],
)
def test_bytes_that_are_not_the_tensor_they_claim_to_be_are_refused(
    suite: Suite, datatype: str, shape: list[int], raw: bytes, reason: str
) -> None:
    name = "colour" if datatype == "BYTES" else "x"
    request = raw_tensor(name, datatype, shape, raw)
    assert refused(suite.oip.ModelInfer, request) == ("INVALID_ARGUMENT", reason, [name])
    if datatype in ("FP32", "BYTES"):
        number = DATA_TYPE_BYTES if datatype == "BYTES" else DATA_TYPE_FP32
        ours = PredictRequest(
            model=request.model_name, tensors=[Tensor(name=name, datatype=number, shape=shape, raw=raw)]
        )
        assert refused(suite.predict.Predict, ours) == ("INVALID_ARGUMENT", reason, [name])


def test_raw_and_typed_in_one_request_are_refused(suite: Suite) -> None:
    request = infer_request("linear", {"x": ROW})
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    assert refused(suite.oip.ModelInfer, request) == ("INVALID_ARGUMENT", "MIXED_CONTENTS", ["x"])


def test_as_many_raw_entries_as_inputs_are_needed(suite: Suite) -> None:
    request = infer_request("linear", {"x": ROW})
    request.raw_input_contents.append(b"")
    assert refused(suite.oip.ModelInfer, request) == (
        "INVALID_ARGUMENT",
        "RAW_COUNT_MISMATCH",
        ["raw_input_contents"],
    )


def test_an_input_that_comes_twice_is_refused_at_both_doors(suite: Suite) -> None:
    theirs = infer_request("linear", {"x": ROW})
    theirs.inputs.append(theirs.inputs[0])
    theirs.raw_input_contents.append(theirs.raw_input_contents[0])
    ours = by_predict("linear", x=ROW)
    ours.tensors.append(ours.tensors[0])
    expected = ("INVALID_ARGUMENT", "DUPLICATE_INPUT", ["x"])
    assert refused(suite.oip.ModelInfer, theirs) == refused(suite.predict.Predict, ours) == expected


def test_a_nameless_tensor_is_refused_where_there_are_two_inputs(suite: Suite) -> None:
    request = by_predict("two", **{"": np.ones((1, 7), np.float32)})
    assert refused(suite.predict.Predict, request)[1] == "MISSING_INPUT"


def test_neither_features_nor_tensors_and_both_of_them_are_refused(suite: Suite) -> None:
    neither = PredictRequest(model="linear")
    both = by_predict("linear", x=ROW)
    both.features.update({"x": 1})
    for request in (neither, both):
        assert refused(suite.predict.Predict, request) == ("INVALID_ARGUMENT", "INPUTS_REQUIRED", ["tensors"])


@pytest.mark.parametrize(
    ("features", "reason", "field"),
    [
        ({"x": "red"}, "DATATYPE_MISMATCH", "x"),
        ({"x": {"a": 1}}, "DATATYPE_MISMATCH", "x"),
        ({"x": [1, 2, 3, True]}, "DATATYPE_MISMATCH", "x"),
        ({"x": [1, 2, 3]}, "DIMENSION_MISMATCH", "x"),
        ({"x": [[1, 2, 3, 4], [1, 2]]}, "RAGGED_INPUT", "x"),
        ({"x": [1, [2]]}, "RAGGED_INPUT", "x"),
        ({"x": [[[1, 2, 3, 4]]]}, "RANK_MISMATCH", "x"),
        ({"x": [1, 2, 3, 1e300]}, "VALUE_OUT_OF_RANGE", "x"),
        ({"x": []}, "DIMENSION_MISMATCH", "x"),
        ({}, "MISSING_INPUT", "x"),
        ({"x": [1, 2, 3, 4], "y": 1}, "UNKNOWN_INPUT", "y"),
    ],
)
def test_features_that_make_no_tensor_are_refused(
    suite: Suite, features: dict[str, Any], reason: str, field: str
) -> None:
    struct = Struct()
    struct.update(features)
    request = PredictRequest(model="linear", features=struct)
    assert refused(suite.predict.Predict, request) == ("INVALID_ARGUMENT", reason, [field])


def test_features_nested_as_deep_as_the_wire_allows_are_refused(suite: Suite) -> None:
    value = Value(number_value=1)
    for _ in range(45):
        value = Value(list_value=ListValue(values=[value]))
    request = PredictRequest(model="linear", features=Struct(fields={"x": value}))
    assert refused(suite.predict.Predict, request)[:2] == ("INVALID_ARGUMENT", "RANK_MISMATCH")


def deeper_than_the_wire_allows() -> bytes:
    """The bytes of a PredictRequest that no protobuf library would write: features of 500 lists in one another."""
    value = b"\x11" + bytes(8)
    for _ in range(500):
        value = delimited(6, delimited(1, value))
    return delimited(1, b"linear") + delimited(3, delimited(1, delimited(1, b"x") + delimited(2, value)))


def delimited(number: int, content: bytes) -> bytes:
    """Write a length-delimited field."""
    length = b""
    left = len(content)
    while left > 127:
        length += bytes([left & 127 | 128])
        left >>= 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + content


@pytest.mark.parametrize(
    ("method", "content"),
    [
        ("penstock.api.inference.v1.InferenceService/Predict", deeper_than_the_wire_allows()),
        ("penstock.api.inference.v1.InferenceService/Predict", b"\xff" * 64),
        ("inference.GRPCInferenceService/ModelInfer", b"\xff" * 64),
        ("inference.GRPCInferenceService/ModelInfer", b"\x0a\x7fcut short"),
    ],
)
def test_bytes_that_are_no_request_are_refused_as_the_callers_fault(suite: Suite, method: str, content: bytes) -> None:
    with grpc.insecure_channel(suite.inference.address) as channel:
        call: Any = channel.unary_unary(f"/{method}")
        assert refused(call, content) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST", [])


def test_bytes_that_are_no_request_are_refused_in_a_stream_too(suite: Suite) -> None:
    with grpc.insecure_channel(suite.monitoring.address) as channel:
        call: Any = channel.stream_stream("/penstock.api.monitoring.v1.MonitoringService/RecordEvents")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter([b"\xff" * 64]), timeout=DEADLINE_S))
    assert refusal(caught.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


@pytest.mark.parametrize("field", ["user_id", "session_id", "request_id"])
@pytest.mark.parametrize("text", ["i" * 257, "a\x00b", "a\nb"], ids=["long", "nul", "newline"])
def test_ids_that_monitoring_could_not_keep_are_refused(suite: Suite, field: str, text: str) -> None:
    request = by_predict("linear", x=ROW)
    setattr(request, field, text)
    assert refused(suite.predict.Predict, request) == ("INVALID_ARGUMENT", "INVALID_FIELD", [field])


def test_the_longest_ids_are_taken_and_kept(suite: Suite) -> None:
    ids: dict[str, Any] = {"user_id": "ü" * 256, "session_id": "s" * 256, "request_id": "r" * 256}
    answer = suite.client.inference.predict("linear", ROW, **ids)
    event = inference.event_of(suite.client, answer.inference_id).event
    assert {name: getattr(event, name) for name in ids} == ids


def test_a_message_over_the_limit_is_refused(suite: Suite) -> None:
    request = infer_request("linear", {"x": np.ones((LIMIT_BYTES // 16 + 1, 4), np.float32)})
    with pytest.raises(grpc.RpcError) as caught:
        suite.oip.ModelInfer(request, timeout=DEADLINE_S)
    assert refusal(caught.value)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_what_the_model_itself_refuses_is_an_error_of_its_own(suite: Suite) -> None:
    inputs = {"x": np.ones((1, 7), np.float32), "shape": np.array([5, 5])}
    assert refused(suite.oip.ModelInfer, infer_request("two", inputs)) == ("INTERNAL", "MODEL_FAILED", [])


def test_a_full_queue_is_said_as_existing_clients_expect(suite: Suite) -> None:
    slow = infer_request("slow", {"x": ROW, "turns": FOREVER})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(refused, suite.oip.ModelInfer, slow)
        inference.until_metric(suite.inference, 'nv_inference_pending_request_count{model="slow",version="1.0.0"}', 1)
        with pytest.raises(grpc.RpcError) as caught:
            suite.oip.ModelInfer(infer_request("slow", {"x": ROW, "turns": np.array([1])}), timeout=DEADLINE_S)
        assert refusal(caught.value)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        details: Any = caught.value
        assert "Exceeds maximum queue size" in details.details()
        # Another model has a queue of its own.
        assert suite.oip.ModelInfer(infer_request("linear", {"x": ROW}), timeout=DEADLINE_S).outputs
        # The run that would never end is ended, and its caller hears of it.
        assert running.result(DEADLINE_S) == ("INTERNAL", "RUN_TERMINATED", [])


def test_a_time_limit_that_is_over_before_the_run_is_said_as_existing_clients_expect(suite: Suite) -> None:
    request = infer_request("linear", {"x": ROW})
    request.parameters["timeout"].int64_param = 1
    with pytest.raises(grpc.RpcError) as caught:
        suite.oip.ModelInfer(request, timeout=DEADLINE_S)
    assert refusal(caught.value)[:2] == (grpc.StatusCode.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT")
    details: Any = caught.value
    assert details.details() == "Request timeout expired"


def test_a_caller_gets_its_deadline_however_long_the_model_takes(suite: Suite) -> None:
    with pytest.raises(penstock.DeadlineExceeded):
        suite.client.inference.predict("slow", tensors={"x": ROW, "turns": FOREVER}, timeout_s=0.2)
    # Until the run is ended, the model's one place is taken by the caller that has gone.
    inference.until_metric(suite.inference, 'nv_inference_pending_request_count{model="slow",version="1.0.0"}', 0)


def test_a_timeout_that_is_no_number_is_refused(suite: Suite) -> None:
    request = infer_request("linear", {"x": ROW})
    request.parameters["timeout"].string_param = "soon"
    assert refused(suite.oip.ModelInfer, request) == ("INVALID_ARGUMENT", "INVALID_PARAMETER", ["parameters[timeout]"])

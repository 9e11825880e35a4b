"""The Open Inference Protocol's messages: what comes in, what is refused, what goes out."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from services.common.errors import InvalidArgument, Unimplemented
from services.inference.engine.statistics import Timings, VersionStatistics
from services.inference.models import ResolvedVersion, Signature, TensorSpec
from services.inference.oip import convert
from services.inference.oip import open_inference_pb2 as pb
from services.inference.prediction import Prediction
from services.inference.tensors import from_raw

NOTHING = Signature((), ())
VERSION = ResolvedVersion(
    "iris",
    "1.0.0",
    1,
    "onnx",
    "production",
    Signature((TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("label", "BYTES", (-1,)),)),
)


def request(**parameters: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="iris", id="r-1")
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
    return message


def typed(datatype: str, shape: list[int], **contents: Any) -> pb.ModelInferRequest:
    message = request()
    message.inputs.add(name="X", datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents))
    return message


@pytest.mark.parametrize(
    ("datatype", "field", "values", "dtype"),
    [
        ("BOOL", "bool_contents", [True, False], np.bool_),
        ("INT8", "int_contents", [-128, 127], np.int8),
        ("INT16", "int_contents", [-1, 2], np.int16),
        ("INT32", "int_contents", [-1, 2], np.int32),
        ("INT64", "int64_contents", [-1, 2**40], np.int64),
        ("UINT8", "uint_contents", [0, 255], np.uint8),
        ("UINT16", "uint_contents", [0, 2], np.uint16),
        ("UINT32", "uint_contents", [0, 2], np.uint32),
        ("UINT64", "uint64_contents", [0, 2**63], np.uint64),
        ("FP32", "fp32_contents", [1.5, float("nan")], np.float32),
        ("FP64", "fp64_contents", [1.5, -2.5], np.float64),
        ("BYTES", "bytes_contents", [b"a", b""], np.object_),
    ],
)
def test_typed_contents_of_each_datatype(datatype: str, field: str, values: list[Any], dtype: type) -> None:
    array = convert.inputs_of(typed(datatype, [2], **{field: values}), NOTHING)["X"]
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, np.array(values, dtype=dtype))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (typed("FP32", [2], fp32_contents=[1]), "SHAPE_MISMATCH"),
        (typed("FP32", [1], fp64_contents=[1]), "SHAPE_MISMATCH"),
        (typed("FP32", [-1], fp32_contents=[1]), "INVALID_SHAPE"),
        (typed("FP32", [2**40, 2**40], fp32_contents=[1]), "INVALID_SHAPE"),
        (typed("FP16", [1]), "RAW_ONLY_DATATYPE"),
        (typed("COMPLEX", [1]), "UNSUPPORTED_DATATYPE"),
        (typed("INT8", [1], int_contents=[128]), "VALUE_OUT_OF_RANGE"),
    ],
)
def test_typed_contents_that_do_not_fit_are_refused(message: pb.ModelInferRequest, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert.inputs_of(message, NOTHING)
    assert caught.value.reason == reason
    assert caught.value.violations[0].field == "X"


def test_raw_contents_are_a_view_of_what_came() -> None:
    message = request()
    message.inputs.add(name="X", datatype="FP32", shape=[1, 2])
    message.raw_input_contents.append(struct.pack("<2f", 1.5, 2.5))
    np.testing.assert_array_equal(convert.inputs_of(message, NOTHING)["X"], [[1.5, 2.5]])


def test_raw_and_typed_in_one_request_are_refused() -> None:
    message = typed("FP32", [1], fp32_contents=[1])
    message.raw_input_contents.append(b"1234")
    with pytest.raises(InvalidArgument) as caught:
        convert.inputs_of(message, NOTHING)
    assert caught.value.reason == "MIXED_CONTENTS"


def test_a_raw_entry_too_few_is_refused() -> None:
    message = request()
    message.inputs.add(name="X", datatype="FP32", shape=[1])
    message.inputs.add(name="Y", datatype="FP32", shape=[1])
    message.raw_input_contents.append(b"1234")
    with pytest.raises(InvalidArgument) as caught:
        convert.inputs_of(message, NOTHING)
    assert caught.value.reason == "RAW_COUNT_MISMATCH"


def test_an_input_that_comes_twice_is_refused() -> None:
    message = typed("FP32", [1], fp32_contents=[1])
    message.inputs.append(message.inputs[0])
    with pytest.raises(InvalidArgument) as caught:
        convert.inputs_of(message, NOTHING)
    assert caught.value.reason == "DUPLICATE_INPUT"


def test_the_sooner_of_timeout_and_deadline_counts() -> None:
    assert convert.timeout_s_of(request(), None) is None
    assert convert.timeout_s_of(request(), 3.0) == 3.0
    assert convert.timeout_s_of(request(timeout=500_000), None) == 0.5
    assert convert.timeout_s_of(request(timeout=500_000), 0.1) == 0.1
    assert convert.timeout_s_of(request(timeout=0), 2.0) == 2.0
    unsigned = request()
    unsigned.parameters["timeout"].uint64_param = 1_000_000
    assert convert.timeout_s_of(unsigned, None) == 1.0
    with pytest.raises(InvalidArgument):
        convert.timeout_s_of(request(timeout="soon"), None)


def test_the_caller_is_read_from_id_and_parameters() -> None:
    caller = convert.caller_of(request(user_id="ada", session_id="s"))
    assert (caller.user_id, caller.session_id, caller.request_id) == ("ada", "s", "r-1")
    assert convert.caller_of(request()).request_id == "r-1"


def test_ids_that_are_too_long_are_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert.caller_of(request(user_id="x" * 257))
    assert caught.value.violations[0].field == "user_id"
    nameless = pb.ModelInferRequest(model_name="")
    with pytest.raises(InvalidArgument):
        convert.caller_of(nameless)


def answer() -> Prediction:
    return Prediction("id-7", VERSION, {"label": np.array(["setosa"], dtype=object)}, [], 1.0)


def test_the_answer_is_raw_by_default_with_one_entry_an_output() -> None:
    response = convert.infer_response(typed("FP32", [1], fp32_contents=[1]), answer())
    assert (response.model_name, response.model_version, response.id) == ("iris", "1.0.0", "r-1")
    assert response.outputs[0].datatype == "BYTES"
    assert list(response.outputs[0].shape) == [1]
    assert list(response.raw_output_contents) == [struct.pack("<I", 6) + b"setosa"]
    assert response.parameters["inference_id"].string_param == "id-7"


def test_a_typed_request_may_ask_for_a_typed_answer() -> None:
    message = typed("FP32", [1], fp32_contents=[1])
    message.parameters["mirror_contents"].bool_param = True
    response = convert.infer_response(message, answer())
    assert list(response.outputs[0].contents.bytes_contents) == [b"setosa"]
    assert not response.raw_output_contents


def wanting(name: str = "scores", **parameters: int | str) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="iris")
    output = message.outputs.add(name=name)
    for key, value in parameters.items():
        setattr(output.parameters[key], "int64_param" if isinstance(value, int) else "string_param", value)
    return message


@pytest.mark.parametrize(
    ("scores", "count", "shape", "classes"),
    [
        (np.array([[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]], np.float32), 2, [2, 2],
         [b"0.700000:1", b"0.200000:2", b"0.500000:0", b"0.500000:2"]),
        (np.array([0.25, 0.75]), 9, [2], [b"0.750000:1", b"0.250000:0"]),
        (np.array([[3, 9]], np.uint8), 1, [1, 1], [b"9:1"]),
        (np.array([[0.5, np.nan, 0.75]]), 1, [1, 1], [b"0.750000:2"]),
    ],
    ids=["rows, the first of equals first", "no more than there are", "whole numbers", "NaN comes last"],
)  # fmt: skip
def test_classes_are_the_best_scores_with_their_places(
    scores: Any, count: int, shape: list[int], classes: list[bytes]
) -> None:
    message = wanting(classification=count)
    assert convert.outputs_of(message) == ("scores",)
    response = convert.infer_response(message, Prediction("id-7", VERSION, {"scores": scores}, [], 1.0))
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", shape)
    assert from_raw("scores", "BYTES", shape, response.raw_output_contents[0]).ravel().tolist() == classes


def test_classes_of_what_has_no_scores_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="no scores") as caught:
        convert.infer_response(wanting("label", classification=1), answer())
    assert caught.value.reason == "INVALID_PARAMETER"


@pytest.mark.parametrize("count", [0, -1, "two"])
def test_a_number_of_classes_that_is_none_is_refused_before_anything_runs(count: int | str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert.outputs_of(wanting(classification=count))
    assert caught.value.reason == "INVALID_PARAMETER"


def test_shared_memory_is_refused_by_its_name() -> None:
    with pytest.raises(Unimplemented) as caught:
        convert.outputs_of(wanting(shared_memory_region="region"))
    assert caught.value.reason == "SHARED_MEMORY_NOT_SERVED"
    alone = typed("FP32", [1])
    alone.inputs[0].parameters["shared_memory_region"].string_param = "region"
    beside = pb.ModelInferRequest(inputs=[alone.inputs[0], alone.inputs[0]], raw_input_contents=[b"1234"])
    for message in (alone, beside):
        with pytest.raises(Unimplemented):
            convert.inputs_of(message, NOTHING)


def test_metadata_and_config_say_the_same_of_a_model() -> None:
    metadata = convert.metadata_response(VERSION, ["1.0.0"])
    config = convert.config_response(VERSION).config
    assert (metadata.platform, config.platform, config.backend) == (
        "onnxruntime_onnx",
        "onnxruntime_onnx",
        "onnxruntime",
    )
    assert list(metadata.inputs[0].shape) == list(config.input[0].dims) == [-1, 4]
    assert config.max_batch_size == 0
    assert config.output[0].data_type == pb.TYPE_STRING
    assert not metadata.properties


def test_statistics_are_written_with_their_batches_and_memory() -> None:
    statistics = VersionStatistics(VERSION)
    timings = Timings(queue_ns=1, compute_input_ns=2, compute_infer_ns=3, compute_output_ns=4, total_ns=10)
    statistics.count_success(5, timings)
    written = convert.statistics_proto(statistics, {VERSION.key: 1_024})
    assert (written.inference_count, written.execution_count) == (5, 1)
    assert written.last_inference == statistics.last_inference_ms > 1_700_000_000_000
    assert (written.inference_stats.success.count, written.inference_stats.success.ns) == (1, 10)
    assert (written.batch_stats[0].batch_size, written.batch_stats[0].compute_infer.ns) == (5, 3)
    assert written.memory_usage[0].byte_size == 1_024

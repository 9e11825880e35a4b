"""The Open Inference Protocol's messages: what comes in, what is refused, what goes out."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.common.errors import InvalidArgument, Unimplemented
from services.inference.models import Metadata, ResolvedVersion, Signature, TensorSpec
from services.inference.oip import convert
from services.inference.oip import open_inference_pb2 as pb
from services.inference.oip.convert import Answers
from services.inference.prediction import Prediction
from services.inference.shared_memory.control import SharedMemory
from services.inference.shared_memory.regions import Place, Region, Regions
from services.inference.tensors import Tensor, from_raw
from services.inference.workers.commands import Commands, OneProcess

NOTHING = Signature((), ())
TAKES_X = Signature((TensorSpec("X", "FP32", (-1,)),), ())
NONE = SharedMemory(None, OneProcess(Commands()))
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
    array = convert.inputs_of(typed(datatype, [2], **{field: values}), NONE, NOTHING)["X"]
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
        convert.inputs_of(message, NONE, NOTHING)
    assert caught.value.reason == reason
    assert caught.value.violations[0].field == "X"


def test_raw_contents_are_a_view_of_what_came() -> None:
    message = request()
    message.inputs.add(name="X", datatype="FP32", shape=[1, 2])
    message.raw_input_contents.append(struct.pack("<2f", 1.5, 2.5))
    np.testing.assert_array_equal(convert.inputs_of(message, NONE, NOTHING)["X"], [[1.5, 2.5]])


def test_raw_and_typed_in_one_request_are_refused() -> None:
    message = typed("FP32", [1], fp32_contents=[1])
    message.raw_input_contents.append(b"1234")
    with pytest.raises(InvalidArgument) as caught:
        convert.inputs_of(message, NONE, NOTHING)
    assert caught.value.reason == "MIXED_CONTENTS"


def test_a_raw_entry_too_few_is_refused() -> None:
    message = request()
    message.inputs.add(name="X", datatype="FP32", shape=[1])
    message.inputs.add(name="Y", datatype="FP32", shape=[1])
    message.raw_input_contents.append(b"1234")
    with pytest.raises(InvalidArgument) as caught:
        convert.inputs_of(message, NONE, NOTHING)
    assert caught.value.reason == "RAW_COUNT_MISMATCH"


def test_an_input_that_comes_twice_is_refused() -> None:
    message = typed("FP32", [1], fp32_contents=[1])
    message.inputs.append(message.inputs[0])
    with pytest.raises(InvalidArgument) as caught:
        convert.inputs_of(message, NONE, NOTHING)
    assert caught.value.reason == "DUPLICATE_INPUT"


def answer() -> Prediction:
    return Prediction("id-7", VERSION, {"label": np.array(["setosa"], dtype=object)}, [], 1.0)


def written(
    message: pb.ModelInferRequest, prediction: Prediction, answers: Answers | None = None
) -> pb.ModelInferResponse:
    return convert.infer_response(message, prediction, answers or Answers(NONE), pb.ModelInferResponse())


def test_the_answer_is_raw_by_default_with_one_entry_an_output() -> None:
    response = written(typed("FP32", [1], fp32_contents=[1]), answer())
    assert (response.model_name, response.model_version, response.id) == ("iris", "1.0.0", "r-1")
    assert response.outputs[0].datatype == "BYTES"
    assert list(response.outputs[0].shape) == [1]
    assert list(response.raw_output_contents) == [struct.pack("<I", 6) + b"setosa"]
    assert response.parameters["inference_id"].string_param == "id-7"


def test_a_typed_request_may_ask_for_a_typed_answer() -> None:
    message = typed("FP32", [1], fp32_contents=[1])
    message.parameters["mirror_contents"].bool_param = True
    response = written(message, answer())
    assert list(response.outputs[0].contents.bytes_contents) == [b"setosa"]
    assert not response.raw_output_contents


def test_a_server_may_be_told_to_mirror_what_does_not_ask() -> None:
    message = typed("FP32", [1], fp32_contents=[1])
    response = written(message, answer(), Answers(NONE, mirrored=True))
    assert list(response.outputs[0].contents.bytes_contents) == [b"setosa"]
    message.parameters["mirror_contents"].bool_param = False
    assert written(message, answer(), Answers(NONE, mirrored=True)).raw_output_contents


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
    assert convert.outputs_of(message, NONE) == ("scores",)
    response = written(message, Prediction("id-7", VERSION, {"scores": scores}, [], 1.0))
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", shape)
    assert from_raw("scores", "BYTES", shape, response.raw_output_contents[0]).ravel().tolist() == classes


def test_classes_bear_the_labels_of_a_version_that_names_them() -> None:
    named = replace(VERSION, metadata=Metadata(fields={"labels": ["cat", "dog"]}))
    scores: dict[str, Tensor] = {"scores": np.array([[0.5, 0.75, 0.25]])}
    response = written(wanting(classification=3), Prediction("id-7", named, scores, [], 1.0))
    classes = from_raw("scores", "BYTES", [1, 3], response.raw_output_contents[0])
    assert classes.tolist() == [[b"0.750000:1:dog", b"0.500000:0:cat", b"0.250000:2"]]


def test_classes_of_what_has_no_scores_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="no scores") as caught:
        written(wanting("label", classification=1), answer())
    assert caught.value.reason == "INVALID_PARAMETER"


@pytest.mark.parametrize("count", [0, -1, "two"])
def test_a_number_of_classes_that_is_none_is_refused_before_anything_runs(count: int | str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert.outputs_of(wanting(classification=count), NONE)
    assert caught.value.reason == "INVALID_PARAMETER"


def in_memory(size_bytes: int, datatype: str = "FP32") -> pb.ModelInferRequest:
    message = request()
    tensor = message.inputs.add(name="X", datatype=datatype, shape=[2])
    tensor.parameters["shared_memory_region"].string_param = "region"
    tensor.parameters["shared_memory_byte_size"].int64_param = size_bytes
    tensor.parameters["shared_memory_offset"].uint64_param = 4
    return message


@pytest.fixture
def shared(tmp_path: Path) -> SharedMemory:
    """Shared memory with a region of 16 bytes: four numbers, 0.0 to 3.0."""
    (tmp_path / "object").write_bytes(struct.pack("<4f", 0, 1, 2, 3))
    regions = Regions(tmp_path)
    regions.register(Region("region", "/object", 0, 16))
    return SharedMemory(regions, OneProcess(Commands()))


def test_shared_memory_is_refused_by_its_name_where_it_is_off() -> None:
    wanted = wanting(shared_memory_region="region", shared_memory_byte_size=8)
    for read in (lambda: convert.outputs_of(wanted, NONE), lambda: convert.inputs_of(in_memory(8), NONE, NOTHING)):
        with pytest.raises(Unimplemented) as caught:
            read()
        assert caught.value.reason == "SHARED_MEMORY_NOT_SERVED"


def test_an_input_is_read_from_its_region_beside_one_in_the_message(shared: SharedMemory) -> None:
    message = in_memory(8)
    message.inputs.add(name="Y", datatype="FP32", shape=[1])
    message.raw_input_contents.append(struct.pack("<f", 7))
    inputs = convert.inputs_of(message, shared, TAKES_X)
    assert inputs["X"].tolist() == [1.0, 2.0]
    assert inputs["Y"].tolist() == [7.0]


@pytest.mark.parametrize("size_bytes", [4, 12, 1_000])
def test_an_input_whose_place_is_of_another_size_is_refused(shared: SharedMemory, size_bytes: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert.inputs_of(in_memory(size_bytes), shared, TAKES_X)
    assert caught.value.reason == "SHAPE_MISMATCH"


def test_what_the_model_does_not_take_is_not_read_from_memory(shared: SharedMemory) -> None:
    with pytest.raises(InvalidArgument, match="it takes none") as caught:
        convert.inputs_of(in_memory(2**40), shared, NOTHING)
    assert caught.value.reason == "UNKNOWN_INPUT"


def test_an_input_cannot_be_in_memory_and_in_the_message(shared: SharedMemory) -> None:
    message = in_memory(8)
    message.inputs[0].contents.fp32_contents.append(1)
    with pytest.raises(InvalidArgument) as caught:
        convert.inputs_of(message, shared, TAKES_X)
    assert caught.value.reason == "MIXED_CONTENTS"


def test_an_output_goes_into_its_region_and_leaves_an_empty_entry(shared: SharedMemory) -> None:
    message = wanting(shared_memory_region="region", shared_memory_byte_size=8, shared_memory_offset=8)
    assert convert.outputs_of(message, shared) == ("scores",)
    outputs: dict[str, Tensor] = {"scores": np.array([8, 9], np.float32), "others": np.array([1], np.int8)}
    response = written(message, Prediction("id-7", VERSION, outputs, [], 1.0), Answers(shared))
    assert list(response.raw_output_contents) == [b"", b"\1"]
    parameters = response.outputs[0].parameters
    assert parameters["shared_memory_region"].string_param == "region"
    assert parameters["shared_memory_byte_size"].int64_param == 8
    assert parameters["shared_memory_offset"].int64_param == 8
    assert shared.regions.read(Place("region", 0, 16)) == struct.pack("<4f", 0, 1, 8, 9)


def test_an_output_that_does_not_fit_its_place_is_refused(shared: SharedMemory) -> None:
    message = wanting(shared_memory_region="region", shared_memory_byte_size=4)
    prediction = Prediction("id-7", VERSION, {"scores": np.array([8, 9], np.float32)}, [], 1.0)
    with pytest.raises(InvalidArgument) as caught:
        written(message, prediction, Answers(shared))
    assert caught.value.reason == "SHARED_MEMORY_TOO_SMALL"
    assert shared.regions.read(Place("region", 0, 4)) == struct.pack("<f", 0)


@pytest.mark.parametrize(
    "parameters",
    [
        {"shared_memory_region": "region"},
        {"shared_memory_region": "", "shared_memory_byte_size": 4},
        {"shared_memory_region": "region", "shared_memory_byte_size": -4},
        {"shared_memory_region": "region", "shared_memory_byte_size": 4, "shared_memory_offset": -4},
        {"shared_memory_region": "region", "shared_memory_byte_size": "4"},
    ],
)
def test_a_place_that_is_none_is_refused(shared: SharedMemory, parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert.outputs_of(wanting(**parameters), shared)
    assert caught.value.reason == "INVALID_PARAMETER"


def test_outputs_that_only_travel_raw_keep_a_mirrored_answer_raw() -> None:
    message = typed("FP32", [1], fp32_contents=[1])
    outputs: dict[str, Tensor] = {"half": np.array([1], np.float16), "whole": np.array([1], np.int8)}
    response = written(message, Prediction("id-7", VERSION, outputs, [], 1.0), Answers(NONE, mirrored=True))
    assert len(response.raw_output_contents) == 2

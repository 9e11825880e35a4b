"""Models of a few hundred bytes, of many kinds: what a client has to get right shows on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

OPSET, IR_VERSION = 21, 10
FP32, INT64, TEXT = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def identity() -> bytes:
    """`y = x`: FP32 [rows, 4], any value, NaN and infinities too."""
    return model([helper.make_node("Identity", ["x"], ["y"])], [value("x", FP32, 4)], [value("y", FP32, 4)])


def add() -> bytes:
    """`sum = a + b`: INT64 [rows, 3]; what JSON's numbers can't hold comes back whole."""
    return model(
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        [value("a", INT64, 3), value("b", INT64, 3)],
        [value("sum", INT64, 3)],
    )


def greet() -> bytes:
    """`greeting` = "hello, " and the name: BYTES [rows, 1], any script."""
    return model(
        [helper.make_node("StringConcat", ["hello", "name"], ["greeting"])],
        [value("name", TEXT, 1)],
        [value("greeting", TEXT, 1)],
        {"hello": np.array(["hello, "], dtype=object)},
    )


def two_by_two() -> bytes:
    """Two inputs, two outputs: `total` FP32 [rows, 1] and `larger` BOOL [rows, 4], whether a is larger than b."""
    return model(
        [
            helper.make_node("Add", ["a", "b"], ["both"]),
            helper.make_node("ReduceSum", ["both", "columns"], ["total"], keepdims=1),
            helper.make_node("Greater", ["a", "b"], ["larger"]),
        ],
        [value("a", FP32, 4), value("b", FP32, 4)],
        [value("total", FP32, 1), value("larger", TensorProto.BOOL, 4)],
        {"columns": np.array([1])},
    )


def centred() -> bytes:
    """`y = x - mean of the rows`: a row's answer depends on its neighbours, so that it must never be batched."""
    return model(
        [
            helper.make_node("ReduceMean", ["x", "rows_axis"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [value("x", FP32, 4)],
        [value("y", FP32, 4)],
        {"rows_axis": np.array([0])},
    )


def external() -> Mapping[str, bytes]:
    """`y = x·W`: FP32 [rows, 64] to [rows, 8], W in a file of its own beside the graph."""
    kernel = np.random.default_rng(18).standard_normal((64, 8)).astype("<f4")
    tensor = numpy_helper.from_array(kernel, "W")
    set_external_data(tensor, location="weights.bin", offset=0, length=kernel.nbytes)
    tensor.ClearField("raw_data")
    graph = model(
        [helper.make_node("MatMul", ["x", "W"], ["y"])], [value("x", FP32, 64)], [value("y", FP32, 8)], [tensor]
    )
    return {"external-1.0.0/model.onnx": graph, "external-1.0.0/weights.bin": kernel.tobytes()}


def value(name: str, element_type: int, *sizes: int) -> ValueInfoProto:
    """Describe an input or output of any number of rows."""
    return helper.make_tensor_value_info(name, element_type, ["rows", *sizes])


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Mapping[str, NDArray[Any]] | Sequence[TensorProto] = (),
) -> bytes:
    """Make a file; equal models are equal bytes."""
    if isinstance(constants, Mapping):
        constants = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "example", inputs, outputs, constants),
        producer_name="penstock-example",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    return made.SerializeToString(deterministic=True)

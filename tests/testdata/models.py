"""Tiny ONNX files, kind and hostile, made in memory: each function returns the bytes of one file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
Shape: TypeAlias = Sequence[int | str | None] | None


def linear(width: int = 4, classes: int = 3, *, seed: int = 0) -> bytes:
    """`y = softmax(x·W + b)`: input x FP32 [-1, width], output y FP32 [-1, classes]. Rows are independent."""
    generator = np.random.default_rng(seed)
    return _model(
        [
            helper.make_node("Gemm", ["x", "W", "b"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["y"], axis=-1),
        ],
        [_value("x", FLOAT, ["N", width])],
        [_value("y", FLOAT, ["N", classes])],
        {
            "W": generator.standard_normal((width, classes)).astype(np.float32),
            "b": generator.standard_normal(classes).astype(np.float32),
        },
    )


def classifier(width: int = 4, classes: int = 3, *, seed: int = 0) -> bytes:
    """What skl2onnx makes of a classifier without ZipMap: label INT64 [-1], probabilities FP32 [-1, classes]."""
    generator = np.random.default_rng(seed)
    return _model(
        [
            helper.make_node("Gemm", ["X", "W", "b"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=-1, keepdims=0),
        ],
        [_value("X", FLOAT, [None, width])],
        [_value("label", INT64, [None]), _value("probabilities", FLOAT, [None, classes])],
        {
            "W": generator.standard_normal((width, classes)).astype(np.float32),
            "b": generator.standard_normal(classes).astype(np.float32),
        },
    )


def zipmap_classifier() -> bytes:
    """A classifier whose probabilities come as a sequence of maps, as skl2onnx makes it by default."""
    probabilities = helper.make_sequence_type_proto(
        helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    )
    return _model(
        [helper.make_node("ZipMap", ["x"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])],
        [_value("x", FLOAT, ["N", 3])],
        [helper.make_value_info("probabilities", probabilities)],
        domains={"ai.onnx.ml": 1},
    )


def zipmap_of_words() -> bytes:
    """Scores by class names, as a sequence of maps, the names in no order: input x FP32 [-1, 3]."""
    scores = helper.make_sequence_type_proto(
        helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
    )
    names = ["versicolor", "setosa", "virginica"]
    return _model(
        [helper.make_node("ZipMap", ["x"], ["scores"], domain="ai.onnx.ml", classlabels_strings=names)],
        [_value("x", FLOAT, ["N", 3])],
        [helper.make_value_info("scores", scores)],
        domains={"ai.onnx.ml": 1},
    )


def map_input() -> bytes:
    """Takes a map from words to numbers, as scikit-learn's DictVectorizer does."""
    words = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
    vectorizer = helper.make_node(
        "DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", string_vocabulary=["height", "width"]
    )
    return _model(
        [vectorizer], [helper.make_value_info("x", words)], [_value("y", FLOAT, [1, 2])], domains={"ai.onnx.ml": 1}
    )


def sequence(*, like: bool = True) -> bytes:
    """Gives a sequence of x twice, or without `like` of x and its transpose: input x FP32 [-1, 4]."""
    tensors = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    return _model(
        [
            helper.make_node("Transpose", ["x"], ["turned"]),
            helper.make_node("SequenceConstruct", ["x", "x" if like else "turned"], ["parts"]),
        ],
        [_value("x", FLOAT, ["N", 4])],
        [helper.make_value_info("parts", tensors)],
    )


def batch_centred(width: int = 4) -> bytes:
    """Subtracts the mean of the batch: a row's answer depends on its neighbours."""
    return _model(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [_value("x", FLOAT, ["N", width])],
        [_value("y", FLOAT, ["N", width])],
        {"axes": np.array([0])},
    )


def dynamically_quantised(width: int = 64, *, seed: int = 0) -> bytes:
    """A dense layer in 8 bits, its input scaled by the extremes of the whole batch."""
    weights = np.random.default_rng(seed).integers(-100, 100, (width, width)).astype(np.int8)
    return _model(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["q", "W", "zero"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["floats"], to=FLOAT),
            helper.make_node("Mul", ["floats", "scale"], ["y"]),
        ],
        [_value("x", FLOAT, ["N", width])],
        [_value("y", FLOAT, ["N", width])],
        {"W": weights},
    )


def fixed_batch(rows: int = 1, width: int = 4) -> bytes:
    """Takes exactly `rows` rows: the first dimension is fixed."""
    return _model(
        [helper.make_node("Relu", ["x"], ["y"])],
        [_value("x", FLOAT, [rows, width])],
        [_value("y", FLOAT, [rows, width])],
    )


def summed() -> bytes:
    """Says that its output has a row per input row, and returns a single one."""
    return _model(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
        [_value("x", FLOAT, ["N", 4])],
        [_value("y", FLOAT, ["M", 4])],
        {"axes": np.array([0])},
    )


def one_row() -> bytes:
    """Says that it takes any number of rows, and reshapes them to one."""
    return _model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [_value("x", FLOAT, ["N", 4])],
        [_value("y", FLOAT, None)],
        {"shape": np.array([1, 4])},
    )


def stacked() -> bytes:
    """Puts the batch on top of itself: two output rows for each input row."""
    return _model(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        [_value("x", FLOAT, ["N", 4])],
        [_value("y", FLOAT, ["M", 4])],
    )


def named(name: str) -> bytes:
    """`y = x`, the input under another name."""
    return _model(
        [helper.make_node("Identity", [name], ["y"])], [_value(name, FLOAT, ["N", 4])], [_value("y", FLOAT, ["N", 4])]
    )


def newer_than_runtime() -> bytes:
    """A model of an operator set that no runtime knows yet."""
    return _single(helper.make_node("Relu", ["x"], ["y"]), domains={"": 9_999})


def strings() -> bytes:
    """Numbers colours: input colour BYTES [-1, 1], output number INT64 [-1, 1]."""
    encoder = helper.make_node(
        "LabelEncoder", ["colour"], ["number"], domain="ai.onnx.ml", keys_strings=["red", "green"], values_int64s=[7, 8]
    )
    return _model(
        [encoder],
        [_value("colour", STRING, ["N", 1])],
        [_value("number", INT64, ["N", 1])],
        domains={"ai.onnx.ml": 4},
    )


def identity(element_type: int, shape: Shape = ("N", 4)) -> bytes:
    """`y = x` for any element type of ONNX; shape None declares none."""
    return _model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [_value("x", element_type, shape)],
        [_value("y", element_type, shape)],
    )


def embedding(vocabulary: int = 5, width: int = 4) -> bytes:
    """Looks integers up in a table: input ids INT64 [-1, -1], output vectors FP32 without a declared shape."""
    table = np.arange(vocabulary * width, dtype=np.float32).reshape(vocabulary, width)
    return _model(
        [helper.make_node("Gather", ["table", "ids"], ["vectors"])],
        [_value("ids", INT64, ["N", "length"])],
        [_value("vectors", FLOAT, None)],
        {"table": table},
    )


def unrunnable(*, shaped: bool = True, rank: int | str = 2) -> bytes:
    """Loads, and takes no row that could be guessed: it reshapes its first input to what the second one says.

    Without `shaped` the output declares no shape; `rank` is how many numbers the second input has.
    """
    return _model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [_value("x", FLOAT, ["N", 7]), _value("shape", INT64, [rank if shaped else "rank"])],
        [_value("y", FLOAT, ["A", "B"] if shaped else None)],
    )


def unending() -> bytes:
    """Loads at once, and loops 2⁶³ times, less one, when it is run."""
    body = _graph(
        [helper.make_node("Identity", ["more"], ["more_"]), helper.make_node("Sin", ["value"], ["value_"])],
        [_value("turn", INT64, []), _value("more", BOOL, []), _value("value", FLOAT, ["N", 4])],
        [_value("more_", BOOL, []), _value("value_", FLOAT, ["N", 4])],
    )
    return _model(
        [helper.make_node("Loop", ["turns", "true", "x"], ["y"], body=body)],
        [_value("x", FLOAT, ["N", 4])],
        [_value("y", FLOAT, ["N", 4])],
        {"turns": np.array(2**63 - 1), "true": np.array(True)},
    )


def patient() -> bytes:
    """Applies the sine to x as often as its input `turns` INT64 [1] says: a test chooses how long it takes."""
    body = _graph(
        [helper.make_node("Identity", ["more"], ["more_"]), helper.make_node("Sin", ["value"], ["value_"])],
        [_value("turn", INT64, []), _value("more", BOOL, []), _value("value", FLOAT, ["N", 4])],
        [_value("more_", BOOL, []), _value("value_", FLOAT, ["N", 4])],
    )
    return _model(
        [helper.make_node("Loop", ["turns", "true", "x"], ["y"], body=body)],
        [_value("x", FLOAT, ["N", 4]), _value("turns", INT64, [1])],
        [_value("y", FLOAT, ["N", 4])],
        {"true": np.array(True)},
    )


def gigantic(gibibytes: int = 64) -> bytes:
    """A file of some hundred bytes that asks for a tensor of `gibibytes` when it is run."""
    return _model(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Mul", ["s", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "huge"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["ones"]),
            helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["y"]),
        ],
        [_value("x", FLOAT, ["N", 4])],
        [_value("y", FLOAT, ["N", 4])],
        {"zero": np.array(0), "huge": np.array([gibibytes * 2**10, 2**18])},
    )


def crashing() -> bytes:
    """Divides the smallest integer by -1, which the processor refuses: SIGFPE inside ONNX Runtime while loading."""
    return _model(
        [
            helper.make_node("Div", ["smallest", "minus_one"], ["quotient"]),
            helper.make_node("Cast", ["quotient"], ["float"], to=FLOAT),
            helper.make_node("Add", ["x", "float"], ["y"]),
        ],
        [_value("x", FLOAT, ["N", 4])],
        [_value("y", FLOAT, ["N", 4])],
        {"smallest": np.array([-(2**63)]), "minus_one": np.array([-1])},
    )


def external_data(location: str = "../../etc/passwd", **said: object) -> bytes:
    """`y = x + W`, where W, FP32 [4], is kept in another file, by default one that is none of its business.

    `said` is what else the graph says of it: `offset` and `length`.
    """
    weights = TensorProto(name="W", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **said}.items():
        weights.external_data.add(key=key, value=str(value))
    return _single(helper.make_node("Add", ["x", "W"], ["y"]), tensors=[weights])


def hidden_external_data(location: str = "../../etc/passwd") -> bytes:
    """The same inside a branch, where a look at the main graph does not find it."""
    weights = TensorProto(name="W", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    branch = _graph([helper.make_node("Constant", [], ["c"], value=weights)], [], [_value("c", FLOAT, [4])])
    return _model(
        [
            helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch),
            helper.make_node("Add", ["x", "w"], ["y"]),
        ],
        [_value("x", FLOAT, ["N", 4])],
        [_value("y", FLOAT, ["N", 4])],
        {"yes": np.array(True)},
    )


def custom_operator(domain: str = "acme.kernels", operator: str = "Frobnicate") -> bytes:
    """Uses an operator that only a library of its makers knows."""
    return _single(helper.make_node(operator, ["x"], ["y"], domain=domain), domains={domain: 1})


def local_function() -> bytes:
    """Defines an operator of its own domain inside the file, which needs no library."""
    double = helper.make_function(
        "acme", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 21)]
    )
    return _single(helper.make_node("Double", ["x"], ["y"], domain="acme"), domains={"acme": 1}, functions=[double])


def dangling() -> bytes:
    """Parses as ONNX, and reads a tensor that nothing makes."""
    return _single(helper.make_node("Relu", ["nowhere"], ["y"]))


def garbage(size_bytes: int = 4096, *, seed: int = 0) -> bytes:
    """Random bytes."""
    return np.random.default_rng(seed).bytes(size_bytes)


def truncated() -> bytes:
    """The first half of a good file."""
    whole = linear(width=64, classes=64)
    return whole[: len(whole) // 2]


def _single(
    node: NodeProto,
    *,
    tensors: Sequence[TensorProto] = (),
    domains: dict[str, int] | None = None,
    functions: Sequence[FunctionProto] = (),
) -> bytes:
    """A model of one node from x FP32 [-1, 4] to y of the same shape."""
    return _model(
        [node],
        [_value("x", FLOAT, ["N", 4])],
        [_value("y", FLOAT, ["N", 4])],
        tensors=tensors,
        domains=domains,
        functions=functions,
    )


def _model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: dict[str, npt.NDArray[np.generic]] | None = None,
    *,
    tensors: Sequence[TensorProto] = (),
    domains: dict[str, int] | None = None,
    functions: Sequence[FunctionProto] = (),
) -> bytes:
    graph = _graph(nodes, inputs, outputs)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in (constants or {}).items())
    graph.initializer.extend(tensors)
    opsets = [helper.make_opsetid(domain, version) for domain, version in ({"": 21} | (domains or {})).items()]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=10, functions=functions, producer_name="penstock-tests"
    )
    content: bytes = model.SerializeToString()
    return content


def _graph(
    nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
) -> GraphProto:
    return helper.make_graph(nodes, "graph", inputs, outputs)


def _value(name: str, element_type: int, shape: Shape) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type, shape)

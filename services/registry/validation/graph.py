"""Reads an ONNX file as data, before any runtime sees it. Imported by the child process alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError

from .report import FailureReason, Refusal, one_line

# The domains whose operators ONNX and ONNX Runtime define themselves ("" and "ai.onnx" are the same one).
STANDARD_DOMAINS = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "ai.onnx.training",
        "com.microsoft",
        "com.microsoft.nchwc",
    }
)
# Operators that run Python or read files of the server, in whatever domain: no policy lets these in.
FORBIDDEN_OPERATORS = frozenset({"PyOp", "PythonOp", "PythonOpGrad", "PyCustomOp", "ATen", "EPContext"})

_SHOWN_NAME_LENGTH = 100


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What the file says of itself. `unshaped_outputs` are the outputs for which it declares no shape."""

    ir_version: int
    opsets: dict[str, int]
    producer: str
    unshaped_outputs: frozenset[str]


def read_graph(content: bytes, extra_domains: frozenset[str]) -> GraphFacts:
    """Parse `content` and check what may be refused without running it; `extra_domains` are allowed as well.

    Raises Refusal: NOT_ONNX, EXTERNAL_DATA_UNSUPPORTED, FORBIDDEN_OPERATOR, CUSTOM_OPERATOR or, for an input
    without a shape, UNSUPPORTED_INPUT_TYPE.
    """
    model = _parse(content)
    functions = {(function.domain, function.name) for function in model.functions}
    for tensor in _tensors(model):
        _refuse_external_data(tensor)
    for node in _nodes(model):
        _refuse_operator(node, functions, extra_domains)
    _refuse_unshaped_inputs(model.graph)
    return GraphFacts(
        ir_version=model.ir_version,
        opsets={one_line(opset.domain, _SHOWN_NAME_LENGTH) or "ai.onnx": opset.version for opset in model.opset_import},
        producer=one_line(f"{model.producer_name} {model.producer_version}", 2 * _SHOWN_NAME_LENGTH),
        unshaped_outputs=frozenset(
            output.name for output in model.graph.output if not output.type.tensor_type.HasField("shape")
        ),
    )


def _parse(content: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise Refusal(
            FailureReason.NOT_ONNX,
            f"the file's {len(content):,} bytes do not parse as ONNX: it is another format, or was cut short or "
            "damaged; export the model again and upload the .onnx file itself",
        ) from None
    # Nearly any bytes can parse as a protobuf message; a model also has a version, operators and a graph.
    if model.ir_version < 1 or not model.opset_import or not model.graph.output:
        raise Refusal(
            FailureReason.NOT_ONNX,
            f"the file's {len(content):,} bytes hold no ONNX model (no IR version, operator set or graph "
            "output); upload the .onnx file itself",
        )
    return model


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Every graph: the main one, the functions, and the branches and loop bodies inside them."""
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    waiting.extend(graph for info in model.training_info for graph in (info.initialization, info.algorithm))
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for graph in _graphs(model):
        yield from graph.node


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in _graphs(model):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        if isinstance(graph, onnx.FunctionProto):
            attributes.extend(graph.attribute_proto)
        for attribute in attributes:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _refuse_external_data(tensor: onnx.TensorProto) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise Refusal(
            FailureReason.EXTERNAL_DATA_UNSUPPORTED,
            f"tensor {_shown(tensor.name)} keeps its data in another file, and a version is one file; save the "
            "model with its weights inside (onnx.save without save_as_external_data)",
        )


def _refuse_operator(node: onnx.NodeProto, functions: set[tuple[str, str]], extra_domains: frozenset[str]) -> None:
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    if node.op_type in FORBIDDEN_OPERATORS:
        raise Refusal(
            FailureReason.FORBIDDEN_OPERATOR,
            f"operator {_shown(operator)} runs Python or reads files on the server, which no model may; export the "
            "model without it",
        )
    known = node.domain in STANDARD_DOMAINS or node.domain in extra_domains
    if not known and (node.domain, node.op_type) not in functions:
        raise Refusal(
            FailureReason.CUSTOM_OPERATOR,
            f"operator {_shown(operator)} is of a custom domain, which needs a library that the server does not "
            "load; export the model with standard operators, or have the operator allow the domain",
        )


def _refuse_unshaped_inputs(graph: onnx.GraphProto) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name in constants or not value.type.HasField("tensor_type"):
            continue
        if not value.type.tensor_type.HasField("shape"):
            raise Refusal(
                FailureReason.UNSUPPORTED_INPUT_TYPE,
                f"input {_shown(value.name)} declares no shape, so that nobody could tell what it takes; export the "
                "model with shapes (open dimensions are fine)",
            )


def _shown(name: str) -> str:
    return repr(one_line(name, _SHOWN_NAME_LENGTH))

"""Reads an ONNX graph as data, before any runtime sees it. Imported by the child process alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
    """What the file says of itself.

    `unshaped_outputs` are the outputs for which it declares no shape, `data_files` the files that keep its tensors,
    as it names them. `table_rows` are the rows of the table that each input is looked up in, where one is, directly.
    """

    ir_version: int
    opsets: dict[str, int]
    producer: str
    unshaped_outputs: frozenset[str]
    data_files: tuple[str, ...]
    table_rows: dict[str, int]


def read_graph(content: bytes, extra_domains: frozenset[str], sizes: Mapping[str, int]) -> GraphFacts:
    """Parse `content` and check what may be refused without running it; `extra_domains` are allowed as well.

    `sizes` are those of the files that may keep its tensors, by their paths from the graph's own folder.

    Raises Refusal: NOT_ONNX, EXTERNAL_DATA_INVALID, FORBIDDEN_OPERATOR, CUSTOM_OPERATOR or, for an input
    without a shape, UNSUPPORTED_INPUT_TYPE.
    """
    model = _parse(content)
    functions = {(function.domain, function.name) for function in model.functions}
    data_files = {_data_file(tensor, sizes) for tensor in _tensors(model) if _is_external(tensor)}
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
        data_files=tuple(sorted(data_files)),
        table_rows=_table_rows(model.graph),
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


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or bool(tensor.external_data)


def _data_file(tensor: onnx.TensorProto, sizes: Mapping[str, int]) -> str:
    """Give the file that keeps a tensor's data; refuses one that is not among `sizes`, or that is too short."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    location = said.get("location", "")
    if location not in sizes:
        raise Refusal(
            FailureReason.EXTERNAL_DATA_INVALID,
            f"tensor {_shown(tensor.name)} keeps its data in the file {_shown(location)}, which is none of this "
            "version's files beside the graph; upload it with the graph, under the plain relative path that the graph "
            "names, or save the model with its weights inside",
        )
    offset, length = _count(tensor, said, "offset"), _count(tensor, said, "length")
    if offset + length > sizes[location]:
        raise Refusal(
            FailureReason.EXTERNAL_DATA_INVALID,
            f"tensor {_shown(tensor.name)} keeps its data at {offset:,} to {offset + length:,} of the file "
            f"{_shown(location)}, which has {sizes[location]:,} bytes; it belongs to another model or was cut short",
        )
    return location


def _count(tensor: onnx.TensorProto, said: Mapping[str, str], key: str) -> int:
    text = said.get(key, "0")
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise Refusal(
            FailureReason.EXTERNAL_DATA_INVALID,
            f"the {key} of the data of tensor {_shown(tensor.name)} is {_shown(text)}, and no number of bytes",
        )
    return int(text)


def _table_rows(graph: onnx.GraphProto) -> dict[str, int]:
    tables = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    inputs = {value.name for value in graph.input} - tables.keys()
    rows: dict[str, int] = {}
    for node in graph.node:
        # Along another axis than the first, the indices count something else than rows.
        plain = all(attribute.name != "axis" or attribute.i == 0 for attribute in node.attribute)
        if node.op_type == "Gather" and plain and len(node.input) == 2:
            table, index = node.input
            if table in tables and index in inputs:
                rows[index] = min(tables[table], rows.get(index, tables[table]))
    return rows


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

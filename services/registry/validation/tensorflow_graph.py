"""Reads a SavedModel's graph as data, before TensorFlow sees it. Imported by the child process alone.

Every node of the graphs and of their function libraries is looked at. The saver that TensorFlow writes into each
SavedModel reads and writes files; it is let be where it stands (in the functions and nodes that `saver_def` names, and
that nothing that is served, loaded or exported comes to), reading the one name that it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from .layout import shown
from .report import FailureReason, Refusal, one_line
from .tensorflow_operators import SAVER, why_refused

_LARGEST_BYTES = 2**31 - 1
_SERVED = "serving_default"
_INTERNAL = "__saved_model"
_PRINTED_TO = (b"stdout", b"stderr", b"log(info)", b"log(warning)", b"log(error)")


@dataclass(frozen=True, slots=True)
class SavedModelFacts:
    """What is to be served: the tags to load by, the signature's name and definition, and who wrote it."""

    tags: tuple[str, ...]
    signature_name: str
    signature: Any
    producer: str


def read_saved_model(content: bytes, *, files_allowed: bool) -> SavedModelFacts:
    """Parse `saved_model.pb` and check what may be refused without running it.

    Raises Refusal: NOT_TENSORFLOW, FORBIDDEN_OPERATOR, CUSTOM_OPERATOR, INVALID_MODEL, AMBIGUOUS_SIGNATURE.
    """
    model = saved_model_pb2.SavedModel()
    try:
        if len(content) > _LARGEST_BYTES:
            raise DecodeError
        model.ParseFromString(content)
    except DecodeError:
        model.Clear()
    if not model.meta_graphs:
        raise Refusal(
            FailureReason.NOT_TENSORFLOW,
            f"the {len(content):,} bytes of saved_model.pb hold no SavedModel: it is another format, or was cut short "
            "or damaged; export the model again (tf.saved_model.save, or model.export)",
        )
    for graph in model.meta_graphs:
        _check(graph, files_allowed=files_allowed)
    served = [graph for graph in model.meta_graphs if "serve" in graph.meta_info_def.tags] or list(model.meta_graphs)
    if len(served) != 1:
        raise Refusal(
            FailureReason.AMBIGUOUS_SIGNATURE, f"{len(served)} graphs could be served; export one, with the tag 'serve'"
        )
    (graph,) = served
    name = _signature_name(graph)
    return SavedModelFacts(
        tags=tuple(graph.meta_info_def.tags),
        signature_name=name,
        signature=graph.signature_def[name],
        producer=one_line(f"tensorflow {graph.meta_info_def.tensorflow_version}", 100),
    )


def _signature_name(graph: Any) -> str:
    names = sorted(str(name) for name in graph.signature_def if not name.startswith(_INTERNAL))
    if _SERVED in names:
        return _SERVED
    if len(names) == 1:
        return names[0]
    found = f"it has {shown(names)}" if names else "it has none"
    raise Refusal(
        FailureReason.AMBIGUOUS_SIGNATURE,
        f"a SavedModel is served by its signature {_SERVED!r}, or its only one; {found}; export it with "
        f"signatures={{{_SERVED!r}: …}}",
    )


def _check(graph: Any, *, files_allowed: bool) -> None:
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    saver = _Saver(graph, functions)
    for node in graph.graph_def.node:
        _check_node(node, functions, files_allowed=files_allowed, saving=saver.may_stand(node))
    for name, function in functions.items():
        for node in function.node_def:
            saving = name in saver.functions and _reads_argument(node, function)
            _check_node(node, functions, files_allowed=files_allowed, saving=saving)
    for asset in graph.asset_file_def:
        if any(part in ("", ".", "..") for part in asset.filename.split("/")) or "\\" in asset.filename:
            raise Refusal(
                FailureReason.INVALID_MODEL,
                f"the asset {_shown(asset.filename)} is no plain path within the model's assets; export it again",
            )


def _check_node(node: Any, functions: Mapping[str, Any], *, files_allowed: bool, saving: bool) -> None:
    if node.op in functions or (saving and node.op in SAVER):
        return
    definition = op_def_registry.get(node.op)
    if definition is None:
        raise Refusal(
            FailureReason.CUSTOM_OPERATOR,
            f"operator {_shown(node.op)} is none of TensorFlow's own, and needs a library that the server does not "
            "load; export the model with standard operators",
        )
    why = why_refused(node.op, stateful=definition.is_stateful, files_allowed=files_allowed)
    if not why and "output_stream" in node.attr and node.attr["output_stream"].s not in _PRINTED_TO:
        why = "writes to a file of the server"
    if why:
        advice = (
            "give a vocabulary as a list rather than as a file, or export the model without it"
            if node.op.startswith("InitializeTable")
            else "export the model without it"
        )
        raise Refusal(
            FailureReason.FORBIDDEN_OPERATOR,
            f"operator {_shown(node.op)} (at {_shown(node.name)}) {why}, which no served model may; {advice}",
        )


class _Saver:
    """The nodes and functions that only the saver comes to."""

    def __init__(self, graph: Any, functions: Mapping[str, Any]) -> None:
        nodes = {node.name: node for node in graph.graph_def.node}
        definition = graph.saver_def
        self._filename = _node_of(definition.filename_tensor_name)
        saving = _ancestors(nodes, (definition.save_tensor_name, definition.restore_op_name))
        self._nodes = saving - _ancestors(nodes, _served_tensors(graph))
        calls = {name: _called(function.node_def, functions) for name, function in functions.items()}
        # Called with the name that the saver is given, by the saver itself: a function in between could give another.
        told = {name for name in self._nodes if _source(nodes[name], 0) == self._filename}
        from_saver = _called((nodes[name] for name in told), functions)
        from_elsewhere = _called((node for name, node in nodes.items() if name not in told), functions)
        # What is exported can be called by whoever loads it, and what nothing calls may be exported in a way not seen.
        exported = set(graph.object_graph_def.concrete_functions) & functions.keys()
        inner = set().union(*calls.values())
        orphans = functions.keys() - inner - from_saver - from_elsewhere
        self.functions = from_saver - _closure(from_elsewhere | exported | orphans | inner, calls)

    def may_stand(self, node: Any) -> bool:
        """Whether a node of the main graph may save or restore: only by the name that the saver is given."""
        return node.name in self._nodes and (node.op != "RestoreV2" or _source(node, 0) == self._filename)


def _served_tensors(graph: Any) -> Iterator[str]:
    for signature in graph.signature_def.values():
        for each in (*signature.inputs.values(), *signature.outputs.values()):
            yield each.name
            yield from (each.coo_sparse.values_tensor_name, each.coo_sparse.indices_tensor_name)
            yield each.coo_sparse.dense_shape_tensor_name
            yield from (component.name for component in each.composite_tensor.components)
    for collection in graph.collection_def.values():
        yield from collection.node_list.value


def _ancestors(nodes: Mapping[str, Any], tensors: Iterable[str]) -> set[str]:
    waiting = [_node_of(tensor) for tensor in tensors]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in nodes and name not in found:
            found.add(name)
            waiting.extend(_node_of(tensor) for tensor in nodes[name].input)
    return found


def _called(nodes: Iterable[Any], functions: Mapping[str, Any]) -> set[str]:
    """Name the functions that these nodes call, as their operator or in an attribute."""
    found: set[str] = set()
    for node in nodes:
        found.add(node.op)
        for value in node.attr.values():
            found.add(value.func.name)
            found.update(each.name for each in value.list.func)
    return found & functions.keys()


def _closure(first: set[str], calls: Mapping[str, set[str]]) -> set[str]:
    waiting, found = list(first), set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(calls[name])
    return found


def _reads_argument(node: Any, function: Any) -> bool:
    """Whether a function's node restores, if it does, from a file that the function is told and does not choose."""
    arguments = {argument.name for argument in function.signature.input_arg}
    return node.op != "RestoreV2" or _source(node, 0) in arguments


def _source(node: Any, index: int) -> str:
    return _node_of(node.input[index]) if len(node.input) > index else ""


def _node_of(tensor: str) -> str:
    return tensor.lstrip("^").partition(":")[0]


def _shown(name: str) -> str:
    return repr(one_line(name, 200))

"""Where in a SavedModel the saver may stand that TensorFlow writes into it. Imported by the child process alone.

The saver writes and reads files, by a name that it is given: whoever loads a model runs `saver_def.restore_op_name`
with the name of its variables, and nobody but a trainer runs `save_tensor_name`. So what writes may stand only where
saving alone comes to, what reads only where restoring alone comes to, and both by no other name than the one given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.framework import variable_pb2

_READS = "RestoreV2"
# The input that names the file.
_DESTINATION = {"SaveV2": 0, "MergeV2Checkpoints": 1, _READS: 0}
# What has one output, which a loader puts the name of its file in the place of.
_FED = frozenset({"Placeholder", "PlaceholderWithDefault", "Const"})
# What hands its inputs to a function in their order, once.
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
# How the saver makes the names of a checkpoint's parts.
_NAMING = frozenset({"Const", "Identity", "Select", "ShardedFilename", "StaticRegexFullMatch", "StringJoin"})


class Saver:
    """The nodes and functions that only saving comes to, and those that only restoring comes to."""

    def __init__(self, graph: Any, functions: Mapping[str, Any]) -> None:
        self._graph_nodes = nodes = {node.name: node for node in graph.graph_def.node}
        self._functions = functions
        definition = graph.saver_def
        filename = nodes.get(_node_of(definition.filename_tensor_name))
        self._filename = filename.name if filename is not None and filename.op in _FED else ""
        run = _ancestors(nodes, _run_tensors(graph))
        restored = _ancestors(nodes, (definition.restore_op_name,))
        self._restoring = restored - run if self._filename else set()
        self._saving = _ancestors(nodes, (definition.save_tensor_name,)) - run - restored if self._filename else set()
        # What is exported can be called by whoever loads it, what nothing calls may be exported in a way not seen, and
        # a function in between could give another name.
        calls = {name: _called(function.node_def, functions) for name, function in functions.items()}
        inner = set().union(*calls.values())
        told = {name for name in self._saving | self._restoring if self._is_told(nodes[name])}
        elsewhere = _called((node for name, node in nodes.items() if name not in told), functions)
        exported = set(graph.object_graph_def.concrete_functions) & functions.keys()
        by_saving = _called((nodes[name] for name in told & self._saving), functions)
        by_restoring = _called((nodes[name] for name in told & self._restoring), functions)
        orphans = functions.keys() - inner - by_saving - by_restoring - elsewhere
        forbidden = _closure(elsewhere | exported | orphans | inner, calls)
        self._saving_functions = by_saving - forbidden - by_restoring
        self._restoring_functions = by_restoring - forbidden - by_saving

    def may_stand(self, node: Any) -> bool:
        """Whether a node of the main graph is the saver's own: it writes or reads, by the name that it is given."""
        saving, restoring = node.name in self._saving, node.name in self._restoring
        return _is_saver(node, self._graph_nodes, self._filename, saving=saving, restoring=restoring)

    def may_stand_in(self, function: str, node: Any) -> bool:
        """Whether a node of the function of this name is the saver's own, by the name that its caller was given."""
        saving, restoring = function in self._saving_functions, function in self._restoring_functions
        if not (node.op in _DESTINATION and (saving or restoring)):
            return False
        definition = self._functions[function]
        given = definition.signature.input_arg[0].name if definition.signature.input_arg else ""
        nodes = {each.name: each for each in definition.node_def}
        return given not in nodes and _is_saver(node, nodes, given, saving=saving, restoring=restoring)

    def _is_told(self, node: Any) -> bool:
        """Whether a node hands the saver's name to a function, as its first argument."""
        return (node.op in _CALLS or node.op in self._functions) and _source(node, 0) == self._filename


def _is_saver(node: Any, nodes: Mapping[str, Any], given: str, *, saving: bool, restoring: bool) -> bool:
    if not given or node.op not in _DESTINATION:
        return False
    destination = _source(node, _DESTINATION[node.op])
    if node.op == _READS:
        return restoring and destination == given
    return saving and (destination == given or (node.op == "SaveV2" and _derives(destination, nodes, given)))


def _derives(tensor: str, nodes: Mapping[str, Any], given: str) -> bool:
    """Whether a name is made of the one given and of constants."""
    waiting, seen = [tensor], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name == given:
            continue
        if name not in nodes or nodes[name].op not in _NAMING:
            return False
        waiting.extend(_node_of(each) for each in nodes[name].input)
    return given in seen


def _run_tensors(graph: Any) -> Iterator[str]:
    """Name what is run when the model is loaded or served: signatures, collections of nodes, variables' beginnings."""
    for signature in graph.signature_def.values():
        for each in (*signature.inputs.values(), *signature.outputs.values()):
            yield each.name
            yield from (each.coo_sparse.values_tensor_name, each.coo_sparse.indices_tensor_name)
            yield each.coo_sparse.dense_shape_tensor_name
            yield from (component.name for component in each.composite_tensor.components)
    for collection in graph.collection_def.values():
        yield from collection.node_list.value
        for content in collection.bytes_list.value:
            try:
                variable = variable_pb2.VariableDef.FromString(content)
            except DecodeError:  # it describes something else
                continue
            yield from (variable.initializer_name, variable.initial_value_name, variable.snapshot_name)


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
        found.update(functions_named(node.attr.values()))
    return found & functions.keys()


def functions_named(attributes: Iterable[Any]) -> Iterator[str]:
    """Name the functions in these attributes, and in the attributes that those are called with."""
    waiting = list(attributes)
    while waiting:
        value = waiting.pop()
        for each in (*value.list.func, *([value.func] if value.WhichOneof("value") == "func" else [])):
            yield each.name
            waiting.extend(each.attr.values())


def _closure(first: set[str], calls: Mapping[str, set[str]]) -> set[str]:
    waiting, found = list(first), set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(calls[name])
    return found


def _source(node: Any, index: int) -> str:
    return _node_of(node.input[index]) if len(node.input) > index else ""


def _node_of(tensor: str) -> str:
    return tensor.lstrip("^").partition(":")[0]

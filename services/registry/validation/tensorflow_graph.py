"""Reads a SavedModel's graph as data, before TensorFlow sees it. Imported by the child process alone.

Every node of the graphs and of their function libraries is looked at, and every function that they name must be in
that library. The saver that TensorFlow writes into each SavedModel reads and writes files; see `tensorflow_saver` on
where it is let be.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from .layout import shown
from .report import FailureReason, Refusal, one_line
from .tensorflow_operators import why_refused
from .tensorflow_saver import Saver, functions_named

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


def read_saved_model(content: bytes, *, files_allowed: bool, signature_name: str = "") -> SavedModelFacts:
    """Parse `saved_model.pb` and check what may be refused without running it.

    `signature_name` is the signature to be served; '' takes `serving_default`, or the only one.

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
    name = _signature_name(graph, signature_name)
    return SavedModelFacts(
        tags=tuple(graph.meta_info_def.tags),
        signature_name=name,
        signature=graph.signature_def[name],
        producer=one_line(f"tensorflow {graph.meta_info_def.tensorflow_version}", 100),
    )


def _signature_name(graph: Any, wanted: str) -> str:
    names = sorted(str(name) for name in graph.signature_def if not name.startswith(_INTERNAL))
    if wanted in names:
        return wanted
    if not wanted and _SERVED in names:
        return _SERVED
    if not wanted and len(names) == 1:
        return names[0]
    found = f"it has {shown(names)}" if names else "it has none"
    if wanted:
        message = f"the SavedModel has no signature {_shown(wanted)}, which the version's metadata asks for; {found}"
    else:
        message = (
            f"a SavedModel is served by its signature {_SERVED!r}, or its only one; {found}; name one in the version's "
            f"metadata (signature_name), or export it with signatures={{{_SERVED!r}: …}}"
        )
    raise Refusal(FailureReason.AMBIGUOUS_SIGNATURE, message)


def _check(graph: Any, *, files_allowed: bool) -> None:
    library = graph.graph_def.library.function
    functions = {function.signature.name: function for function in library}
    _check_names([each.signature.name for each in library], "function")
    _check_names([each.name for each in graph.graph_def.node], "node")
    for name in functions:
        if op_def_registry.get(name) is not None:
            raise _ambiguous(f"a function has the name of the operator {_shown(name)}")
    saver = Saver(graph, functions)
    for node in graph.graph_def.node:
        _check_node(node, functions.keys(), files_allowed=files_allowed, saving=saver.may_stand(node))
    for name, function in functions.items():
        for node in function.node_def:
            saving = saver.may_stand_in(name, node)
            _check_node(node, functions.keys(), files_allowed=files_allowed, saving=saving)
    for asset in graph.asset_file_def:
        if any(part in ("", ".", "..") for part in asset.filename.split("/")) or "\\" in asset.filename:
            raise Refusal(
                FailureReason.INVALID_MODEL,
                f"the asset {_shown(asset.filename)} is no plain path within the model's assets; export it again",
            )


def _check_names(names: list[str], kind: str) -> None:
    """Two of one name, of which one is read here, might be taken for each other where they are run."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _ambiguous(f"two of its {kind}s are called {_shown(name)}")
        seen.add(name)


def _ambiguous(what: str) -> Refusal:
    return Refusal(FailureReason.INVALID_MODEL, f"the graph cannot be told apart: {what}; export the model again")


def _check_node(node: Any, functions: Set[str], *, files_allowed: bool, saving: bool) -> None:
    # TensorFlow makes a node of what a call names: an operator, where there is no function of that name.
    unknown = sorted(set(functions_named(node.attr.values())) - functions)
    if unknown:
        raise Refusal(
            FailureReason.FORBIDDEN_OPERATOR,
            f"operator {_shown(node.op)} (at {_shown(node.name)}) calls {_shown(unknown[0])}, which is no function of "
            "the model's own; export the model again",
        )
    if node.op in functions or saving:
        return
    definition = op_def_registry.get(node.op)
    if definition is None:
        raise Refusal(
            FailureReason.CUSTOM_OPERATOR,
            f"operator {_shown(node.op)} is none of TensorFlow's own, and needs a library that the server does not "
            "load; export the model with standard operators",
        )
    why = why_refused(node.op, files_allowed=files_allowed)
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


def _shown(name: str) -> str:
    return repr(one_line(name, 200))

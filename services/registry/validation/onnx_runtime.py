"""Opens an ONNX graph as the inference service will, reads its signature and runs it. Imported by the child alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

# The official builds since 1.29 collect telemetry, in a database in the home folder, unless this stands at import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

from services.common.onnx_outputs import DATATYPES, NotATensor, as_tensor, composite_type

from .report import FailureReason, Refusal, Signature, TensorSpec, checked_name, one_line, out_of_memory
from .trial import Array, NotRunnable

_READ_LENGTH, _SENTENCE_LENGTH = 2_000, 500
# "[ONNXRuntimeError] : 10 : INVALID_GRAPH : " says nothing that the reason does not.
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
# "/onnxruntime_src/…/model.cc:340 onnxruntime::Model::Model(onnx::ModelProto&&, …)": where it was compiled.
_SOURCE = re.compile(
    r"(?:/[\w.+-]+)+\.(?:cc|cpp|h|hpp|py):\d+(?:[\w:<>~*& ]+\([^()]*\)(?: const)?(?:::<lambda\([^()]*\)>)?)?"
)
# "[with T = long int]" follows a place in the source.
_TEMPLATE = re.compile(r"\[with [^\]]*\]\s*")


class OnnxModel:
    """An ONNX graph in memory, on one thread and without optimising more than serving does.

    `data` holds the files that keep its tensors, by the names that the graph has for them.
    """

    def __init__(self, content: bytes, data: Mapping[str, memoryview]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is in the report; a trial may fail a few times on its way
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if data:
            # From memory: no file can be opened any more.
            options.add_external_initializers_from_files_in_memory(
                list(data), list(data.values()), [len(each) for each in data.values()]
            )
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  # the binding's classes have no public base below it
            if _exhausted(error):
                raise out_of_memory(_sentence(error)) from None
            message = f"ONNX Runtime {onnxruntime.__version__} cannot load the model: {_sentence(error)}"
            raise Refusal(FailureReason.INVALID_MODEL, message) from None
        self.signature = _read_signature(self._session)

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Give every output for these inputs; raises NotRunnable with the runtime's sentence."""
        outputs = self.signature.outputs
        try:
            answers = self._session.run([spec.name for spec in outputs], feeds)
        except Exception as error:
            raise NotRunnable(_sentence(error), exhausted=_exhausted(error)) from error
        try:
            tensors = [as_tensor(answer, spec.datatype) for answer, spec in zip(answers, outputs, strict=True)]
        except NotATensor as error:
            raise NotRunnable(f"an output is no tensor: {error}") from error
        return {spec.name: tensor for spec, tensor in zip(outputs, tensors, strict=True)}


def _exhausted(error: Exception) -> bool:
    return isinstance(error, MemoryError) or bool(re.search(r"bad_alloc|Failed to allocate memory", str(error)))


def _read_signature(session: Any) -> Signature:
    """Read the inputs and outputs as the runtime names them; raises Refusal where one cannot be served as a tensor."""
    return Signature(
        inputs=tuple(_spec(node, "input", FailureReason.UNSUPPORTED_INPUT_TYPE) for node in session.get_inputs()),
        outputs=tuple(_spec(node, "output", FailureReason.UNSUPPORTED_OUTPUT_TYPE) for node in session.get_outputs()),
    )


def _spec(node: Any, kind: str, reason: FailureReason) -> TensorSpec:
    name = checked_name(node.name, kind)
    # A symbolic dimension comes as its name, an unknown one as None.
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    datatype = DATATYPES.get(node.type)
    if datatype is None and kind == "output" and (composite := composite_type(node.type)):
        datatype, shape = composite
    if datatype is None:
        raise Refusal(reason, f"{kind} {node.name!r} is a {node.type}, {_advice(node.type, kind)}")
    return TensorSpec(name, datatype, shape)


def _advice(declared: str, kind: str) -> str:
    if kind == "input" and declared.startswith(("map(", "seq(")):
        return (
            "and requests carry tensors only; give the model a tensor with a column a key in its place "
            "(scikit-learn: leave DictVectorizer out and register the columns' names)"
        )
    return f"which cannot be served; cast it to one of {', '.join(DATATYPES.values())} inside the model"


def _sentence(error: Exception) -> str:
    """Say `error` in one bounded printable line, without status prefixes and places in the runtime's source."""
    text = _TEMPLATE.sub("", _SOURCE.sub("", _STATUS.sub("", str(error)[:_READ_LENGTH])))
    return one_line(text, _SENTENCE_LENGTH) or type(error).__name__

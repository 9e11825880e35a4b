"""Opens an ONNX model as the inference service will, and reads its signature. Imported by the child alone."""

from __future__ import annotations

import os
import re
from typing import Any

# The official builds since 1.29 collect telemetry, in a database in the home folder, unless this stands at import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

from .report import FailureReason, Refusal, Signature, TensorSpec, one_line

# ONNX Runtime's names of element types → the Open Inference Protocol's.
DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_READ_LENGTH, _SENTENCE_LENGTH, _NAME_LENGTH = 2_000, 500, 250
# "[ONNXRuntimeError] : 10 : INVALID_GRAPH : " says nothing that the reason does not.
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
# "/onnxruntime_src/…/model.cc:340 onnxruntime::Model::Model(onnx::ModelProto&&, …)": where it was compiled.
_SOURCE = re.compile(
    r"(?:/[\w.+-]+)+\.(?:cc|cpp|h|hpp|py):\d+(?:[\w:<>~*& ]+\([^()]*\)(?: const)?(?:::<lambda\([^()]*\)>)?)?"
)
# "[with T = long int]" follows a place in the source.
_TEMPLATE = re.compile(r"\[with [^\]]*\]\s*")


def open_session(content: bytes) -> Any:
    """Load `content` on one thread and without optimising more than serving does; raises Refusal(INVALID_MODEL)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is in the report; a trial may fail a few times on its way
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # the binding's classes have no public base below it
        refuse_exhaustion(error)
        message = f"ONNX Runtime {onnxruntime.__version__} cannot load the model: {sentence(error)}"
        raise Refusal(FailureReason.INVALID_MODEL, message) from None


def refuse_exhaustion(error: Exception) -> None:
    """Raise Refusal(VALIDATOR_OUT_OF_MEMORY) where `error` is the runtime's failure to allocate."""
    if isinstance(error, MemoryError) or re.search(r"bad_alloc|Failed to allocate memory", str(error)):
        message = (
            "the model asked for more memory than validation allows (the limit grows with the file's size): "
            f"{sentence(error)}"
        )
        raise Refusal(FailureReason.VALIDATOR_OUT_OF_MEMORY, message) from None


def read_signature(session: Any) -> Signature:
    """Read the inputs and outputs as the runtime names them; raises Refusal where one is no dense tensor."""
    return Signature(
        inputs=tuple(_spec(node, "input", FailureReason.UNSUPPORTED_INPUT_TYPE) for node in session.get_inputs()),
        outputs=tuple(_spec(node, "output", FailureReason.UNSUPPORTED_OUTPUT_TYPE) for node in session.get_outputs()),
    )


def _spec(node: Any, kind: str, reason: FailureReason) -> TensorSpec:
    if one_line(node.name, _NAME_LENGTH) != node.name:
        raise Refusal(
            FailureReason.INVALID_MODEL,
            f"the name {one_line(node.name, _NAME_LENGTH)!r} of an {kind} is longer than {_NAME_LENGTH} characters or "
            "holds control characters; rename it",
        )
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        advice = (
            "convert the model with zipmap=False (skl2onnx: options={'zipmap': False})"
            if "map(" in node.type
            else f"cast it to one of {', '.join(DATATYPES.values())} inside the model"
        )
        raise Refusal(reason, f"{kind} {node.name!r} is a {node.type}, and only tensors can be served; {advice}")
    # A symbolic dimension comes as its name, an unknown one as None.
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, datatype, shape)


def sentence(error: Exception) -> str:
    """Say `error` in one bounded printable line, without status prefixes and places in the runtime's source."""
    text = _TEMPLATE.sub("", _SOURCE.sub("", _STATUS.sub("", str(error)[:_READ_LENGTH])))
    return one_line(text, _SENTENCE_LENGTH) or type(error).__name__

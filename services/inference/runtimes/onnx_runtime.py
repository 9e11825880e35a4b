"""ONNX models, run by ONNX Runtime."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Since 1.29 it reports to its makers over the network, from the moment it is imported, unless told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from services.common.errors import DomainError, FailedPrecondition, InvalidArgument
from services.inference.models import ANY, ModelFailed, Signature, TensorSpec
from services.inference.runtimes.cpus import cpu_count
from services.inference.runtimes.runtime import Artifact
from services.inference.tensors import Tensor

log = logging.getLogger(__name__)

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
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
# ONNX Runtime's exceptions share no base but Exception.
ERRORS: tuple[type[Exception], ...] = tuple(
    value for value in vars(ort_state).values() if isinstance(value, type) and issubclass(value, Exception)
)
# What else the binding raises: an array that it cannot read, no memory, an exception thrown in C++.
RUN_ERRORS: tuple[type[Exception], ...] = (*ERRORS, RuntimeError, ValueError, TypeError, MemoryError)
# Where the one graph of several is, in this order. The registry's validator follows the same rule (its `layout`).
PREFERRED_GRAPHS = ("model.onnx", "onnx/model.onnx")
MAX_SHOWN_FILES = 8
FATAL_ONLY = 4
MAX_SENTENCE_CHARS = 500


class OnnxRuntime:
    """Opens ONNX models on the CPU.

    `intra_op_threads` 0 means all processors of this process. Threads never spin: a spinning thread burns the
    core that the other requests need. The memory arena keeps what it once took, which makes runs faster and
    sessions bigger; without it every run allocates anew.
    """

    def __init__(self, *, intra_op_threads: int = 0, memory_arena: bool = True) -> None:
        self._threads = intra_op_threads
        self._memory_arena = memory_arena

    def load(self, artifact: Artifact) -> OnnxSession:
        """Open the artifact's graph, with its data beside it; raises FailedPrecondition(MODEL_LOAD_FAILED)."""
        path = _model_path(artifact)
        try:
            session = onnxruntime.InferenceSession(str(path), self._options(), providers=["CPUExecutionProvider"])
        except ERRORS as error:
            log.warning("onnx runtime refused %s: %s", artifact.version.key, error)
            sentence = f"ONNX Runtime cannot open the model: {_sentence(error, path)}"
            raise FailedPrecondition(sentence, reason="MODEL_LOAD_FAILED") from error
        return OnnxSession(session, artifact.version.size_bytes)

    def _options(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads or cpu_count()
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = self._memory_arena
        # Whatever it would print comes back as an exception, and a bad request must not write to our stderr.
        options.log_severity_level = FATAL_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        return options


class OnnxSession:
    """One open ONNX model. Only tensors are served: an output that is a sequence or a map is left out."""

    def __init__(self, session: Any, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.signature = _signature(session)
        self._session = session
        self._all_outputs = [spec.name for spec in self.signature.outputs]
        self._strings = frozenset(spec.name for spec in self.signature.inputs if spec.datatype == "BYTES")
        # The runs under way and when they began. Each step on it is one atomic dict operation: no lock needed.
        self._runs: dict[int, tuple[Any, float]] = {}

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = ()) -> dict[str, Tensor]:
        """Run the model once; see `runtime.Session.run`."""
        names = outputs or self._all_outputs
        feed = self._decoded(inputs) if self._strings else inputs
        # New for each run (0.4 µs): were they kept, a late `terminate` could hit the next run instead.
        options = onnxruntime.RunOptions()
        run_id = id(options)
        self._runs[run_id] = (options, time.monotonic())
        try:
            answers = self._session.run(names, feed, options)
        except RUN_ERRORS as error:
            raise _translated(error, terminated=options.terminate) from error
        finally:
            del self._runs[run_id]
        return dict(zip(names, answers, strict=True))

    def terminate(self, *, longer_than_s: float = 0.0) -> int:
        """End long runs; see `runtime.Session.terminate`."""
        before = time.monotonic() - longer_than_s
        late = [options for options, began in list(self._runs.values()) if began <= before]
        for options in late:
            options.terminate = True
        return len(late)

    def close(self) -> None:
        """Drop the session: its memory goes with the last reference."""
        self._session = None

    def _decoded(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn BYTES into text: ONNX strings are UTF-8, and the binding would write `b'…'` for bytes."""
        return {name: _text(name, tensor) if name in self._strings else tensor for name, tensor in inputs.items()}


def _text(name: str, tensor: Tensor) -> Tensor:
    text = np.empty(tensor.size, dtype=object)
    for index, element in enumerate(tensor.ravel().tolist()):
        try:
            text[index] = element.decode() if isinstance(element, bytes) else str(element)
        except UnicodeDecodeError as error:
            sentence = f"element {index} is not UTF-8: {error.reason} at byte {error.start}"
            raise InvalidArgument.field(name, sentence, reason="INVALID_UTF8") from error
    return text.reshape(tensor.shape)


def _translated(error: Exception, *, terminated: bool) -> DomainError:
    """Map the runtime's error once and for all: the input's fault, or the model's."""
    if terminated:
        return ModelFailed("the run took too long and was ended", reason="RUN_TERMINATED")
    if isinstance(error, ort_state.InvalidArgument):
        return InvalidArgument(f"the model refuses this input: {_sentence(error)}", reason="INPUT_REFUSED")
    return ModelFailed(f"the model failed: {_sentence(error)}")


def _sentence(error: Exception, path: Path | None = None) -> str:
    """What the runtime said, without its codes, its source files and our folders."""
    text = str(error)
    if path is not None:
        text = text.replace(str(path), path.name)
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S*/\S+\.(?:cc|h|cpp):\d+ ", "", text)
    return " ".join(text.split())[:MAX_SENTENCE_CHARS]


def _model_path(artifact: Artifact) -> Path:
    """Choose the graph: the only `.onnx` file, else `model.onnx`, else `onnx/model.onnx`, as the validator did.

    Data that the graph keeps in files beside it, ONNX Runtime finds there by itself.
    """
    graphs = sorted(file.path for file in artifact.version.files if file.path.lower().endswith(".onnx"))
    for preferred in graphs if len(graphs) == 1 else PREFERRED_GRAPHS:
        if preferred in graphs:
            return artifact.folder / preferred
    sentence = (
        "a version with an ONNX graph holds one .onnx file, or several of which one is model.onnx or "
        f"onnx/model.onnx; this one holds {', '.join(graphs[:MAX_SHOWN_FILES]) or 'none'}"
    )
    raise FailedPrecondition(sentence, reason="MODEL_LOAD_FAILED")


def _signature(session: Any) -> Signature:
    """Read names, types and shapes; raises FailedPrecondition for an input type that cannot be served."""
    inputs = tuple(_spec(node) for node in session.get_inputs())
    outputs = tuple(_spec(node) for node in session.get_outputs() if node.type.startswith("tensor("))
    return Signature(inputs, outputs)


def _spec(node: Any) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        sentence = f"{node.name!r} is {node.type}, which is not served; export the model with another type"
        raise FailedPrecondition(sentence, reason="UNSUPPORTED_DATATYPE")
    shape = tuple(size if isinstance(size, int) and size >= 0 else ANY for size in node.shape)
    return TensorSpec(node.name, datatype, shape)

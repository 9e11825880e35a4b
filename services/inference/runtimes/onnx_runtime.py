"""ONNX models, run by ONNX Runtime."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Since 1.29 it reports to its makers over the network, from the moment it is imported, unless told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from services.common.cpus import cpu_count
from services.common.errors import DomainError, FailedPrecondition, InvalidArgument
from services.inference.models import ModelFailed, ResolvedVersion
from services.inference.runtimes.onnx_graphs import OptimisedGraphs, key_of
from services.inference.runtimes.onnx_providers import CPU, check_in_use, chosen_providers
from services.inference.runtimes.onnx_types import Call, call_of, composites_of, feed_of, laid_out, signature_of
from services.inference.runtimes.runtime import Artifact
from services.inference.sessions.memory import trim_memory
from services.inference.tensors import Tensor

log = logging.getLogger(__name__)

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
    """Opens ONNX models.

    `intra_op_threads` 0 means all processors of this process. Threads never spin: a spinning thread burns the
    core that the other requests need. The memory arena keeps what it once took, which makes runs faster and
    sessions bigger; without it every run allocates anew. `execution_providers` names what computes, as
    `onnx_providers` reads it. `graphs` keeps what was optimised, for the CPU alone: what other providers make of
    a graph is theirs to keep.

    Raises FailedPrecondition where an execution provider is asked for that this build lacks.
    """

    def __init__(
        self,
        *,
        intra_op_threads: int = 0,
        memory_arena: bool = True,
        execution_providers: str = "cpu",
        graphs: OptimisedGraphs | None = None,
    ) -> None:
        self._threads = intra_op_threads
        self._memory_arena = memory_arena
        self._providers = chosen_providers(execution_providers, onnxruntime.get_available_providers())
        self._graphs = graphs if [name for name, _ in self._providers] == [CPU] else None

    def load(self, artifact: Artifact) -> OnnxSession:
        """Open the artifact's graph, with its data beside it; raises FailedPrecondition(MODEL_LOAD_FAILED)."""
        path = _model_path(artifact)
        version = artifact.version
        try:
            session = self._kept_session(path, version) or self._session(path, self._options())
        except RUN_ERRORS as error:
            log.warning("onnx runtime refused %s: %s", version.key, error)
            sentence = f"ONNX Runtime cannot open the model: {_sentence(error, path)}"
            raise FailedPrecondition(sentence, reason="MODEL_LOAD_FAILED") from error
        return OnnxSession(session, version.size_bytes)

    def _kept_session(self, path: Path, version: ResolvedVersion) -> Any:
        """Open the graph as it was optimised before, or keep it now; None where neither can be."""
        if self._graphs is None:
            return None
        key = key_of(version.digest, path.name, onnxruntime.__version__, repr(self._providers))
        kept = self._graphs.find(key)
        if kept is not None:
            options = self._options()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            try:
                return self._session(kept, options)
            except ERRORS as error:
                log.warning("the optimised graph of %s does not open, and is made anew: %s", version.key, error)
                self._graphs.drop(kept)
        if not self._graphs.may_keep(key, path):
            return None
        with self._graphs.writing(key, path) as written:
            options = self._options()
            options.optimized_model_filepath = str(written)
            try:
                session = self._session(path, options)
            except ERRORS:  # perhaps it is the writing that failed; without it we shall see
                return None
        trim_memory()  # what the writing took, or it would be taken for the session's
        return session

    def _session(self, path: Path, options: Any) -> Any:
        # Without the binding's own fallback, which prints, and opens the model on another provider than was asked for.
        session = onnxruntime.InferenceSession(str(path), options, providers=self._providers, enable_fallback=0)
        check_in_use(session, self._providers)
        return session

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
    """One open ONNX model. Sequences and maps come out as tensors, by the rules of `onnx_outputs`."""

    def __init__(self, session: Any, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.signature = signature_of(session)
        self._call: Call | None = call_of(session, self.signature)
        self._feed = feed_of(self.signature)
        self._composites = composites_of(session)
        self._all_outputs = [spec.name for spec in self.signature.outputs]
        # The runs under way and when they began. Each step on it is one atomic dict operation: no lock needed.
        self._runs: dict[int, tuple[Any, float]] = {}

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = ()) -> dict[str, Tensor]:
        """Run the model once; see `runtime.Session.run`."""
        call = self._call
        if call is None:
            raise ModelFailed("the model was closed before the run began", reason="SESSION_CLOSED")
        names = outputs or self._all_outputs
        feed = inputs if self._feed is None else self._feed(inputs)
        # New for each run (0.4 µs): were they kept, a late `terminate` could hit the next run instead.
        options = onnxruntime.RunOptions()
        run_id = id(options)
        self._runs[run_id] = (options, time.monotonic())
        try:
            answers = call(names, feed, options)
        except RUN_ERRORS as error:
            raise _translated(error, terminated=options.terminate) from error
        finally:
            del self._runs[run_id]
        tensors = dict(zip(names, answers, strict=True))
        for name, datatype in self._composites.items():
            if name in tensors:
                tensors[name] = laid_out(name, tensors[name], datatype)
        return tensors

    def terminate(self, *, longer_than_s: float = 0.0) -> int:
        """End long runs; see `runtime.Session.terminate`."""
        before = time.monotonic() - longer_than_s
        late = [options for options, began in list(self._runs.values()) if began <= before]
        for options in late:
            options.terminate = True
        return len(late)

    def close(self) -> None:
        """Drop the session: its memory goes with the last reference."""
        self._call = None


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

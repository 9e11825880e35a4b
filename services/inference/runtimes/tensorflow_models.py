"""Opens and runs models of TensorFlow. Importing this file imports TensorFlow: only `tensorflow_runtime` does so."""

from __future__ import annotations

import gc
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from services.common.errors import DomainError, FailedPrecondition, InvalidArgument
from services.inference.models import ANY, ModelFailed, Signature, TensorSpec
from services.inference.runtimes.runtime import Artifact
from services.inference.tensors import Tensor

log = logging.getLogger(__name__)

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
SERVED = "serving_default"
_INTERNAL = "__saved_model"
MAX_SENTENCE_CHARS = 500
# What a run or a load raises: TensorFlow's own, and what its Python and Keras's make of arguments that do not fit.
ERRORS: tuple[type[Exception], ...] = (
    tf.errors.OpError,
    ValueError,
    TypeError,
    RuntimeError,
    MemoryError,
    KeyError,
    AttributeError,
    OSError,
)
# Where in the source of whom an error came from, and the folders of this server.
_NOISE = re.compile(r"(?m)^(?:Graph execution error:|Detected at .*|  File .*|<.*>|Stack trace.*|\s+\^+)$")
_PLACE = re.compile(r"(?:/[\w.+-]+){2,}")

Call = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def configure(threads: int) -> None:
    """Settle what can be settled only before TensorFlow's first operation: threads, and no more of a GPU than needed.

    Where something has run already, in a test for one, what was settled then stays.
    """
    with suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        for device in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model in memory, what it takes and gives, its inputs' dtypes, and the bytes of its variables."""

    call: Call
    signature: Signature
    dtypes: Mapping[str, Any]
    variables_bytes: int


def load(artifact: Artifact, signature_name: str) -> TensorFlowSession:
    """Open a version's SavedModel or `.keras` file; see `TensorFlowRuntime.load`."""
    paths = sorted(file.path for file in artifact.version.files)
    try:
        folder = _saved_model_folder(paths)
        if folder is not None:
            opened = _open_saved_model(artifact.folder / folder, signature_name)
        else:
            opened = _open_keras(artifact.folder / _archive(paths))
    except ERRORS as error:
        log.warning("tensorflow refused %s: %s", artifact.version.key, error)
        sentence = f"TensorFlow {tf.__version__} cannot open the model: {_sentence(error)}"
        raise FailedPrecondition(sentence, reason="MODEL_LOAD_FAILED") from error
    return TensorFlowSession(opened, max(opened.variables_bytes, artifact.version.size_bytes))


class TensorFlowSession:
    """One open model. TensorFlow cannot end a run from outside: one that hangs goes with its process."""

    def __init__(self, opened: _Opened, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.signature = opened.signature
        self._opened: _Opened | None = opened
        # The runs under way and when they began. Each step on it is one atomic dict operation: no lock needed.
        self._runs: dict[object, float] = {}
        self._told: set[object] = set()

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = ()) -> dict[str, Tensor]:
        """Run the model once; see `runtime.Session.run`."""
        opened = self._opened
        if opened is None:
            raise ModelFailed("the model was closed before the run began", reason="SESSION_CLOSED")
        run = object()
        self._runs[run] = time.monotonic()
        try:
            feed = {name: tf.constant(tensor, opened.dtypes[name]) for name, tensor in inputs.items()}
            answers = opened.call(feed)
            names = outputs or [spec.name for spec in self.signature.outputs]
            return {name: np.asarray(answers[name].numpy()) for name in names}
        except ERRORS as error:
            raise _translated(error) from error
        finally:
            del self._runs[run]
            self._told.discard(run)

    def terminate(self, *, longer_than_s: float = 0.0) -> int:
        """End nothing, and say once of each long run that it cannot be ended; see `runtime.Session.terminate`."""
        before = time.monotonic() - longer_than_s
        late = [run for run, began in list(self._runs.items()) if began <= before]
        for run in set(late) - self._told:
            self._told.add(run)
            log.error("a run of TensorFlow goes on for over %g s; it ends with its process only", longer_than_s)
        return len(late)

    def close(self) -> None:
        """Let go of the model: its memory comes back, that of TensorFlow itself goes with the process only."""
        self._opened = None
        # Functions and what they captured refer to each other. That is enough: Keras's `clear_session` would free
        # nothing more, and reset the names and settings of a model that another thread is loading.
        gc.collect()


def _saved_model_folder(paths: Sequence[str]) -> str | None:
    """Find a SavedModel as the registry's validator does: on top, or in the one top folder."""
    if "saved_model.pb" in paths:
        return ""
    tops = {path.partition("/")[0] for path in paths}
    top = next(iter(tops)) if len(tops) == 1 else None
    return top if top is not None and f"{top}/saved_model.pb" in paths else None


def _archive(paths: Sequence[str]) -> str:
    archives = [path for path in paths if path.lower().endswith(".keras")]
    if len(archives) != 1:
        sentence = f"a version of TensorFlow holds one SavedModel or one .keras file; this one holds {len(archives)}"
        raise FailedPrecondition(sentence, reason="MODEL_LOAD_FAILED")
    return archives[0]


def _open_saved_model(folder: Path, signature_name: str) -> _Opened:
    described = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graphs = list(described.meta_graphs)
    graph = next((each for each in graphs if "serve" in each.meta_info_def.tags), graphs[0])
    name = _chosen([each for each in graph.signature_def if not each.startswith(_INTERNAL)], signature_name)
    definition = graph.signature_def[name]
    model = tf.saved_model.load(str(folder), tags=list(graph.meta_info_def.tags))
    function = model.signatures[name]
    signature = Signature(
        # The file keeps them in no order of its own.
        tuple(_saved_spec(each, definition.inputs[each]) for each in sorted(definition.inputs)),
        tuple(_saved_spec(each, definition.outputs[each]) for each in sorted(definition.outputs)),
    )

    def call(feed: Mapping[str, Any], _held: Any = model) -> Mapping[str, Any]:  # its variables go with it
        answers: Mapping[str, Any] = function(**feed)
        return answers

    dtypes = {each: info.dtype for each, info in definition.inputs.items()}
    return _Opened(call, signature, dtypes, _bytes_of(function.captured_inputs))


def _chosen(names: Sequence[str], wanted: str) -> str:
    """Choose the signature: the one that is wanted, else `serving_default`, else the only one."""
    name = wanted or (SERVED if SERVED in names or len(names) != 1 else names[0])
    if name in names:
        return name
    sentence = f"the SavedModel has no signature {name!r}; it has {', '.join(sorted(names)) or 'none'}"
    raise FailedPrecondition(sentence, reason="SIGNATURE_NOT_FOUND")


def _saved_spec(name: str, info: Any) -> TensorSpec:
    shape = tuple(dimension.size if dimension.size >= 0 else ANY for dimension in info.tensor_shape.dim)
    return _spec(name, tf.dtypes.as_dtype(info.dtype).name, shape)


def _spec(name: str, dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    datatype = DATATYPES.get(dtype)
    if datatype is None:
        sentence = f"{name!r} is a tensor of {dtype}, which is not served; cast it inside the model"
        raise FailedPrecondition(sentence, reason="UNSUPPORTED_DATATYPE")
    return TensorSpec(name, datatype, shape)


def _open_keras(path: Path) -> _Opened:
    model = keras.saving.load_model(str(path), compile=False, safe_mode=True)
    network = getattr(model, "_functional", None) or model
    inputs = _named(network._inputs_struct, [each.name for each in network.inputs])
    outputs = _named(network._outputs_struct, network.output_names)
    nested = isinstance(network._inputs_struct, (dict, list, tuple))

    def predict(feed: Mapping[str, Any]) -> dict[str, Any]:
        listed = list(feed.values()) if nested else next(iter(feed.values()))
        answers = model(dict(feed) if isinstance(network._inputs_struct, dict) else listed, training=False)
        return _named(answers, list(outputs))

    # Traced once, here: an eager call of each layer takes milliseconds.
    specs = {name: tf.TensorSpec(each.shape, each.dtype, name=name) for name, each in inputs.items()}
    concrete = tf.function(predict).get_concrete_function(specs)
    signature = Signature(
        tuple(_keras_spec(name, each) for name, each in inputs.items()),
        tuple(_keras_spec(name, each) for name, each in outputs.items()),
    )

    def call(feed: Mapping[str, Any], _held: Any = model) -> Mapping[str, Any]:
        answers: Mapping[str, Any] = concrete({name: feed[name] for name in specs})
        return answers

    dtypes = {name: spec.dtype for name, spec in specs.items()}
    return _Opened(call, signature, dtypes, _bytes_of(model.variables))


def _named(structure: Any, names: Sequence[str]) -> dict[str, Any]:
    """Give a network's tensors by name: those of a dictionary by its keys, others by `names` in their order."""
    if isinstance(structure, dict):
        return dict(structure)
    listed = list(structure) if isinstance(structure, (list, tuple)) else [structure]
    return dict(zip(names, listed, strict=True))


def _keras_spec(name: str, tensor: Any) -> TensorSpec:
    return _spec(name, str(tensor.dtype), tuple(ANY if size is None else int(size) for size in tensor.shape))


def _bytes_of(variables: Sequence[Any]) -> int:
    """Add up what variables take; those that are handles of others have no size that could be known."""
    sizes = [(tf.dtypes.as_dtype(each.dtype), each.shape) for each in variables]
    return sum(dtype.size * int(np.prod(shape)) for dtype, shape in sizes if dtype.is_numpy_compatible)


def _translated(error: Exception) -> DomainError:
    """Map the runtime's error once and for all: the input's fault, or the model's."""
    if isinstance(error, tf.errors.InvalidArgumentError):
        return InvalidArgument(f"the model refuses this input: {_sentence(error)}", reason="INPUT_REFUSED")
    return ModelFailed(f"the model failed: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    """Say `error` in one bounded line, without places in the source or on the server."""
    text = getattr(error, "message", None) or str(error)
    text = _PLACE.sub("…", _NOISE.sub("", str(text)[:4_000]))
    return " ".join(text.split())[:MAX_SENTENCE_CHARS] or type(error).__name__
